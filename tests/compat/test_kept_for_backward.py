"""What a step of a cell keeps for backward under accelerate, against before."""

import copy

import pytest
import torch
from gate_cells import LSTMS
from test_accelerate_by_computation import arguments, made

from ports.openstl import ConvLSTMCell
from trajgru_ext import accelerate


def kept(model, given):
    """Bytes that autograd holds, beside the arguments and the parameters."""
    given = [one.clone().requires_grad_() for one in given]
    held = [*given, *model.parameters()]
    there = {one.untyped_storage().data_ptr() for one in held}
    found = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in there:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        results = model(*given)
    del results
    return sum(found.values())


@pytest.mark.parametrize("name", ["Sums", "SumsOfSlices"])
def test_cells_of_several_convolutions(name):
    assert name in LSTMS
    plain, _ = made(name)
    fast = copy.deepcopy(plain)
    accelerate(fast)
    given = arguments(name)
    assert kept(fast, given) <= kept(plain, given)


def test_the_cell_of_openstl():
    torch.manual_seed(0)
    plain = torch.nn.ModuleList([ConvLSTMCell(2, 3, 6, 7, 3, 1, False)])
    fast = copy.deepcopy(plain)
    accelerate(fast)
    assert type(fast[0]) is not ConvLSTMCell
    given = [torch.randn(2, channels, 6, 7) for channels in (2, 3, 3)]
    assert kept(fast[0], given) <= kept(plain[0], given)
