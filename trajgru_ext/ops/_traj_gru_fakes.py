"""The fake kernels of traj_gru: its sizes, dtypes, strides and errors."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trajgru_ext.ops import _sequences
from trajgru_ext.ops._arguments import check_same_dtype, check_sizes
from trajgru_ext.ops._layout import empty_image
from trajgru_ext.ops._registry import fake
from trajgru_ext.ops._sequences import Conv

OP = "traj_gru"

# How much the forward pass leaves for the backward pass, by what that computes again.
# The operator takes the number of one (`Saved` in csrc/sequences/traj_gru.h).
RECOMPUTE = ("flows", "gates", "none")


class Parameters(NamedTuple):
    """The parameters in the operator's order: each layer's weight and bias."""

    i2h_weight: Any
    i2h_bias: Any
    i2f_conv1_weight: Any
    i2f_conv1_bias: Any
    h2f_conv1_weight: Any
    h2f_conv1_bias: Any
    flows_conv_weight: Any
    flows_conv_bias: Any
    ret_weight: Any
    ret_bias: Any

    def layer(self, name: str) -> Conv:
        """The weight and bias of the layer of this name."""
        return Conv(getattr(self, f"{name}_weight"), getattr(self, f"{name}_bias"))


@fake("traj_gru")
def _fake_traj_gru(
    inputs: Tensor | None,
    h: Tensor | None,
    parameters: list[Tensor | None],
    steps: int,
    options: Sequence[float],
    zoneout_mask: Tensor | None,
    flow_offset: Tensor | None,
    saved: int,
) -> tuple[Tensor, ...]:
    given = Parameters(*parameters)
    sized = _check_sizes(inputs, h, given, steps)
    batch, _, height, width = sized.shape[-4:]
    like, h2f_weight = given.ret_weight, given.h2f_conv1_weight
    coordinates = given.flows_conv_weight.shape[0]
    if flow_offset is not None:
        sizes = [coordinates, height, width]
        check_sizes(OP, "flow_offset", flow_offset, sizes, like)
    wide = like.new_empty(0, dtype=torch.promote_types(like.dtype, torch.float32))
    hidden, gates = h2f_weight.shape[0], like.shape[0]

    def images(
        channels: int,
        like: Tensor = like,
        layout: torch.memory_format = torch.channels_last,
    ) -> Tensor:
        image = (batch, channels, height, width)
        return _sequences.empty_sequence(steps, image, like, layout)

    def saved_by(least: str, channels: int, like: Tensor = like) -> Tensor:
        saves = saved >= RECOMPUTE.index(least)
        return images(channels, like) if saves else like.new_empty(0)

    layout = _sequences.outputs_format(inputs, h, h2f_weight)
    return (
        images(gates // 3, layout=layout),
        saved_by("gates", coordinates, wide if saved else like),
        saved_by("gates", hidden),
        saved_by("none", gates),
        saved_by("none", gates // 3),
    )


@fake("traj_gru_backward")
def _fake_traj_gru_backward(
    grad: Tensor,
    flows_grad: Tensor | None,
    inputs: Tensor | None,
    h: Tensor | None,
    parameters: list[Tensor | None],
    options: Sequence[float],
    zoneout_mask: Tensor | None,
    flow_offset: Tensor | None,
    outputs: Tensor,
    flows: Tensor,
    hidden: Tensor,
    gates: Tensor,
    candidates: Tensor,
    saved: int,
    wanted: list[bool],
) -> tuple[Tensor, ...]:
    given = Parameters(*parameters)
    inputs_wanted, h_wanted, *others_wanted = wanted
    to_inputs = _sequences.empty_inputs_grad(
        inputs, h, given.h2f_conv1_weight, inputs_wanted
    )
    to_h = given.ret_weight.new_empty(0)
    if h is not None and h_wanted:
        to_h = empty_image(h)
    others = _sequences.empty_like_wanted(others_wanted, given, given.ret_weight)
    return to_inputs, to_h, *others


def _check_sizes(
    inputs: Tensor | None, h: Tensor | None, given: Parameters, steps: int
) -> Tensor:
    """Check what the kernels check, where none runs; the tensor that has the sizes."""
    sized = _sequences.check_given(OP, inputs, h, steps)
    needed = ("h2f_conv1", "flows_conv", "ret")
    if any(given.layer(name).weight is None for name in needed):
        raise ValueError(
            f"{OP}: the weights of h2f_conv1, flows_conv and ret must be given, "
            "got None"
        )
    ret = given.ret_weight
    check_sizes(OP, "ret_weight", ret, [-1, -1], sized)
    features = ret.shape[0] // 3
    links = ret.shape[1] // features if features else 0
    if features * links == 0 or ret.shape != (3 * features, links * features):
        sizes = list(ret.shape)
        raise ValueError(
            f"{OP}: ret_weight must be [3F, L * F], F and L > 0, got {sizes}"
        )

    def check_layer(name: str, outputs: int, channels: int) -> int:
        sizes = (outputs, channels)
        return _sequences.check_conv(OP, name, given.layer(name), sizes, sized)

    hidden = check_layer("h2f_conv1", -1, features)
    check_layer("flows_conv", 2 * links, hidden)
    if given.ret_bias is not None:
        check_sizes(OP, "ret_bias", given.ret_bias, [3 * features], sized)
    _sequences.check_images(OP, inputs, h, steps, features)
    if inputs is not None:
        if given.i2h_weight is None or given.i2f_conv1_weight is None:
            raise ValueError(
                f"{OP}: the weights of i2h and i2f_conv1 must be given with inputs"
            )
        check_layer("i2h", 3 * features, inputs.shape[2])
        check_layer("i2f_conv1", hidden, inputs.shape[2])
    tensors = {"inputs": inputs, "h": h, **given._asdict()}
    for name, tensor in tensors.items():
        if tensor is not None:
            check_same_dtype(OP, name, tensor, ret)
    return sized
