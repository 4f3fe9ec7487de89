"""What the published classes look like, and ours that compute the same.

For an instance of a published class its twins are ours, made from the instance's own
attributes and without memory. Where a twin has the parameters and convolutions of the
instance, down to strides and paddings, it says all that the instance does but for the
formula, and for that there is `sample`: arguments to run both with.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trajgru_ext.compat import (
    convgru_pytorch,
    convlstm_pytorch,
    convolutional_lstm_pytorch,
    openstl,
    precipitation_nowcasting,
)

_FRAMES, _SIZE = 2, (6, 7)

_OF_STAGES = (nn.Conv2d, nn.ConvTranspose2d, nn.LeakyReLU, nn.MaxPool2d, nn.ReLU)

Twins = Iterator[nn.Module]
Normal = Callable[..., Tensor]  # random numbers of a shape
Size = tuple[int, int]


class Published(NamedTuple):
    """A published class: its name, ours that may fit an instance, and arguments."""

    name: str
    twins: Callable[[Any], Twins]
    sample: Callable[[Any, Normal], tuple[Any, ...]]


def _sample_of_steps(
    normal: Normal, inputs: int, features: int, size: Size = _SIZE
) -> tuple[Tensor, Tensor, Tensor]:
    """An image, and h and c."""
    x, h, c = (normal(1, count, *size) for count in (inputs, features, features))
    return x, h, c


def _sample_of_convlstm_cell(module: Any, normal: Normal) -> tuple[Any, ...]:
    x, *states = _sample_of_steps(normal, module.input_dim, module.hidden_dim)
    return x, states


def _sample_of_convgru_cell(module: Any, normal: Normal) -> tuple[Any, ...]:
    channels = module.conv_gates.in_channels - module.hidden_dim
    return _sample_of_steps(normal, channels, module.hidden_dim)[:2]


def _sample_of_gate_by_gate_cell(module: Any, normal: Normal) -> tuple[Any, ...]:
    channels = module.input_channels, module.hidden_channels
    return _sample_of_steps(normal, *channels, _size_that_ran(module))


def _sample_of_gate_by_gate(module: Any, normal: Normal) -> tuple[Any, ...]:
    return (normal(1, module.input_channels[0], *_size_that_ran(module.cell0)),)


def _size_that_ran(cell: Any) -> Size:
    """The only one that the original's cell runs again."""
    return _SIZE if cell.Wci is None else tuple(cell.Wci.shape[2:])


def _sample_of_layers(module: Any, normal: Normal, size: Size) -> tuple[Any, ...]:
    times = (1, _FRAMES) if module.batch_first else (_FRAMES, 1)
    return (normal(*times, module.input_dim, *size),)


def _kernels(module: Any) -> list[tuple[int, int]]:
    return [tuple(kernel) for kernel in module.kernel_size]


def _convlstm_cell(module: Any) -> Twins:
    sizes = module.input_dim, module.hidden_dim, module.kernel_size
    yield convlstm_pytorch.ConvLSTMCell(*sizes, module.bias)


def _convlstm(module: Any) -> Twins:
    sizes = module.input_dim, list(module.hidden_dim), _kernels(module)
    options = module.batch_first, module.bias, module.return_all_layers
    yield convlstm_pytorch.ConvLSTM(*sizes, module.num_layers, *options)


def _sample_of_convlstm(module: Any, normal: Normal) -> tuple[Any, ...]:
    return _sample_of_layers(module, normal, _SIZE)


def _convgru_cell(module: Any) -> Twins:
    kernel = module.conv_gates.kernel_size
    channels = module.conv_gates.in_channels - module.hidden_dim
    sizes = (module.height, module.width), channels, module.hidden_dim, kernel
    yield convgru_pytorch.ConvGRUCell(*sizes, module.bias, module.dtype)


def _convgru(module: Any) -> Twins:
    image = (module.height, module.width)
    sizes = image, module.input_dim, list(module.hidden_dim), _kernels(module)
    options = module.batch_first, module.bias, module.return_all_layers
    yield convgru_pytorch.ConvGRU(*sizes, module.num_layers, module.dtype, *options)


def _sample_of_convgru(module: Any, normal: Normal) -> tuple[Any, ...]:
    return _sample_of_layers(module, normal, (module.height, module.width))


def _gate_by_gate_cell(module: Any) -> Twins:
    sizes = module.input_channels, module.hidden_channels, module.kernel_size
    twin = convolutional_lstm_pytorch.ConvLSTMCell(*sizes)
    twin.add_peepholes(dict(module.named_parameters()))
    yield twin


def _gate_by_gate(module: Any) -> Twins:
    channels = module.input_channels[0], list(module.hidden_channels)
    steps = module.step, module.effective_step
    kind = convolutional_lstm_pytorch.ConvLSTM
    twin = kind(*channels, module.kernel_size, *steps)
    cells: dict[str, Any] = dict(twin.named_children())
    for name, cell in cells.items():
        cell.add_peepholes(dict(getattr(module, name).named_parameters()))
    yield twin


def _openstl_size(module: Any) -> Size:
    """The only one that layer norms run."""
    _, *norm = module.conv_x
    return norm[0].normalized_shape[1:] if norm else _SIZE


def _openstl_cell(module: Any) -> Twins:
    conv, *norm = module.conv_x
    twin = openstl.ConvLSTMCell(
        conv.in_channels,
        module.num_hidden,
        *_openstl_size(module),
        conv.kernel_size[0],
        conv.stride[0],
        bool(norm),
    )
    for unused in ("conv_o", "conv_last"):
        if not hasattr(module, unused):
            delattr(twin, unused)
    yield twin


def _sample_of_openstl(module: Any, normal: Normal) -> tuple[Any, ...]:
    channels = module.conv_x[0].in_channels, module.num_hidden
    return _sample_of_steps(normal, *channels, _openstl_size(module))


def _traj_gru(module: Any) -> Twins:
    sizes = module.i2h.in_channels, module._num_filter, None
    options = module._zoneout, module._L, module.i2h.kernel_size, module.i2h.stride
    # With torch before 1.3, or a repaired copy, and as it is today.
    for align_corners in (True, False):
        yield precipitation_nowcasting.TrajGRU(
            *sizes,
            *options,
            module.i2h.padding,
            act_type=module._act_type,
            align_corners=align_corners,
        )


def _sample_of_traj_gru(module: Any, normal: Normal) -> tuple[Any, ...]:
    inputs = normal(_FRAMES, 1, module.i2h.in_channels, *_SIZE)
    return inputs, normal(1, module._num_filter, *_SIZE), _FRAMES


def _nowcasting_lstm(module: Any) -> Twins:
    conv = module._conv
    sizes = module._input_channel, module._num_filter, (1, *module.Wci.shape[2:])
    options = conv.kernel_size[0], conv.stride[0], conv.padding[0]
    yield precipitation_nowcasting.ConvLSTM(*sizes, *options)


def _sample_of_nowcasting_lstm(module: Any, normal: Normal) -> tuple[Any, ...]:
    size = module.Wci.shape[2:]
    states = [normal(1, module._num_filter, *size) for _ in range(2)]
    return normal(_FRAMES, 1, module._input_channel, *size), states, _FRAMES


PUBLISHED = [
    Published("ConvLSTM", _convlstm, _sample_of_convlstm),
    Published("ConvLSTM", _gate_by_gate, _sample_of_gate_by_gate),
    Published("ConvLSTM", _nowcasting_lstm, _sample_of_nowcasting_lstm),
    Published("ConvLSTMCell", _convlstm_cell, _sample_of_convlstm_cell),
    Published("ConvLSTMCell", _gate_by_gate_cell, _sample_of_gate_by_gate_cell),
    Published("ConvLSTMCell", _openstl_cell, _sample_of_openstl),
    Published("ConvGRU", _convgru, _sample_of_convgru),
    Published("ConvGRUCell", _convgru_cell, _sample_of_convgru_cell),
    Published("TrajGRU", _traj_gru, _sample_of_traj_gru),
]
NAMES = {one.name for one in PUBLISHED}


def twins_of(published: Published, module: nn.Module) -> list[nn.Module]:
    """Ours with the module's options; raises what a missing or odd one causes."""
    with torch.device("meta"):
        return list(published.twins(module))


def stages(module: nn.Module) -> dict[str, nn.Module]:
    """What Precipitation-Nowcasting's `Encoder` and `Forecaster` run on each frame.

    Only layers that it makes such stages of; they mix no frames.
    """
    found: dict[str, nn.Module] = {}
    if type(module).__name__ in ("Encoder", "Forecaster"):
        children = dict(module.named_children())
        pairs = [(f"stage{k + 1}", f"rnn{k + 1}") for k in range(len(children) // 2)]
        if set(children) == {name for pair in pairs for name in pair}:
            found = {name: children[name] for name, _ in pairs}
    return {
        name: stage
        for name, stage in found.items()
        if type(stage) is nn.Sequential and all(type(m) in _OF_STAGES for m in stage)
    }


def misfit(module: nn.Module, twin: nn.Module) -> str | None:
    """How the module's parameters and layers differ from those of its twin."""
    wanted = {name: tuple(p.shape) for name, p in twin.named_parameters()}
    every = {*dict(module.named_parameters()), *dict(module.named_buffers())}
    if extra := sorted(every - set(wanted)):
        return f"it also has {', '.join(extra)}"
    for name, shape in wanted.items():
        parent, _, last = name.rpartition(".")
        got = getattr(module.get_submodule(parent), last)
        if not isinstance(got, Tensor) or tuple(got.shape) != shape:
            got = list(got.shape) if isinstance(got, Tensor) else got
            return f"{name} must be {list(shape)}, got {got}"
    for name, ours in twin.named_modules():
        theirs = module.get_submodule(name)
        if set(dict(ours.named_children())) != set(dict(theirs.named_children())):
            return f"{name or 'it'} has other layers"
        if type(ours).__module__.startswith("torch.nn."):
            same = type(theirs) is type(ours)
            if not same or theirs.extra_repr() != ours.extra_repr():
                return f"{name} must be {ours}, got {theirs}"
    return None
