"""ConvLSTM as automan000/Convolutional_LSTM_PyTorch has it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trajgru_ext.nn._as_built import ByWeights, all_hooked, change, kind_of
from trajgru_ext.nn._by_modules import call, wide_enough
from trajgru_ext.nn._recurrent import (
    any_tensor,
    as_integer,
    check_given,
    check_inputs,
    check_odd,
    check_positive,
    own,
)
from trajgru_ext.ops._gates import one_sum
from trajgru_ext.ops.conv_lstm import conv_lstm
from trajgru_ext.ops.lstm_gates import lstm_gates

_GATES = "ifco"  # c is the candidate
_PEEPHOLES = ("Wci", "Wcf", "Wco")
_ORDER = "ifgo"  # which is g elsewhere


class ConvLSTMCell(ByWeights):
    """One step; the parameters are a convolution a gate of the input and of the state.

    Args:
        input_channels: of the inputs.
        hidden_channels: of the states; any number, where the original takes even ones.
        kernel_size: of all convolutions, odd.

    The original makes its peepholes, of 0, in its first forward pass, for images of one
    size from then on: parameters `Wci`, `Wcf` and `Wco` `[1, F, H, W]` on a CPU, and on
    a GPU tensors that are not in its checkpoints and stay 0. Here there are none, with
    the same result, until a checkpoint is loaded that has them; to a cell that has them
    they are 0 where a checkpoint does not. `recompute`, "none" or "gates", is that of
    `conv_lstm`.

    Examples:
        >>> import torch
        >>> from trajgru_ext.compat.convolutional_lstm_pytorch import ConvLSTMCell
        >>> cell, zero = ConvLSTMCell(3, 8, 3), torch.zeros(2, 8, 16, 16)
        >>> h, c = cell(torch.randn(2, 3, 16, 16), zero, zero)

    """

    recompute = "none"
    Wci: Tensor | None
    Wcf: Tensor | None
    Wco: Tensor | None

    def __init__(
        self, input_channels: int, hidden_channels: int, kernel_size: int
    ) -> None:
        super().__init__()
        kind = type(self).__name__
        input_channels, hidden_channels = check_positive(
            kind, input_channels=input_channels, hidden_channels=hidden_channels
        )
        (kernel_size,) = check_odd(kind, kernel_size=kernel_size)
        self.input_channels = input_channels
        self.hidden_channels = hidden_channels
        self.kernel_size = kernel_size
        self.num_features = len(_GATES)
        self.padding = (kernel_size - 1) // 2
        sizes = hidden_channels, kernel_size, 1, self.padding
        for gate in _GATES:
            of_h = nn.Conv2d(hidden_channels, *sizes, bias=False)
            self.add_module(f"Wx{gate}", nn.Conv2d(input_channels, *sizes))
            self.add_module(f"Wh{gate}", of_h)
        for name in _PEEPHOLES:
            self.register_parameter(name, None)
        self._remember()

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """From the input and the states, all `[B, channels, H, W]`, the new (h, c).

        Raises:
            TypeError, ValueError: as `trajgru_ext.conv_lstm`.

        """
        kind = type(self).__name__
        check_given(kind, x=x, h=h, c=c)
        by_modules, channels = self._change() is not None, self.input_channels
        check_inputs(
            kind, "x", x, channels, by_modules, any_tensor(self), "[B, C, H, W]"
        )
        if by_modules:
            return self._call_modules(x, h, c)
        outputs, c = self.sequence(x[None], h, c)
        return own(outputs[0]), c

    def sequence(
        self, inputs: Tensor, h: Tensor | None, c: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Run over `[T, B, C, H, W]`: the states h after every step, and the last c.

        By weights, whatever became of the modules.
        """

        def joined(name: str, kind: str) -> Tensor:
            convs = [getattr(self, f"{name}{gate}") for gate in _GATES]
            return torch.cat([getattr(conv, kind) for conv in convs])

        return conv_lstm(
            inputs,
            h,
            c,
            joined("Wx", "weight"),
            joined("Wh", "weight"),
            joined("Wx", "bias"),
            peephole=self._peephole(),
            order=_ORDER,
            recompute=self.recompute,
        )

    def _call_modules(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Take a step by calling the convolutions as they are."""

        def joined(name: str, image: Tensor) -> Tensor:
            names = [f"{name}{gate}" for gate in _GATES]
            every = [call(self, one, image, self.hidden_channels) for one in names]
            return torch.cat(every, 1)

        gates = joined("Wx", x), joined("Wh", h)
        c, peephole = wide_enough(c, *gates), self._peephole()
        return lstm_gates(*one_sum(*gates), c, peephole, order=_ORDER)

    def _peephole(self) -> tuple[Tensor, Tensor, Tensor] | None:
        w_ci, w_cf, w_co = self.Wci, self.Wcf, self.Wco
        if w_ci is None or w_cf is None or w_co is None:
            return None
        return w_ci, w_cf, w_co

    def init_hidden(
        self, batch_size: int, hidden: int, shape: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """States (h, c) of 0, on the device and in the dtype of the weights."""
        zeros = any_tensor(self).new_zeros(batch_size, hidden, *shape)
        return zeros, zeros.clone()

    def added_by(self, state: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
        """The parameters, of 0, that a checkpoint has and the cell does not."""
        names = [f"{prefix}{name}" for name in _PEEPHOLES]
        found = [state[n] for n in names if isinstance(state.get(n), Tensor)]
        if self.Wci is not None or not found:
            return {}
        sizes = (1, self.hidden_channels, *found[0].shape[2:])
        return {name: any_tensor(self).new_zeros(sizes) for name in names}

    def add_peepholes(self, state: Mapping[str, Any], prefix: str = "") -> None:
        """Make the parameters of `added_by`, as if the cell had been made with them."""
        sizes = dict(self._built.sizes)
        for name, zeros in self.added_by(state, prefix).items():
            short = name.removeprefix(prefix)
            setattr(self, short, nn.Parameter(zeros))
            sizes[short] = tuple(zeros.shape)
        self._built = self._built._replace(sizes=sizes)

    def complete_checkpoint(self, state: dict[str, Any], prefix: str = "") -> None:
        """Add the cell's peepholes, of 0, to a checkpoint of it that has none."""
        names = {f"{prefix}{name}": self._parameters.get(name) for name in _PEEPHOLES}
        if f"{prefix}Wxi.weight" in state and not names.keys() & state.keys():
            zeros = {n: torch.zeros_like(p) for n, p in names.items() if p is not None}
            state.update(zeros)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        self.complete_checkpoint(state_dict, prefix)
        self.add_peepholes(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


class ConvLSTM(ByWeights):
    """Layers that all see one image at every step.

    Args:
        input_channels: of the image.
        hidden_channels: of the states of every layer.
        kernel_size: of all convolutions, odd.
        step: how many steps there are.
        effective_step: the steps whose outputs are returned, counted from 0.

    Examples:
        >>> import torch
        >>> from trajgru_ext.compat.convolutional_lstm_pytorch import ConvLSTM
        >>> model = ConvLSTM(3, [16, 8], 3, step=5, effective_step=[2, 4])
        >>> outputs, (h, c) = model(torch.randn(2, 3, 16, 16))
        >>> len(outputs), outputs[0].shape
        (2, torch.Size([2, 8, 16, 16]))

    """

    def __init__(
        self,
        input_channels: int,
        hidden_channels: Sequence[int],
        kernel_size: int,
        step: int = 1,
        effective_step: Sequence[int] = (1,),
    ) -> None:
        super().__init__()
        kind = type(self).__name__
        kernel_size, step = check_positive(kind, kernel_size=kernel_size, step=step)
        hidden_channels = [as_integer(channels) for channels in hidden_channels]
        self.input_channels = [as_integer(input_channels), *hidden_channels]
        self.hidden_channels = hidden_channels
        self.kernel_size = kernel_size
        self.num_layers = len(hidden_channels)
        self.step = step
        self.effective_step = [as_integer(one) for one in effective_step]
        sizes = zip(self.input_channels, hidden_channels, strict=False)
        for k, size in enumerate(sizes):
            self.add_module(f"cell{k}", ConvLSTMCell(*size, kernel_size))

    def forward(self, input: Tensor) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
        """Run the layers.

        Args:
            input: `[B, C, H, W]`, any size.

        Returns:
            The last layer's h `[B, F, H, W]` after each effective step, and its last
            (h, c).

        Raises:
            TypeError, ValueError: as `trajgru_ext.conv_lstm`.

        """
        kind = type(self).__name__
        cells = [getattr(self, f"cell{k}") for k in range(self.num_layers)]
        by_cells, channels = self._change() is not None, self.input_channels[0]
        sizes = channels, by_cells, any_tensor(self)
        check_inputs(kind, "input", input, *sizes, "[B, C, H, W]")
        if by_cells:
            return self._call_cells(cells, input)
        states = input[None].expand(self.step, -1, -1, -1, -1)
        for cell in cells:
            states, c = cell.sequence(states, None, None)
        outputs = [own(states[t]) for t in range(self.step) if t in self.effective_step]
        return outputs, (own(states[-1]), c)

    def _change(self) -> str | None:
        if why := all_hooked():
            return why
        cells = vars(self)["_modules"]
        for name in (f"cell{k}" for k in range(self.num_layers)):
            kind = kind_of(cells[name])
            if kind is not ConvLSTMCell:
                return f"{name} is a {kind.__name__}, not a {ConvLSTMCell.__name__}"
            if why := change(cells[name], cells[name]._built):
                return f"{name}{why}"
        return None

    def _call_cells(
        self, cells: list[Any], input: Tensor
    ) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
        """Run the layers by calling the cells, step over step as the original does."""
        batch, _, *shape = input.shape
        states = [
            cell.init_hidden(batch_size=batch, hidden=channels, shape=tuple(shape))
            for cell, channels in zip(cells, self.hidden_channels, strict=True)
        ]
        outputs = []
        for t in range(self.step):
            x = input
            for k, cell in enumerate(cells):
                states[k] = cell(x, *states[k])
                x, _ = states[k]
            if t in self.effective_step:
                outputs.append(own(x))
        h, c = states[-1]
        return outputs, (h, c)
