"""Sequences whose steps a device takes together in blocks, and what it adds in them."""

import pytest
import torch
from emulation import device
from test_devices import CASES
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

import trajgru_ext
from trajgru_ext.ops._options import GruOptions
from trajgru_ext.ops._samples import Samples

SEQUENCES = [case for case in CASES if case.operator.recurrent]
FORMATS = [torch.contiguous_format, torch.channels_last]
# The gates of five to seven steps are a block on the emulated device.
SIZES = {"T": 9, "B": 2, "C": 5, "F": 4, "G": 3, "L": 2, "H": 8, "W": 9}


def everything(case, on, layout):
    """Results and gradients, in float64."""
    source = Samples(SIZES, case.choices, torch.float64, on, layout)
    leaves, spec = tree_flatten(case.operator.sample(source))
    for one in leaves:
        if isinstance(one, Tensor) and one.is_floating_point():
            one.requires_grad_()
    given = tree_unflatten(leaves, spec)
    found = case.operator.call(trajgru_ext, given)
    wanted = [
        one
        for one in tree_leaves(given)
        if isinstance(one, Tensor) and one.requires_grad
    ]
    grads = [torch.linspace(-1, 1, one.numel()).to(one).view_as(one) for one in found]
    gradients = torch.autograd.grad(found, wanted, grads)
    return [*found, *gradients]


@pytest.mark.usefixtures("emulated_devices")
@pytest.mark.parametrize("layout", FORMATS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("case", SEQUENCES, ids=[case.title for case in SEQUENCES])
def test_blocks_on_the_emulated_device(case, layout):
    found = everything(case, device.NAME, layout)
    wanted = everything(case, "cpu", layout)
    for one, other in zip(found, wanted, strict=True):
        assert one.stride() == other.stride()
        torch.testing.assert_close(one.cpu(), other, rtol=1e-9, atol=1e-10)


def plan(on):
    return torch.ops.trajgru_ext.sequence_plan(torch.empty(0, device=on))


@pytest.mark.usefixtures("emulated_devices")
def test_plans_on_emulated_devices_and_the_cpu():
    *numbers, at_once, adds_biases, in_floats = plan("cpu")
    assert not at_once
    assert not adds_biases
    assert not in_floats
    assert numbers[1::2] == [4, 4, 1]
    *numbers, at_once, adds_biases, in_floats = plan(device.NAME)
    assert not in_floats
    assert at_once
    assert adds_biases
    assert min(numbers[1::2]) > SIZES["T"]
    step = 3 * SIZES["B"] * SIZES["F"] * SIZES["H"] * SIZES["W"] * 8
    assert step < numbers[0] < SIZES["T"] * step


def test_a_device_without_biases_in_its_steps_takes_none():
    gates, state = torch.zeros(1, 6, 2, 2), torch.zeros(1, 2, 2, 2)
    options = GruOptions.choose("gru_gates").numbers()
    step = torch.ops.trajgru_ext.gru_step
    arguments = (gates, gates, state, True, options, None, None, state)
    step(*arguments, None, None)
    with pytest.raises(ValueError, match="gru_step: biases are not for tensors on cpu"):
        step(*arguments, torch.zeros(6), None)
