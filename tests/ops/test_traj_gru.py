"""traj_gru: its values and gradients on every backend."""

import pytest
import torch
from accuracy import opmath
from traj_gru_inputs import (
    FORMATS,
    derivatives,
    flatten,
    in_dtype,
    sample_arguments,
    sample_offset,
    sample_seeds,
    with_flows,
)

from trajgru_ext import reference, traj_gru

LAYOUTS = pytest.mark.parametrize(
    "layout", FORMATS, ids=["contiguous", "channels_last"]
)
RECOMPUTE = pytest.mark.parametrize("recompute", ["none", "gates", "flows"])
STEPS = 3


def assert_equal(got, wanted):
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=0, atol=1e-10)


def naive(arguments, seeds, **options):
    """By the formula, in float64."""
    exact = [None if s is None else s.cpu().double() for s in seeds]
    mask = options.pop("zoneout_mask", None)
    if mask is not None:
        options["zoneout_mask"] = mask.cpu()
    exact_arguments = in_dtype(arguments, torch.float64)
    return derivatives(reference.traj_gru, exact_arguments, exact, **options)


@pytest.mark.kernels
@RECOMPUTE
@pytest.mark.parametrize("activation", ["leaky_relu", "relu", "tanh"])
@pytest.mark.parametrize("given", ["both", "inputs", "h"])
def test_matches_the_naive_formula(backend, given, activation, recompute):
    present = {"with_inputs": given != "h", "with_h": given != "inputs"}
    arguments = sample_arguments(backend.device, **present)
    seeds = sample_seeds(arguments, STEPS)
    options = {"activation": activation, "negative_slope": 0.1}
    options["steps"] = STEPS if given == "h" else None
    got = derivatives(with_flows, arguments, seeds, recompute=recompute, **options)
    assert_equal(got, naive(arguments, seeds, **options))


@pytest.mark.kernels
def test_float32_is_that_of_the_naive_formula(backend):
    """Which ThreadSanitizer takes: of float64 it has no time to see all."""
    arguments = sample_arguments(backend.device, torch.float32)
    seeds = sample_seeds(arguments, STEPS)
    got = derivatives(with_flows, arguments, seeds)
    for one, other in zip(got, naive(arguments, seeds), strict=True):
        torch.testing.assert_close(one.cpu().double(), other, rtol=0, atol=1e-3)


@RECOMPUTE
@LAYOUTS
def test_zoneout_layouts_and_no_bias(backend, layout, recompute):
    arguments = sample_arguments(backend.device, with_bias=False, layout=layout)
    seeds = sample_seeds(arguments, STEPS)
    mask = torch.rand(STEPS, 2, 3, 4, 5) < 0.4
    options = {"zoneout_mask": mask.to(backend.device)}
    got = derivatives(with_flows, arguments, seeds, recompute=recompute, **options)
    assert_equal(got, naive(arguments, seeds, **options))
    inputs = arguments[0]
    assert got[0][0].is_contiguous(memory_format=layout)
    assert got[2].stride() == inputs.stride()


@RECOMPUTE
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_flow_offset(backend, dtype, recompute):
    for with_h in (True, False):
        arguments = sample_arguments(backend.device, with_h=with_h)
        seeds = sample_seeds(arguments, STEPS)
        offset = sample_offset(backend.device, dtype=dtype)
        options = {"recompute": recompute, "flow_offset": offset}
        got = derivatives(with_flows, arguments, seeds, **options)
        options = {"flow_offset": offset.cpu().double()}
        assert_equal(got, naive(arguments, seeds, **options))


@RECOMPUTE
def test_gradient_without_one_to_the_flows(backend, recompute):
    """Where the flows of the first step move nothing they have no part in it."""
    for with_h in (True, False):
        arguments = sample_arguments(backend.device, with_h=with_h)
        seeds = [sample_seeds(arguments, STEPS)[0], None]
        got = derivatives(with_flows, arguments, seeds, recompute=recompute)
        assert_equal(got, naive(arguments, seeds))


@RECOMPUTE
def test_many_steps(backend, recompute):
    """More than are computed together, and no multiple of them."""
    sizes = (11, 1, 1, 2, 3, 2)
    arguments = sample_arguments(backend.device, sizes=sizes)
    seeds = sample_seeds(arguments, 11)
    got = derivatives(with_flows, arguments, seeds, recompute=recompute)
    assert_equal(got, naive(arguments, seeds))


@pytest.mark.kernels
@LAYOUTS
@pytest.mark.parametrize("recompute", ["none", "flows"])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str
)
def test_low_precision(backend, dtype, recompute, layout):
    """Off by the roundings of the longest chain of results.

    A result of a step is a sum of at most n products of which each is off by eps, and
    is rounded to the dtype. A value of the last step has come through eight such
    results a step, its gradient again through as many.
    """
    sizes = (3, 2, 5, 8, 6, 7)
    arguments = sample_arguments(
        backend.device, dtype, sizes, within_cells=True, layout=layout
    )
    seeds = sample_seeds(arguments, STEPS)
    got = derivatives(with_flows, arguments, seeds, recompute=recompute)
    wanted = naive(arguments, seeds)
    terms = max(t[0].numel() for t in flatten(arguments)[2::2])
    sums, rounded = torch.finfo(opmath(dtype)).eps, torch.finfo(dtype).eps
    bound = 8 * STEPS * (terms * sums + rounded)
    assert got[0].dtype == dtype
    assert got[1].dtype == opmath(dtype)
    for k, (one, other) in enumerate(zip(got, wanted, strict=True)):
        error = (one.detach().cpu().double() - other).norm() / other.norm()
        assert error < (1 if k < 2 else 2) * bound


@RECOMPUTE
def test_sequence_in_two(backend, recompute):
    arguments = sample_arguments(backend.device)
    inputs, h, *convs = arguments
    whole, flows = traj_gru(*arguments, recompute=recompute, return_flows=True)
    first, some = traj_gru(inputs[:2], h, *convs, return_flows=True)
    second, others = traj_gru(inputs[2:], first[-1], *convs, return_flows=True)
    assert torch.equal(whole, torch.cat([first, second]))
    assert torch.equal(flows, torch.cat([some, others]))


def test_flows_only_on_request(backend):
    arguments = sample_arguments(backend.device)
    outputs, flows = traj_gru(*arguments)
    assert flows is None
    assert torch.equal(outputs, with_flows(*arguments)[0])


@pytest.mark.parametrize("empty", [0, 1, 4, 5], ids=["T", "B", "H", "W"])
@pytest.mark.parametrize("with_h", [True, False], ids=["h", "no_h"])
@RECOMPUTE
def test_empty_tensors(backend, empty, with_h, recompute):
    sizes = [3, 2, 2, 3, 4, 5]
    sizes[empty] = 0
    arguments = sample_arguments(backend.device, sizes=sizes, with_h=with_h)
    seeds = [sample_seeds(arguments, sizes[0])[0], None]
    outputs, _, *gradients = derivatives(
        traj_gru, arguments, seeds, recompute=recompute
    )
    steps, batch, _, features, height, width = sizes
    assert outputs.shape == (steps, batch, features, height, width)
    leaves = [t for t in flatten(arguments) if t is not None]
    for gradient, leaf in zip(gradients, leaves, strict=True):
        assert gradient.shape == leaf.shape
        assert not gradient.any()


def test_strided_inputs(backend):
    """Batch first, expanded and sliced inputs."""
    arguments = sample_arguments(backend.device)
    inputs, h, *convs = arguments
    wanted = traj_gru(*arguments)[0]
    transposed = inputs.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(traj_gru(transposed, h, *convs)[0], wanted)
    wide = torch.cat([inputs, inputs], dim=-1)[..., : inputs.shape[-1]]
    assert torch.equal(traj_gru(wide, h, *convs)[0], wanted)
    one = inputs[:1].expand(3, -1, -1, -1, -1)
    repeated = traj_gru(one.contiguous(), h, *convs)[0]
    assert torch.equal(traj_gru(one, h, *convs)[0], repeated)


@LAYOUTS
@RECOMPUTE
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 3])
def test_cpu_results_do_not_depend_on_the_threads(batch, dtype, recompute, layout):
    sizes = (3, batch, 5, 20, 33, 17)
    arguments = sample_arguments("cpu", dtype, sizes, 3, layout=layout)
    seeds = sample_seeds(arguments, 3)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            results.append(
                derivatives(with_flows, arguments, seeds, recompute=recompute)
            )
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))
