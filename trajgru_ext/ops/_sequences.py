"""What the sequence operators share: arguments, masks, fake kernels."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trajgru_ext.ops import _gates
from trajgru_ext.ops._arguments import (
    DTYPES,
    autocast,
    check_device,
    check_same_dtype,
    check_sizes,
    check_tensors,
)
from trajgru_ext.ops._layout import memory_format
from trajgru_ext.ops._registry import fake

# What the backward pass of a convolutional sequence computes again.
RECOMPUTE = ("gates", "none")


class Conv(NamedTuple):
    """A convolution's weight and its bias."""

    weight: Any  # a Tensor, or None where it is left out
    bias: Tensor | None


# More states than this no memory holds.
_MOST = 2**31


def number_of_steps(op: str, inputs: Tensor | None, steps: int | None) -> int:
    """T, from the inputs where there are any."""
    whole = isinstance(steps, (int, torch.SymInt)) and not isinstance(steps, bool)
    if steps is not None and not whole:
        raise TypeError(f"{op}: steps must be an integer, got {steps!r}")
    if inputs is None:
        if steps is None:
            raise ValueError(f"{op}: steps must be given without inputs, got None")
        if not abs(steps) < _MOST:
            raise ValueError(f"{op}: steps must be below 2**31, got {steps}")
        return steps
    if steps is not None and inputs.dim() > 0 and steps != inputs.shape[0]:
        raise ValueError(
            f"{op}: steps must be the number of inputs, {inputs.shape[0]}, or be left "
            f"out, got {steps}"
        )
    return inputs.shape[0] if inputs.dim() > 0 else 0


def autocast_present(*tensors: Tensor | None) -> list[Any]:
    """Those tensors that are given in autocast's dtype where it is enabled."""
    present = autocast(*(t for t in tensors if t is not None))
    return _gates.spread(present, tensors)


def state_sizes(
    inputs: Tensor | None, h: Tensor | None, features: int, steps: int
) -> tuple[int, ...] | None:
    """[T, B, F, H, W], or None where the operator will find no size."""
    sized = h if inputs is None else inputs
    if sized is None or sized.dim() < 4:
        return None
    return steps, sized.shape[-4], features, *sized.shape[-2:]


def _integers(numbers: Sequence[Integral], device: torch.device) -> Tensor:
    """Integers on a device, written there one by one where the host is another.

    A copy from the host would wait for the device, and no CUDA graph can hold one.
    """
    if device.type == "cpu":
        return torch.tensor(numbers, dtype=torch.int64)
    made = torch.empty(len(numbers), dtype=torch.int64, device=device)
    for place, number in zip(made.unbind(), numbers, strict=True):
        place.fill_(int(number))
    return made


def past_the_end(
    op: str, lengths: Any, sizes: Sequence[int] | None, like: Tensor
) -> Tensor | None:
    """Where the steps of samples are past their lengths, [T, B, 1, 1, 1], or None."""
    if lengths is None or sizes is None:
        return None  # the operator finds the sizes missing
    steps, batch, *_ = sizes
    if not isinstance(lengths, Tensor):
        if not isinstance(lengths, (list, tuple)):
            raise TypeError(
                f"{op}: lengths must be a Tensor or a list of integers, got "
                f"{type(lengths).__name__}"
            )
        for n in lengths:
            if not isinstance(n, Integral) or isinstance(n, bool):
                raise TypeError(f"{op}: lengths must be of integers, got {n!r}")
            if not 0 <= int(n) <= steps:
                raise ValueError(f"{op}: lengths must lie in 0..{steps}, got {n}")
        lengths = _integers(lengths, like.device)
    check_device(op, "lengths", lengths, like)
    kind = lengths.dtype
    if kind.is_floating_point or kind.is_complex or kind == torch.bool:
        raise TypeError(f"{op}: lengths must be of integers, got {kind}")
    if tuple(lengths.shape) != (batch,):
        raise ValueError(f"{op}: lengths must be [{batch}], got {list(lengths.shape)}")
    past = torch.arange(steps, device=like.device)[:, None] >= lengths
    padded: Tensor = past[:, :, None, None, None]
    return padded


def old_states_mask(
    op: str,
    zoneout_mask: Any,
    past: Tensor | None,
    sizes: Sequence[int] | None,
    like: Tensor | None,
) -> Tensor | None:
    """Where the old state stays, by the mask and past the end, or None."""
    if zoneout_mask is not None:
        check_tensors(op, zoneout_mask=zoneout_mask)
    if sizes is None or like is None:
        return None  # the operator finds the sizes missing
    mask = None if past is None else past.expand(tuple(sizes))
    if zoneout_mask is None:
        return mask
    zoneout = _gates.mask_of_sizes(op, zoneout_mask, sizes, like)
    return zoneout if mask is None else mask | zoneout


def without_padding(inputs: Tensor | None, past: Tensor | None) -> Tensor | None:
    """The inputs, 0 past the end, so that NaN there reaches no gradient."""
    if inputs is None or past is None or inputs.dim() != 5:
        return inputs
    if inputs.dtype not in DTYPES or inputs.device != past.device:
        return inputs  # which the operator refuses
    return inputs.masked_fill(past, 0)


def differentiated(tensors: Sequence[Tensor | None]) -> bool:
    """Whether there may be a backward pass."""
    if not torch.is_grad_enabled():
        return False
    transformed = torch._C._are_functorch_transforms_active()
    return transformed or any(t is not None and t.requires_grad for t in tensors)


def check_dilation(op: str, name: str, dilation: Any) -> tuple[int, ...]:
    """The dilation along height and width, from one number or two."""
    pair = (dilation, dilation) if isinstance(dilation, int) else dilation
    fits = isinstance(pair, (tuple, list)) and len(pair) == 2
    if not fits or not all(isinstance(d, int) and 0 < d < 2**62 for d in pair):
        raise ValueError(
            f"{op}: {name} must be a positive number or two, below 2**62, got "
            f"{dilation!r}"
        )
    return tuple(pair)


def convolve(
    image: Tensor, weight: Tensor, bias: Tensor | None, dilation: Sequence[int] = (1, 1)
) -> Tensor:
    """The convolution that keeps the size, as a formula."""
    size = image.shape[2:]
    if 0 in size:  # which torch refuses
        none = image.sum() * weight.sum()
        return none.expand(image.shape[0], weight.shape[0], *size)
    # A larger dilation reads the same: the middle row or column, and padding.
    dilation = [min(d, n) for d, n in zip(dilation, size, strict=True)]
    padding = [k // 2 * d for k, d in zip(weight.shape[2:], dilation, strict=True)]
    return torch.nn.functional.conv2d(
        image, weight, bias, padding=padding, dilation=dilation
    )


def or_zero(h: Tensor | None, inputs: Tensor | None, features: int) -> Tensor:
    """The state before the first step, which is 0 where it is not given."""
    if h is not None:
        return h
    assert inputs is not None  # which check_given has seen to
    _, batch, _, *size = inputs.shape
    return inputs.new_zeros(batch, features, *size)


def stack(states: Sequence[Tensor], state: Tensor) -> Tensor:
    """The states of all steps, of which there may be none."""
    return torch.stack(list(states)) if states else state.new_empty((0, *state.shape))


def outputs_format(
    sequence: Tensor | None, h: Tensor | None, weight: Tensor
) -> torch.memory_format:
    """Of the outputs' images: the inputs', or the state's where those leave it open."""
    if sequence is None:
        assert h is not None  # which check_given has seen to
        return memory_format(h)
    if sequence.shape[2] == 1:
        return memory_format(weight if h is None else h)
    if sequence.shape[0] == 0:
        return torch.contiguous_format
    return memory_format(sequence.select(0, 0))


def empty_sequence(
    steps: int, image: Sequence[int], like: Tensor, layout: torch.memory_format
) -> Tensor:
    """Images [T, B, ...] in the memory format; image: the sizes of a step's."""
    batch, *sizes = image
    images = torch.empty(
        (steps * batch, *sizes),
        dtype=like.dtype,
        device=like.device,
        memory_format=layout,
    )
    return torch.unflatten(images, 0, (steps, batch))


def check_given(op: str, inputs: Tensor | None, h: Tensor | None, steps: int) -> Tensor:
    """Check that there are steps and a size; the tensor that has the size."""
    sized = h if inputs is None else inputs
    if sized is None:
        raise ValueError(f"{op}: inputs or h must be given, got None for both")
    if steps < 0:
        raise ValueError(f"{op}: steps must not be below 0, got {steps}")
    return sized


def check_images(
    op: str, inputs: Tensor | None, h: Tensor | None, steps: int, features: int
) -> None:
    """Check inputs and state, with the errors of the compiled operators."""
    sized = check_given(op, inputs, h, steps)
    if inputs is not None:
        check_sizes(op, "inputs", inputs, [steps, -1, -1, -1, -1], sized)
        if inputs.shape[2] == 0:
            sizes = list(inputs.shape)
            raise ValueError(
                f"{op}: inputs must be [T, B, C, H, W], C > 0, got {sizes}"
            )
    if h is not None:
        if inputs is None:
            check_sizes(op, "h", h, [-1, features, -1, -1], sized)
        batch, _, height, width = sized.shape[-4:]
        check_sizes(op, "h", h, [batch, features, height, width], sized)


def check_conv(
    op: str,
    name: str,
    conv: Conv,
    sizes: tuple[int, int],
    beside: Tensor,
) -> int:
    """Check a convolution from channels to others; how many outputs it has."""
    weight, bias = conv
    check_sizes(op, f"{name}_weight", weight, [*sizes, -1, -1], beside)
    if any(size % 2 == 0 for size in weight.shape[2:]):
        shape = list(weight.shape)
        raise ValueError(f"{op}: {name}_weight must have an odd kernel, got {shape}")
    if bias is not None:
        check_sizes(op, f"{name}_bias", bias, [weight.shape[0]], beside)
    outputs: int = weight.shape[0]
    return outputs


def check_conv_rnn(
    op: str,
    inputs: Tensor | None,
    h: Tensor | None,
    x: Conv,
    state: Conv,
    steps: int,
    gates: int,
) -> Tensor:
    """Check what the kernels check, where none runs; the tensor that has the sizes."""
    sized = check_given(op, inputs, h, steps)
    weight = state.weight
    check_sizes(op, "h_weight", weight, [-1] * 4, sized)
    features = weight.shape[1]
    if features == 0 or weight.shape[0] != gates * features:
        raise ValueError(
            f"{op}: h_weight must be [{gates}F, F, k, k], F > 0, got "
            f"{list(weight.shape)}"
        )
    check_conv(op, "h", state, (-1, -1), sized)
    check_images(op, inputs, h, steps, features)
    if inputs is not None:
        if x.weight is None:
            raise ValueError(f"{op}: x_weight must be given with inputs, got None")
        check_conv(op, "x", x, (gates * features, inputs.shape[2]), sized)
    tensors = {"inputs": inputs, "h": h, "x_weight": x.weight, "x_bias": x.bias}
    tensors["h_bias"] = state.bias
    for name, tensor in tensors.items():
        if tensor is not None:
            check_same_dtype(op, name, tensor, weight, "h_weight")
    return sized


def empty_inputs_grad(
    inputs: Tensor | None, h: Tensor | None, weight: Tensor, wanted: bool
) -> Tensor:
    """A fake gradient to the inputs, empty where it is not wanted."""
    if inputs is None or not wanted:
        return weight.new_empty(0)
    steps, *image = inputs.shape
    return empty_sequence(steps, image, inputs, outputs_format(inputs, h, weight))


def empty_like_wanted(
    wanted: Sequence[bool], tensors: Sequence[Tensor | None], like: Tensor
) -> list[Tensor]:
    """Fake gradients to parameters, empty where they are not wanted."""
    pairs = zip(tensors, wanted, strict=True)
    return [
        t.new_empty(t.shape) if t is not None and want else like.new_empty(0)
        for t, want in pairs
    ]


@fake("gru_step_backward")
@fake("gru_step")
@fake("lstm_step_backward")
@fake("lstm_step")
def _fake_step(*_: object) -> None:
    """The steps of a sequence write into buffers, and return nothing."""
