"""Gradients of warps under `torch.use_deterministic_algorithms(True)`."""

import warnings

import flow_warp_inputs
import pytest
import test_flow_conv
import test_traj_gru_autograd as traj_gru_cases
import torch
from accuracy import DTYPES
from autograd_checks import gradcheck, gradgradcheck
from flow_warp_inputs import FORMATS, PADDINGS, STRIDES, strided
from test_flow_conv import rounds_warps
from torch import Tensor
from traj_gru_inputs import sample_arguments, sample_seeds, with_flows

from trajgru_ext import flow_conv, flow_warp

LAYOUTS = pytest.mark.parametrize(
    "layout", FORMATS, ids=["contiguous", "channels_last"]
)
# Several pieces of the list, of which some begin within a sample; channels that are
# loaded one by one and several at once, by one thread and by a whole warp.
SIZES = pytest.mark.parametrize(
    "size",
    [(2, 1, 5, 7), (2, 3, 4, 6), (2, 32, 5, 6), (1, 67, 3, 4), (3, 8, 1, 1)],
    ids=str,
)


@pytest.fixture
def fixed_order():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def any_order(monkeypatch):
    """Blocks, and the threads of each, run in another order in every launch."""
    monkeypatch.setenv("TRAJGRU_EMULATION", "shuffled")


def warps(on, dtype=torch.float32, layout=FORMATS[0], padding="zeros") -> list[Tensor]:
    arguments = flow_warp_inputs.sample_inputs(on, dtype, (2, 16, 7, 9), layout)
    return flow_warp_inputs.derivatives(flow_warp, *arguments, 1.5, padding)


def clipped_warps(on, dtype=torch.float32, layout=FORMATS[0]) -> list[Tensor]:
    return warps(on, dtype, layout, "border")


def flow_convs(on, dtype=torch.float32, layout=FORMATS[0]) -> list[Tensor]:
    size = (2, 16, 7, 9)
    arguments = test_flow_conv.sample_inputs(on, dtype, size, 3, 5, layout)
    return test_flow_conv.derivatives(flow_conv, *arguments, 1.5)


def traj_grus(on, dtype=torch.float32, layout=FORMATS[0]) -> list[Tensor]:
    sizes = (3, 2, 2, 8, 5, 6)
    arguments = sample_arguments(on, dtype, sizes, links=3, layout=layout)
    seeds = sample_seeds(arguments, 3)
    return traj_gru_cases.derivatives(with_flows, arguments, seeds)


CASES = {
    "flow_warp": warps,
    "flow_warp, border": clipped_warps,
    "flow_conv": flow_convs,
    "traj_gru": traj_grus,
}
EVERY = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
EMULATED = pytest.mark.parametrize("backend", ["cuda-emulated"], indirect=True)
OFF_CPU = pytest.mark.parametrize("backend", ["cuda-emulated", "cuda"], indirect=True)


def same_bits(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(map(torch.equal, some, others))


@EMULATED
@EVERY
@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_same_bits_in_any_order_of_threads(
    backend, fixed_order, any_order, case, layout, dtype
):
    first = case(backend.device, dtype, layout)
    for _ in range(3):
        assert same_bits(case(backend.device, dtype, layout), first)


@EMULATED
@EVERY
def test_other_bits_where_nobody_asked(backend, any_order, case):
    """So that the test above can fail."""
    first = case(backend.device)
    assert not all(same_bits(case(backend.device), first) for _ in range(3))


@OFF_CPU
@EVERY
def test_same_bits_in_every_run_and_no_warning(backend, fixed_order, case):
    first = case(backend.device)
    torch.use_deterministic_algorithms(True, warn_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same_bits(case(backend.device), first)


@pytest.mark.kernels
@SIZES
@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("padding", PADDINGS)
def test_flow_warp_matches_the_naive_formula(
    backend, fixed_order, padding, dtype, layout, size
):
    arguments = flow_warp_inputs.sample_inputs(backend.device, dtype, size, layout)
    _, input_grad, _ = flow_warp_inputs.compare(*arguments, -0.5, padding)
    assert input_grad.stride() == arguments[0].stride()


@pytest.mark.kernels
@SIZES
@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_flow_conv_matches_the_naive_formula(backend, fixed_order, dtype, layout, size):
    arguments = test_flow_conv.sample_inputs(
        backend.device, dtype, size, 3, 4, layout=layout
    )
    rounded = rounds_warps(backend)
    got = test_flow_conv.compare(*arguments, scale=-0.5, rounds_warps=rounded)
    assert got[1].stride() == arguments[0].stride()


@pytest.mark.parametrize("how", STRIDES)
def test_strided_arguments(backend, fixed_order, how):
    input, flow, grad = flow_warp_inputs.sample_inputs(
        backend.device, size=(2, 8, 4, 6)
    )
    moved = [strided(t, how) for t in (input, flow, grad)]
    flow_warp_inputs.compare(*moved)
    input, flows, *parameters, grad = test_flow_conv.sample_inputs(backend.device)
    moved = [strided(input, how), strided(flows, how), *parameters, strided(grad, how)]
    test_flow_conv.compare(*moved, rounds_warps=rounds_warps(backend))


@pytest.mark.kernels
@OFF_CPU
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sums_that_begin_at_no_multiple_of_a_load(backend, fixed_order, dtype):
    arguments = test_flow_conv.sample_inputs(
        backend.device, dtype, (2, 8, 4, 6), layout=FORMATS[1]
    )
    input, flows, weight, _, grad = arguments
    room = torch.zeros(1 + input.numel(), dtype=dtype, device=input.device)
    sums = room[1:].view(2, 4, 6, 8).permute(0, 3, 1, 2)
    torch.ops.trajgru_ext.flow_conv_add_grads(
        *(grad, input, flows, weight, 1.0, sums, None, None, None)
    )
    assert torch.equal(sums, test_flow_conv.derivatives(flow_conv, *arguments)[1])


def test_all_warps_read_one_pixel(backend, fixed_order):
    input, flow, grad = flow_warp_inputs.sample_inputs(
        backend.device, size=(2, 5, 9, 11)
    )
    _, found, _ = flow_warp_inputs.compare(
        input, torch.full_like(flow, torch.inf), grad, padding="border"
    )
    assert not found.flatten(2)[..., :-1].any()


@pytest.mark.parametrize("padding", PADDINGS)
def test_what_has_no_weight_does_not_count(backend, fixed_order, padding):
    """NaN flows and corners of weight 0 give nothing, be their gradients infinite."""
    input, flow, grad = flow_warp_inputs.sample_inputs(backend.device)
    flow = flow.round()
    flow[0, 0, 1, 2] = torch.nan
    flow[1, 1, 3, 3] = torch.inf
    grad[0, :, 1, 2] = torch.inf
    grad[1, :, 0, 0] = torch.inf
    found = flow_warp_inputs.derivatives(flow_warp, input, flow, grad, 1.0, padding)
    torch.use_deterministic_algorithms(False)
    wanted = flow_warp_inputs.derivatives(flow_warp, input, flow, grad, 1.0, padding)
    assert not found[1].isnan().any()
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


def test_second_derivatives(backend, fixed_order):
    input, flow, _ = flow_warp_inputs.sample_inputs(
        backend.device, torch.float64, (2, 2, 3, 4)
    )
    flow = flow.floor() + (flow - flow.floor()).clamp(0.1, 0.9)
    leaves = input.requires_grad_(), flow.requires_grad_()
    assert gradcheck(flow_warp, leaves)
    assert gradgradcheck(flow_warp, leaves)


@pytest.mark.parametrize("wanted", [0, 1], ids=["input", "flow"])
def test_one_gradient_alone(backend, fixed_order, wanted):
    arguments = flow_warp_inputs.sample_inputs(backend.device)
    every = flow_warp_inputs.derivatives(flow_warp, *arguments)
    *leaves, grad = arguments
    leaves[wanted].requires_grad_()
    (found,) = torch.autograd.grad(flow_warp(*leaves), leaves[wanted], grad)
    assert torch.equal(found, every[1 + wanted])


@OFF_CPU
def test_traj_gru_is_that_of_atomic_additions(backend, fixed_order):
    found = traj_grus(backend.device, torch.float64)
    torch.use_deterministic_algorithms(False)
    for one, other in zip(found, traj_grus(backend.device, torch.float64), strict=True):
        torch.testing.assert_close(one, other)
