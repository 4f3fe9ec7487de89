"""The fake kernels of traj_gru: its sizes, dtypes, strides and errors."""

from collections.abc import Sequence

import torch
from torch import Tensor

from trajgru_ext.ops import _sequences
from trajgru_ext.ops._arguments import check_same_dtype, check_sizes
from trajgru_ext.ops._layout import empty_image
from trajgru_ext.ops._registry import fake

OP = "traj_gru"

# How much the forward pass leaves for the backward pass, by what that computes again.
# As csrc/sequences/traj_gru.h numbers it.
RECOMPUTE = ("flows", "gates", "none")

# The parameters as the operator numbers them.
LAYERS = ("i2h", "i2f_conv1", "h2f_conv1", "flows_conv", "ret")
NAMES = [f"{layer}_{kind}" for layer in LAYERS for kind in ("weight", "bias")]


@fake("traj_gru")
def _fake_traj_gru(
    inputs: Tensor | None,
    h: Tensor | None,
    parameters: list[Tensor | None],
    steps: int,
    activation: int,
    negative_slope: float,
    zoneout_mask: Tensor | None,
    flow_offset: Tensor | None,
    kept: int,
) -> tuple[Tensor, ...]:
    _check_sizes(inputs, h, parameters, steps)
    batch, _, height, width = (h if inputs is None else inputs).shape[-4:]
    if flow_offset is not None:
        sizes = [parameters[6].shape[0], height, width]
        check_sizes(OP, "flow_offset", flow_offset, sizes, parameters[8])
    like, last = parameters[8], torch.channels_last
    wide = like.new_empty(0, dtype=torch.promote_types(like.dtype, torch.float32))
    hidden, coordinates = parameters[4].shape[0], parameters[6].shape[0]
    gates = like.shape[0]

    def images(
        channels: int, like: Tensor = like, layout: torch.memory_format = last
    ) -> Tensor:
        image = (batch, channels, height, width)
        return _sequences.empty_sequence(steps, image, like, layout)

    none = [like.new_empty(0) for _ in range(4)]
    outputs = images(
        gates // 3, layout=_sequences.outputs_format(inputs, h, parameters[4])
    )
    if kept == RECOMPUTE.index("flows"):
        return outputs, *none
    if kept == RECOMPUTE.index("gates"):
        return outputs, images(coordinates, wide), images(hidden), *none[:2]
    left = images(coordinates, wide), images(hidden), images(gates), images(gates // 3)
    return outputs, *left


@fake("traj_gru_backward")
def _fake_traj_gru_backward(
    grad: Tensor,
    flows_grad: Tensor | None,
    inputs: Tensor | None,
    h: Tensor | None,
    parameters: list[Tensor | None],
    activation: int,
    negative_slope: float,
    zoneout_mask: Tensor | None,
    flow_offset: Tensor | None,
    outputs: Tensor,
    flows: Tensor,
    hidden: Tensor,
    gates: Tensor,
    candidates: Tensor,
    kept: int,
    wanted: list[bool],
) -> tuple[Tensor, ...]:
    to_inputs = _sequences.empty_inputs_grad(inputs, h, parameters[4], wanted[0])
    to_h = empty_image(h) if wanted[1] else parameters[8].new_empty(0)
    others = _sequences.empty_like_wanted(wanted[2:], parameters, parameters[8])
    return to_inputs, to_h, *others


def _check_sizes(
    inputs: Tensor | None,
    h: Tensor | None,
    parameters: Sequence[Tensor | None],
    steps: int,
) -> None:
    """Check as csrc/sequences/traj_gru.cpp does, where that does not run."""
    sized = _sequences.check_given(OP, inputs, h, steps)
    missing = [parameters[k] is None for k in (4, 6, 8)]
    if any(missing):
        raise ValueError(
            f"{OP}: the weights of h2f_conv1, flows_conv and ret must be given, "
            "got None"
        )
    ret = parameters[8]
    check_sizes(OP, "ret_weight", ret, [-1, -1], sized)
    features = ret.shape[0] // 3
    links = ret.shape[1] // features if features else 0
    if features * links == 0 or ret.shape != (3 * features, links * features):
        sizes = list(ret.shape)
        raise ValueError(
            f"{OP}: ret_weight must be [3F, L * F], F and L > 0, got {sizes}"
        )
    hidden = _check_conv(parameters, 4, (-1, features), sized)
    _check_conv(parameters, 6, (2 * links, hidden), sized)
    if parameters[9] is not None:
        check_sizes(OP, "ret_bias", parameters[9], [3 * features], sized)
    _sequences.check_images(OP, inputs, h, steps, features)
    if inputs is not None:
        if parameters[0] is None or parameters[2] is None:
            raise ValueError(
                f"{OP}: the weights of i2h and i2f_conv1 must be given with inputs"
            )
        channels = inputs.shape[2]
        _check_conv(parameters, 0, (3 * features, channels), sized)
        _check_conv(parameters, 2, (hidden, channels), sized)
    names, tensors = ("inputs", "h", *NAMES), (inputs, h, *parameters)
    for name, tensor in zip(names, tensors, strict=True):
        if tensor is not None:
            check_same_dtype(OP, name, tensor, ret)


def _check_conv(
    parameters: Sequence[Tensor | None], k: int, sizes: tuple[int, int], beside: Tensor
) -> int:
    """Check the convolution of parameters k and k + 1; how many outputs it has."""
    name = LAYERS[k // 2]
    return _sequences.check_conv(OP, name, parameters[k : k + 2], sizes, beside)
