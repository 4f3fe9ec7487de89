"""flow_conv: its values and gradients on every backend."""

import math

import pytest
import torch
from accuracy import DTYPES, assert_accurate, opmath
from flow_warp_inputs import EXTREMES, FORMATS, STRIDES, strided
from hypothesis import given
from hypothesis import strategies as st

from trajgru_ext import flow_conv, flow_warp, reference

LAYOUTS = pytest.mark.parametrize(
    "layout", FORMATS, ids=["contiguous", "channels_last"]
)


def sample_inputs(
    device,
    dtype=torch.float32,
    size=(2, 5, 4, 6),
    links=3,
    outputs=4,
    layout=FORMATS[0],
):
    """Input, flows, weight, bias, and a gradient to the output."""
    generator = torch.Generator().manual_seed(sum(size) + links)
    batch, channels, height, width = size

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    input = normal(*size).to(device, dtype).contiguous(memory_format=layout)
    flows = (2 * normal(batch, 2 * links, height, width)).to(device, opmath(dtype))
    weight = normal(outputs, links * channels).to(device, dtype)
    bias = normal(outputs).to(device, dtype)
    grad = normal(batch, outputs, height, width).to(device, dtype)
    return input, flows, weight, bias, grad.contiguous(memory_format=layout)


def derivatives(function, input, flows, weight, bias, grad, scale=1.0):
    """The output and the gradients to all four tensors."""
    leaves = [t.detach().requires_grad_() for t in (input, flows, weight, bias)]
    output = function(*leaves, scale)
    return output, *torch.autograd.grad(output, leaves, grad)


def compare(input, flows, weight, bias, grad, scale=1.0, rounds_warps=False):
    """Against the naive formula in float64.

    The absolute values that each result sums up come from the same formula, with the
    absolute values of its factors. rounds_warps: the backend rounds the warped values
    to the dtype, as a convolution rounds its input, so that each term has that error.
    """
    arguments = (input, flows, weight, bias, grad)
    got = derivatives(flow_conv, *arguments, scale)
    doubles = [t.detach().cpu().double() for t in arguments]
    exact = derivatives(reference.flow_conv, *doubles, scale)
    image, field, *others = doubles
    absolute = derivatives(
        reference.flow_conv, image.abs(), field, *(t.abs() for t in others), scale
    )
    slopes = 4 * abs(scale) * image.abs().max() * absolute_mix(*others).max()
    magnitudes = [*(largest(t) for t in absolute), 0.0]
    magnitudes[2] = slopes.item()
    columns, outputs, dtype = weight.shape[1], weight.shape[0], input.dtype
    channels, pixels = input.shape[1], input[:, 0].numel()
    terms = [
        columns,
        4 * pixels * columns + outputs,
        channels + outputs,
        pixels,
        pixels,
    ]
    rounded = 0.0
    if rounds_warps:
        rounded = 2 * torch.finfo(dtype).eps / torch.finfo(opmath(dtype)).eps
    for one, wanted, n, magnitude in zip(got, exact, terms, magnitudes, strict=False):
        assert_accurate(
            one, wanted, terms=n + rounded, magnitude=magnitude, dtype=dtype
        )
    return got


def largest(tensor):
    """The largest finite absolute value."""
    return tensor[tensor.isfinite()].abs().max().item() if tensor.numel() else 0.0


def absolute_mix(weight, bias, grad):
    """What a pixel's gradients sum up to over all columns, in absolute values."""
    return torch.einsum("ok,bohw->bhw", weight.abs(), grad.abs())


def rounds_warps(backend):
    return backend.name != "cpu"


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    ("pixels", "columns", "outputs"),
    [
        (1, 1, 65),
        (13, 257, 1),
        (127, 64, 16),
        (129, 33, 47),
        (300, 513, 31),
        (5, 9, 97),
    ],
)
def test_sizes_around_the_blocks_of_the_products(
    backend, pixels, columns, outputs, dtype
):
    """With flows of 0 it is a product, whose rows, sums and columns come in blocks."""
    size = (1, columns, 1, pixels)
    arguments = list(sample_inputs(backend.device, dtype, size, 1, outputs))
    arguments[1] = torch.zeros_like(arguments[1])
    compare(*arguments, rounds_warps=rounds_warps(backend))


@pytest.mark.kernels
@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("size", "links", "outputs"),
    [
        ((2, 1, 4, 5), 1, 1),
        ((1, 5, 5, 4), 3, 4),
        ((3, 16, 3, 5), 2, 7),
        ((1, 35, 4, 3), 2, 3),
        ((5, 2, 1, 1), 3, 2),
    ],
    ids=str,
)
def test_matches_the_naive_formula(backend, size, links, outputs, dtype, layout):
    arguments = sample_inputs(backend.device, dtype, size, links, outputs, layout)
    got = compare(*arguments, scale=-0.5, rounds_warps=rounds_warps(backend))
    assert got[0].dtype == got[1].dtype == got[3].dtype == dtype
    assert got[2].dtype == opmath(dtype)
    assert got[1].stride() == arguments[0].stride()
    wanted = torch.empty_like(arguments[4]).contiguous(memory_format=layout)
    assert got[0].stride() == wanted.stride()


def unfused(input, flows, weight, bias, scale=1.0):
    """L warps, concatenation and a 1x1 convolution, by flow_warp and torch."""
    warped = [flow_warp(input, flow, scale) for flow in flows.split(2, dim=1)]
    kernel = weight[:, :, None, None]
    return torch.nn.functional.conv2d(torch.cat(warped, 1), kernel, bias)


@pytest.mark.kernels
@LAYOUTS
@pytest.mark.parametrize(
    ("size", "links", "outputs"),
    [((2, 70, 13, 17), 3, 33), ((1, 64, 33, 35), 4, 1030)],
    ids=["many tiles", "many weights"],
)
def test_several_tiles_blocks_and_chunks(backend, size, links, outputs, layout):
    """Sizes that are no multiple of any tile, in float64 to 1e-10."""
    arguments = sample_inputs(
        backend.device, torch.float64, size, links, outputs, layout
    )
    got = derivatives(flow_conv, *arguments, scale=-1.0)
    wanted = derivatives(unfused, *arguments, scale=-1.0)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_weight_of_a_convolution_and_no_bias(backend):
    input, flows, weight, bias, _ = sample_inputs(backend.device, torch.float64)
    output = flow_conv(input, flows, weight[:, :, None, None])
    assert torch.equal(output, flow_conv(input, flows, weight))
    with_bias = flow_conv(input, flows, weight, bias)
    torch.testing.assert_close(output + bias[:, None, None], with_bias)


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_inf_and_far_flows(backend, dtype):
    input, flows, weight, bias, grad = sample_inputs(backend.device, dtype)
    flows[0, 0, 1, 2] = math.nan
    flows[1, 3] = math.inf
    flows[1, 5] = 1e30
    output, input_grad, flows_grad, *_ = derivatives(
        flow_conv, input, flows, weight, bias, grad
    )
    here = torch.zeros(2, 1, 4, 6, dtype=torch.bool, device=backend.device)
    here[0, :, 1, 2] = True
    assert output.isnan().equal(here.expand_as(output))
    assert not input_grad.isnan().any()
    assert flows_grad.isnan()[:, :2].equal(here.expand(-1, 2, -1, -1))
    assert not flows_grad.isnan()[:, 2:].any()
    assert not flows_grad[1, 2:].any()


@pytest.mark.kernels
@pytest.mark.parametrize("empty", ["batch", "channels", "height", "outputs", "links"])
def test_empty_tensors(backend, empty):
    size = [2, 3, 4, 5]
    if empty in ("batch", "channels", "height"):
        size[["batch", "channels", "height"].index(empty)] = 0
    links, outputs = 0 if empty == "links" else 2, 0 if empty == "outputs" else 4
    for layout in FORMATS:
        arguments = sample_inputs(
            backend.device, torch.float32, size, links, outputs, layout
        )
        got = derivatives(flow_conv, *arguments)
        assert torch.equal(got[0], arguments[3][:, None, None].expand_as(got[0]))
        for gradient, tensor in zip(got[1:], arguments, strict=False):
            assert gradient.shape == tensor.shape
        assert not any(gradient.any() for gradient in got[1:4])


@given(data=st.data())
@pytest.mark.kernels
def test_any_shape_strides_dtype_and_flow(backend, data):
    draw = data.draw
    size = draw(st.tuples(*(st.integers(1, n) for n in (3, 18, 4, 5))), "size")
    dtype = draw(st.sampled_from(DTYPES), "dtype")
    links, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    arguments = list(sample_inputs(backend.device, dtype, size, links, outputs))
    flows = arguments[1]
    arguments[1] = draw(st.sampled_from([flows, flows.round(), 0.1 * flows]), "flows")
    for _ in range(draw(st.integers(0, 3), "extremes")):
        where = draw(st.integers(0, flows.numel() - 1))
        arguments[1].view(-1)[where] = draw(st.sampled_from(EXTREMES))
    for k in (0, 1, 4):
        arguments[k] = strided(arguments[k], draw(st.sampled_from(["none", *STRIDES])))
    scale = draw(st.sampled_from([1.0, -1.0, 0.5]))
    compare(*arguments, scale=scale, rounds_warps=rounds_warps(backend))


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weight_gradients_are_rounded_once(backend, dtype):
    """However many chunks there are: the sum in float32, then rounded."""
    arguments = list(sample_inputs(backend.device, dtype, (2, 8, 20, 30), 2, 5))
    arguments[1] = torch.zeros_like(arguments[1])
    input, _, _, _, grad = (one.cpu().double() for one in arguments)
    weight_grad = derivatives(flow_conv, *arguments)[3].cpu().double()
    exact = torch.einsum("bohw,bchw->oc", grad, input).repeat(1, 2)
    terms = torch.einsum("bohw,bchw->oc", grad.abs(), input.abs()).repeat(1, 2)
    rounding = torch.finfo(dtype).eps / 2
    sums = input[:, 0].numel() * torch.finfo(torch.float32).eps
    error = (weight_grad - exact).abs()
    assert (error <= 1.01 * rounding * exact.abs() + sums * terms).all()
