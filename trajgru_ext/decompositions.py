"""Every operator made of PyTorch's own: grid_sample, conv2d and the like.

For formats that know no operators of others, as ONNX, and for comparison: within
`decomposed()` all that this package computes is computed so. The functions take the
arguments of the operators' schemas (csrc/schemas.cpp) and return as many tensors,
with nothing in those that only a backward pass reads.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, grid_sample, max_pool2d, pad

from trajgru_ext.ops import _registry
from trajgru_ext.ops._branches import scaled, selected
from trajgru_ext.ops._gates import add_gates
from trajgru_ext.ops.conv_gru import conv_gru_formula
from trajgru_ext.ops.conv_lstm import conv_lstm_formula
from trajgru_ext.ops.gru_gates import gru_formula
from trajgru_ext.ops.gru_output import gru_output_formula
from trajgru_ext.ops.gru_reset import gru_reset_formula
from trajgru_ext.ops.hff_concat import hff_formula
from trajgru_ext.ops.lstm_gates import lstm_formula
from trajgru_ext.ops.traj_gru import traj_gru_formula


def warps(input: Tensor, flows: Tensor, flow_scale: float) -> Tensor:
    """The input warped along each of L flows, `[B, L * C, H, W]`, by one grid_sample.

    Positions differ from `flow_warp`'s by the round-off of normalising them, about
    `eps * max(H, W)` pixels.
    """
    links, (height, width) = flows.shape[1] // 2, flows.shape[2:]
    image = input.to(torch.promote_types(input.dtype, torch.float32))
    if height == 1 or width == 1:  # an axis along which grid_sample ignores the flow
        image = pad(image, (0, 1, 0, 1))
    u, v = (flow_scale * flows.to(image.dtype)).unflatten(1, (links, 2)).unbind(2)
    device = flows.device
    x = u + torch.arange(width, device=device)
    y = v + torch.arange(height, device=device)[:, None]
    # What lies far outside, or at infinity, reads 0 two pixels outside too.
    (rows, cols), grid = image.shape[2:], []
    for position, size in ((x, cols), (y, rows)):
        grid.append(position.clamp(-2, size + 1) * (2 / (size - 1)) - 1)
    # The links' grids above each other.
    options = {"padding_mode": "zeros", "align_corners": True}
    warped = grid_sample(image, torch.stack(grid, -1).flatten(1, 2), **options)
    warped = warped.unflatten(2, (links, height)).transpose(1, 2).flatten(1, 2)
    return warped.to(input.dtype)


def flow_conv(
    input: Tensor,
    flows: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    flow_scale: float = 1.0,
) -> Tensor:
    """The warps, and a 1x1 convolution."""
    return conv2d(warps(input, flows, flow_scale), weight[:, :, None, None], bias)


def _flow_warp(input: Tensor, flow: Tensor, flow_scale: float = 1.0) -> Tensor:
    return warps(input, flow, flow_scale)


def _gru_gates(x: Tensor | None, h_gates: Tensor | None, h: Tensor, *options: Any):
    *choices, mask = options
    return gru_formula(mask, *choices)(x, h_gates, h)[0]


def _gru_reset(
    x: Tensor | None, h_gates: Tensor | None, h: Tensor, slots: Sequence[int]
) -> tuple[Tensor, Tensor]:
    return gru_reset_formula(slots)(add_gates(x, h_gates, h), h)


def _gru_output(u: Tensor, candidate: Tensor, h: Tensor, *options: Any) -> Tensor:
    *choices, mask = options
    return gru_output_formula(mask, *choices)(u, candidate, h)[0]


def _lstm_gates(
    x: Tensor | None, h_gates: Tensor | None, c: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    *peephole, slots, forget_bias = rest
    update = lstm_formula(slots, forget_bias)
    return update(add_gates(x, h_gates, c), c, *peephole)


def _traj_gru(
    inputs: Tensor | None,
    h: Tensor | None,
    parameters: Sequence[Tensor | None],
    steps: int,
    activation: int,
    negative_slope: float,
    mask: Tensor | None,
    offset: Tensor | None,
    kept: int,
) -> tuple[Tensor, ...]:
    options = (mask, offset, steps, activation, negative_slope, flow_conv)
    found = traj_gru_formula(*options)(inputs, h, *parameters)
    return _and_nothing(found, 5)


def _conv_gru(*arguments: Any) -> tuple[Tensor, ...]:
    *tensors, steps, dilation, slots, before, activation, slope, keep, mask, _ = (
        arguments
    )
    options = (steps, dilation, slots, before, activation, slope, keep)
    return _and_nothing(conv_gru_formula(mask, *options)(*tensors), 3)


def _conv_lstm(*arguments: Any) -> tuple[Tensor, ...]:
    *tensors, steps, dilation, slots, forget_bias, mask, _, _ = arguments
    sequence = conv_lstm_formula(mask, steps, dilation, slots, forget_bias)
    return _and_nothing(sequence(*tensors), 4)


def _and_nothing(found: tuple[Tensor, ...], count: int) -> tuple[Tensor, ...]:
    """What is found, and empty tensors up to the count of them."""
    return *found, *(found[0].new_empty(0) for _ in range(count - len(found)))


def _channel_mean(branches: Sequence[Tensor]) -> Tensor:
    wide = torch.promote_types(branches[0].dtype, torch.float32)
    return sum(one.to(wide) for one in branches).mean((2, 3)).to(branches[0].dtype)


def _hff_concat(branches: Sequence[Tensor], skipped: int = 0, *numbers: Any) -> Tensor:
    scale, shift, slope = (*numbers, None, None, None)[:3]
    return hff_formula(skipped)(scale, shift, slope, *branches)[0]


def _spatial_pyramid_pool(
    input: Tensor, levels: int, largest: bool
) -> tuple[Tensor, Tensor]:
    pooled = []
    for n in range(1, levels + 1):
        kernel = [-(-size // n) for size in input.shape[2:]]
        around = []
        for size, k in zip(input.shape[2:], kernel, strict=True):
            before = (k * n - size + 1) // 2
            around = [before, k * n - size - before, *around]
        if largest:
            inside = max_pool2d(pad(torch.ones_like(input), around), kernel) > 0
            most = max_pool2d(pad(input, around, value=-torch.inf), kernel)
            level = torch.where(inside, most, 0)
        else:
            level = avg_pool2d(pad(input, around), kernel)
        pooled.append(level.flatten(1))
    return torch.cat(pooled, 1), input.new_empty(0, dtype=torch.int32)


DECOMPOSITIONS: dict[str, Callable[..., Any]] = {
    "flow_warp": _flow_warp,
    "flow_conv": flow_conv,
    "gru_gates": _gru_gates,
    "gru_reset": _gru_reset,
    "gru_output": _gru_output,
    "lstm_gates": _lstm_gates,
    "traj_gru": _traj_gru,
    "conv_gru": _conv_gru,
    "conv_lstm": _conv_lstm,
    "channel_mean": _channel_mean,
    "hff_concat": _hff_concat,
    "se_scale": lambda input, logits: scaled(input, logits)[0],
    "sk_select": lambda branches, logits: selected(logits, *branches)[0],
    "spatial_pyramid_pool": _spatial_pyramid_pool,
}


def decomposed() -> AbstractContextManager[None]:
    """Within the context, PyTorch's own operators take the place of this package's.

    Functions and layers then give the same values and gradients more slowly, by
    autograd; not for code that is compiled. The switch is one for the whole process.
    """
    return _registry.replacing(DECOMPOSITIONS)
