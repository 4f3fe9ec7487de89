"""Every operator beside the first device's default stream: other devices and streams,
and the capture of a graph.
"""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from emulation import device
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

import trajgru_ext
from trajgru_ext.ops._catalog import OPERATORS, cases
from trajgru_ext.ops._operator import Case
from trajgru_ext.ops._samples import Samples

# Other kernels and other memory than those of the catalog's usual choices.
OTHERS = {
    "conv_lstm": [{"recompute": "gates"}],
    "conv_gru": [{"recompute": "gates", "zoneout": True}],
    "traj_gru": [{"recompute": "gates", "zoneout": True}, {"recompute": "flows"}],
    "gru_gates": [{"zoneout": True}],
    "gru_output": [{"zoneout": True}],
}


def all_cases():
    yield from cases()
    for name, others in OTHERS.items():
        for choices in others:
            title = ", ".join([name, *(f"{k} {v}" for k, v in choices.items())])
            yield Case(title, OPERATORS[name], choices)


CASES = list(all_cases())
SIZES = {"T": 3, "B": 2, "C": 8, "F": 4, "G": 3, "O": 5, "L": 2, "H": 5, "W": 6}

pytestmark = [
    pytest.mark.parametrize("backend", ["cuda-emulated", "cuda"], indirect=True),
    pytest.mark.parametrize("case", CASES, ids=[case.title for case in CASES]),
]


class Run:
    """An operator's arguments on a device, and what it makes of them."""

    def __init__(self, case, on, layout=torch.channels_last, dtype=torch.float32):
        self.case = case
        source = Samples(SIZES, case.choices, dtype, on, layout)
        arguments, self.spec = tree_flatten(case.operator.sample(source))
        self.arguments = [
            one.requires_grad_()
            if isinstance(one, Tensor) and one.is_floating_point()
            else one
            for one in arguments
        ]
        self.grads = None

    def __call__(self):
        """Results and gradients."""
        given = tree_unflatten(self.arguments, self.spec)
        found = self.case.operator.call(trajgru_ext, given)
        if self.grads is None:
            self.grads = [torch.full_like(one, 0.5) for one in found]
        leaves = [
            one
            for one in tree_leaves(given)
            if isinstance(one, Tensor) and one.requires_grad
        ]
        gradients = torch.autograd.grad(found, leaves, self.grads)
        return [one.detach() for one in (*found, *gradients)]


def assert_same(found, wanted, rtol=1e-4, atol=1e-5):
    """But for atomic additions in another order."""
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.cpu(), other.cpu(), rtol=rtol, atol=atol)


@contextmanager
def captured(backend):
    """Within it nothing is computed but by the graph, which has run when it ends."""
    if backend.device == device.NAME:
        with device.captured():
            yield
    else:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            yield
        graph.replay()


def test_on_the_second_device(backend, case):
    """While the first is the current one."""
    devices, second = torch.get_device_module(backend.device), f"{backend.device}:1"
    if devices.device_count() < 2:
        pytest.skip("there is one device alone")
    found = Run(case, second)()
    assert {one.device for one in found} == {torch.device(second)}
    assert devices.current_device() == 0
    assert_same(found, Run(case, "cpu")())


@pytest.mark.parametrize("seed", range(3))
def test_on_another_stream(backend, case, seed):
    """Kernels run in any legal order, and the default stream waits where it must."""
    devices, first = torch.get_device_module(backend.device), f"{backend.device}:0"
    run, wanted = Run(case, first), Run(case, "cpu")()
    current, other = devices.current_stream(), devices.Stream(device=first)
    emulated = backend.device == device.NAME
    with device.shuffled(seed) if emulated else nullcontext():
        other.wait_stream(current)
        with devices.stream(other):
            found = run()
        current.wait_stream(other)
        sums = [one.double().sum() for one in found]
        devices.synchronize()
    assert_same(found, wanted)
    assert_same(sums, [one.double().sum() for one in wanted])


@pytest.fixture(params=[False, True], ids=["any order", "fixed order"])
def fixed_order(request):
    torch.use_deterministic_algorithms(request.param)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_graph_can_capture_it(backend, case, layout, fixed_order):
    """Nothing waits for the device, and nothing is copied to it or from it."""
    run = Run(case, f"{backend.device}:0", layout)
    run()
    with captured(backend):
        found = run()
    assert_same(found, Run(case, "cpu", layout)())


def test_a_graph_can_capture_it_in_bfloat16(backend, case):
    """Which has conversions and sums of its own."""
    run = Run(case, f"{backend.device}:0", dtype=torch.bfloat16)
    wanted = run()
    with captured(backend):
        found = run()
    assert {one.dtype for one in found} <= {torch.bfloat16, torch.float32}
    assert_same(found, wanted, rtol=2e-2, atol=2e-2)
