"""torch.nn.DataParallel over both devices, a thread for each."""

import copy
import inspect
from contextlib import nullcontext

import pytest
import test_accelerate_by_computation as of_cells
import torch
from small_networks import SMALL, make_small
from test_distributed import adam, assert_same, sample_batch, steps
from test_modules_on_devices import EVERY, each, made
from test_modules_on_devices import assert_same as assert_close
from torch.nn.parallel import DataParallel, comm, parallel_apply
from torch.utils._pytree import tree_leaves, tree_map

import trajgru_ext

DEVICES = ["emulated:0", "emulated:1"]


pytestmark = [
    pytest.mark.usefixtures("emulated_devices", "one_thread", "_sent_by_copies"),
    pytest.mark.skipif(
        "accelerator" not in inspect.getsource(parallel_apply),
        reason="this torch asks CUDA alone for streams",
    ),
]


@pytest.fixture
def _sent_by_copies(monkeypatch):
    """The four functions of DataParallel that PyTorch has for CUDA alone."""

    def scatter(tensor, devices, sizes=None, dim=0, streams=None):
        parts = tensor.split(sizes, dim) if sizes else tensor.chunk(len(devices), dim)
        sent = []
        for k, (part, on) in enumerate(zip(parts, devices, strict=False)):
            with streams[k] if streams else nullcontext():
                sent.append(part.contiguous().to(DEVICES[on]))
        return tuple(sent)

    def gather(tensors, dim=0, destination=None):
        return torch.cat([one.to(DEVICES[destination]) for one in tensors], dim)

    def broadcast(tensors, devices):
        return [[one.to(DEVICES[on]) for one in tensors] for on in devices]

    def add(lists, destination):
        sent = ([one.to(DEVICES[destination]) for one in each] for each in lists)
        return tuple(map(sum, zip(*sent, strict=True)))

    monkeypatch.setattr(comm, "scatter", scatter)
    monkeypatch.setattr(comm, "gather", gather)
    monkeypatch.setattr(comm, "broadcast_coalesced", broadcast)
    monkeypatch.setattr(comm, "reduce_add_coalesced", add)


def tensors(results):
    return [one for one in tree_leaves(results) if torch.is_tensor(one)]


def gradients(module, results):
    """Of the squares of all results, wherever they are, to the parameters."""
    total = sum(one.square().sum().to(results[0].device) for one in results)
    parameters = [*module.parameters()]
    # Of a parameter that nothing reads: 0 from copies, and else None.
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    return [
        torch.zeros_like(one) if grad is None else grad
        for one, grad in zip(parameters, found, strict=True)
    ]


@pytest.mark.parametrize("source", ["cpu", "emulated:0"])
@SMALL
def test_it_trains_as_one(kind, source):
    """Frames of the host are copied to each device by a stream of its own."""
    plain, frames = make_small(kind), sample_batch()
    inner = copy.deepcopy(plain).to(DEVICES[0])
    net = DataParallel(inner, dim=1)
    assert net.device_ids == [0, 1]
    steps(plain, adam(plain), frames, 3)
    there = frames.to(DEVICES[0])
    steps(lambda given: net(given.to(source)), adam(net), there, 3)
    assert_same(copy.deepcopy(inner).cpu(), plain)


@each(EVERY)
def test_replicas(kind):
    """Their parameters are no leaves, nor among their parameters()."""
    module, given = made(kind)
    check_replicas(module, made(kind, DEVICES[0])[0], given)


@of_cells.CELLS
def test_replicas_of_accelerated_cells(name):
    module, _ = of_cells.made(name)
    moved = copy.deepcopy(module).to(DEVICES[0])
    assert trajgru_ext.accelerate(moved).gates
    check_replicas(module, moved, of_cells.arguments(name))


def check_replicas(module, moved, given):
    """On both devices, against the module on the CPU."""
    net = DataParallel(moved)
    both = given, tree_map(lambda one: one + 0.5, given)
    parts = [
        tree_map(lambda one, on=on: one.to(on), part)
        for part, on in zip(both, DEVICES, strict=True)
    ]
    replicas = net.replicate(moved, net.device_ids)
    found = [tensors(one) for one in net.parallel_apply(replicas, parts, [{}, {}])]
    wanted = [tensors(module(*part)) for part in both]
    for results, on in zip(found, DEVICES, strict=True):
        assert {one.device for one in results} == {torch.device(on)}
    assert_close(found, wanted)
    if [*module.parameters()]:
        there = gradients(moved, found[0] + found[1])
        assert_close(there, gradients(module, wanted[0] + wanted[1]))
