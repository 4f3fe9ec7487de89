"""flow_conv in one kernel: its values, and where it is taken."""

import math

import cuda_launches
import pytest
import torch
from accuracy import assert_accurate
from flow_warp_inputs import STRIDES, strided
from test_flow_conv import FORMATS, LAYOUTS, largest, sample_inputs
from torch import Tensor
from traj_gru_inputs import in_dtype, sample_arguments

from trajgru_ext import flow_conv, reference, traj_gru

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Tensor cores but for float32 that stays what it is.
EVERY = pytest.mark.parametrize(
    ("dtype", "rounds"),
    [*((dtype, True) for dtype in DTYPES), (torch.float32, False)],
    indirect=["rounds"],
    ids=[*map(str, DTYPES), "ieee float32"],
)
OFF_CPU = pytest.mark.parametrize("backend", ["cuda-emulated", "cuda"], indirect=True)
EMULATED = pytest.mark.parametrize("backend", ["cuda-emulated"], indirect=True)


@pytest.fixture(autouse=True)
def rounds(request):
    """Whether convolutions of float32 may round to TF32: as torch has it by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = getattr(request, "param", True)
    yield
    torch.backends.cudnn.allow_tf32 = before


def images(backend) -> int:
    """As many as a GPU has multiprocessors: each has at least one tile."""
    if backend.name == "cuda":
        return torch.cuda.get_device_properties(backend.device).multi_processor_count
    return 2


def launches(function) -> dict[str, int]:
    cuda_launches.counts()
    function()
    return dict(cuda_launches.counts())


def one_kernel(arguments, **options) -> bool:
    found = launches(lambda: flow_conv(*arguments[:4], **options))
    assert found["kernels"]
    return found == {"kernels": 1}


def kept(dtype: torch.dtype) -> float:
    """The distance from 1 to what the tensor cores have next to it."""
    rounded = dtype == torch.float32 and torch.backends.cudnn.allow_tf32
    return 2.0**-10 if rounded else torch.finfo(dtype).eps


def compare(input, flows, weight, bias, scale=1.0) -> Tensor:
    """With the naive formula in float64; operands are rounded, sums are of float32."""
    arguments = (input, flows, weight, bias)
    found = flow_conv(*arguments, scale)
    doubles = [one.cpu().double() for one in arguments]
    exact = reference.flow_conv(*doubles, scale)
    image, field, *others = doubles
    sizes = reference.flow_conv(image.abs(), field, *(t.abs() for t in others), scale)
    # A product of two operands, each off by half of the distance at most.
    rounded = kept(input.dtype) / torch.finfo(torch.float32).eps
    terms = weight.shape[1] + 2 * rounded
    assert_accurate(
        found, exact, terms=terms, magnitude=largest(sizes), dtype=input.dtype
    )
    return found


@pytest.mark.kernels
@OFF_CPU
@LAYOUTS
@EVERY
@pytest.mark.parametrize(
    ("size", "links", "outputs"),
    [
        ((16, 3, 5), 1, 4),
        ((16, 9, 17), 3, 52),
        ((48, 5, 7), 2, 192),
        ((32, 8, 16), 2, 100),
    ],
    ids=str,
)
def test_matches_the_naive_formula(backend, size, links, outputs, dtype, layout):
    size = (images(backend), *size)
    *arguments, _ = sample_inputs(backend.device, dtype, size, links, outputs, layout)
    found = compare(*arguments, scale=-0.5)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=layout)
    if backend.name == "cuda-emulated" and layout == torch.channels_last:
        assert one_kernel(arguments)


def rounded_to_tf32(tensor: Tensor) -> Tensor:
    bits = tensor.view(torch.int32)
    return ((bits + (1 << 12)) >> 13 << 13).view(torch.float32)


@EMULATED
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_code_of_7_5_has(backend, dtype, monkeypatch):
    """Tensor cores for float16 alone, whatever device runs it."""
    monkeypatch.setenv("TRAJGRU_CAPABILITY", "75")
    size = (images(backend), 16, 9, 17)
    *arguments, _ = sample_inputs(backend.device, dtype, size, 2, 52, FORMATS[1])
    assert one_kernel(arguments) == (dtype != torch.bfloat16)
    torch.backends.cudnn.allow_tf32 = False  # as it computes float32, then
    compare(*arguments)


@OFF_CPU
def test_operands_of_float32_are_rounded_to_the_nearest(backend):
    """To TF32's ten bits: the hardware alone would drop the others."""
    size = (images(backend), 16, 8, 9)
    input, flows, weight, bias, _ = sample_inputs(
        backend.device, torch.float32, size, 2, 20, FORMATS[1]
    )
    flows = flows.round()  # a warp is one pixel, then
    found = flow_conv(input, flows, weight, bias)
    operands = [rounded_to_tf32(one.cpu()).double() for one in (input, weight)]
    others = flows.cpu().double(), bias.cpu().double()
    exact = reference.flow_conv(operands[0], others[0], operands[1], others[1])
    assert_accurate(found, exact, terms=weight.shape[1], magnitude=largest(exact))


@OFF_CPU
@EVERY
def test_nan_and_far_flows_are_their_pixels_alone(backend, dtype):
    size = (images(backend), 16, 9, 18)
    input, flows, weight, bias, _ = sample_inputs(
        backend.device, dtype, size, 3, 8, FORMATS[1]
    )
    flows[0, 0, 1, 2] = math.nan
    flows[1, 3, 8, 17] = math.inf
    flows[1, 5, 0, 0] = 1e30
    found = compare(input, flows, weight, bias)
    assert found.isnan().sum() == 8
    assert found[0, :, 1, 2].isnan().all()


@OFF_CPU
@EVERY
def test_a_corner_without_weight_is_not_read(backend, dtype):
    size = (images(backend), 16, 4, 6)
    input, flows, weight, bias, _ = sample_inputs(
        backend.device, dtype, size, 1, 4, FORMATS[1]
    )
    input[:, :, 1] = math.nan
    flows.zero_()
    flows[:, 1] = 2  # rows
    assert not compare(input, flows, weight, bias).isnan().any()


@OFF_CPU
@EVERY
def test_no_bias(backend, dtype):
    size = (images(backend), 16, 4, 6)
    input, flows, weight, bias, _ = sample_inputs(
        backend.device, dtype, size, 2, 8, FORMATS[1]
    )
    found = flow_conv(input, flows, weight)
    assert torch.equal(found, flow_conv(input, flows, weight, torch.zeros_like(bias)))


@OFF_CPU
@EVERY
@pytest.mark.parametrize("how", STRIDES)
def test_strided_arguments(backend, dtype, how):
    size = (images(backend), 16, 4, 6)
    input, flows, weight, bias, _ = sample_inputs(backend.device, dtype, size, 2, 8)
    wanted = flow_conv(input, flows, weight, bias)
    moved = strided(input, how), strided(flows, how), weight, bias
    assert torch.equal(flow_conv(*moved), wanted)
    # A weight that cannot be fetched sixteen bytes at a time.
    odd = weight.new_empty(weight.numel() + 1)[1:].view_as(weight).copy_(weight)
    compare(input, flows, odd, bias)
    compare(input, flows, weight, bias.repeat_interleave(2)[::2])


@EMULATED
@EVERY
def test_same_bits_in_any_order_of_threads(monkeypatch, backend, dtype):
    *arguments, _ = sample_inputs(
        backend.device, dtype, (2, 32, 9, 17), 2, 52, FORMATS[1]
    )
    wanted = flow_conv(*arguments)
    monkeypatch.setenv("TRAJGRU_EMULATION", "shuffled")
    assert torch.equal(flow_conv(*arguments), wanted)


@EMULATED
@pytest.mark.parametrize(
    ("dtype", "size", "links", "outputs", "fused"),
    [
        (torch.float32, (2, 8, 4, 5), 2, 8, True),
        (torch.bfloat16, (2, 16, 4, 5), 2, 8, True),
        (torch.float64, (2, 8, 4, 5), 2, 8, False),
        (torch.bfloat16, (2, 8, 4, 5), 2, 8, False),  # half of a slice
        (torch.bfloat16, (2, 16, 4, 5), 2, 6, False),
        (torch.bfloat16, (2, 16, 4, 5), 2, 192, True),
        (torch.bfloat16, (2, 16, 4, 5), 2, 196, False),
        (torch.bfloat16, (2, 16, 4, 5), 1, 576, False),
        (torch.bfloat16, (1, 16, 8, 16), 2, 8, False),  # one tile
        (torch.bfloat16, (1, 16, 9, 16), 2, 8, True),
        (torch.bfloat16, (1, 16, 8, 17), 2, 8, True),
    ],
    ids=str,
)
def test_where_it_is_taken(backend, dtype, size, links, outputs, fused):
    arguments = sample_inputs(backend.device, dtype, size, links, outputs, FORMATS[1])
    assert one_kernel(arguments) == fused


@EMULATED
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_traj_gru_takes_it(backend, dtype):
    """A step, whose flows and gates round, too."""
    arguments = sample_arguments("cpu", dtype, (1, 2, 16, 16, 9, 10), 3)
    moved = in_dtype(arguments, dtype, backend.device)
    found = []
    assert "products" not in launches(lambda: found.extend(traj_gru(*moved)))
    wanted = traj_gru(*in_dtype(arguments, torch.float64))
    error = (found[0].cpu() - wanted[0]).norm() / wanted[0].norm()
    assert error < 4 * kept(dtype)


@EMULATED
@pytest.mark.parametrize("empty", ["channels", "links", "batch", "outputs"])
def test_nothing_to_multiply(backend, empty):
    size = [2, 16, 4, 5]
    if empty in ("batch", "channels"):
        size[("batch", "channels").index(empty)] = 0
    links, outputs = 0 if empty == "links" else 2, 0 if empty == "outputs" else 8
    input, flows, weight, bias, _ = sample_inputs(
        backend.device, torch.bfloat16, size, links, outputs, FORMATS[1]
    )
    found = flow_conv(input, flows, weight, bias)
    assert torch.equal(found, bias[:, None, None].expand_as(found))
