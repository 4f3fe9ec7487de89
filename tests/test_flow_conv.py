"""flow_conv: values, gradients, transforms and errors on every backend."""

import math

import pytest
import torch
from accuracy import DTYPES, assert_accurate, opmath
from hypothesis import given
from hypothesis import strategies as st
from test_flow_warp import EXTREMES, FORMATS, STRIDES, strided
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

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
def test_several_tiles_blocks_and_chunks(backend, layout):
    """Sizes that are no multiple of any tile, in float64 to 1e-10."""
    arguments = sample_inputs(
        backend.device, torch.float64, (2, 70, 13, 17), 3, 33, layout
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


def leaves(backend, size=(2, 2, 3, 3)):
    input, flows, weight, bias, _ = sample_inputs(
        backend.device, torch.float64, size, 2, 3
    )
    # Finite differences must not step across a whole coordinate.
    flows = flows.floor() + (flows - flows.floor()).clamp(0.1, 0.9)
    return [t.requires_grad_() for t in (input, flows, weight, bias)]


def test_gradcheck(backend):
    arguments = leaves(backend)
    assert gradcheck(flow_conv, arguments, check_forward_ad=True)
    assert gradcheck(flow_conv, arguments, check_batched_grad=True)
    assert gradgradcheck(flow_conv, arguments, check_fwd_over_rev=True)


@pytest.mark.parametrize("wanted", range(4), ids=["input", "flows", "weight", "bias"])
def test_one_gradient_alone(backend, wanted):
    arguments = [t.detach() for t in leaves(backend)]
    arguments[wanted].requires_grad_()
    assert gradcheck(flow_conv, arguments)
    if wanted < 3:  # the result is linear in the bias
        assert gradgradcheck(flow_conv, arguments)


def test_func_transforms(backend):
    arguments = [t.detach() for t in leaves(backend)]
    every = (0, 1, 2, 3)
    by_reverse = torch.func.jacrev(flow_conv, every)(*arguments)
    by_forward = torch.func.jacfwd(flow_conv, every)(*arguments)
    torch.testing.assert_close(by_reverse, by_forward)


@pytest.mark.parametrize(
    "dims", [(0, None, None, None), (1, 0, None, None), (None, 0, 0, None)], ids=str
)
def test_vmap(backend, dims):
    arguments = [t.detach() for t in leaves(backend)]
    stacked = [
        t if dim is None else torch.stack([t, 0.5 * t], dim)
        for t, dim in zip(arguments, dims, strict=True)
    ]
    got = torch.vmap(flow_conv, in_dims=dims)(*stacked)
    for k in range(2):
        one = [
            t if dim is None else t.select(dim, k)
            for t, dim in zip(stacked, dims, strict=True)
        ]
        torch.testing.assert_close(got[k], flow_conv(*one))


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(backend, dtype, layout):
    input, flows, weight, bias, grad = sample_inputs(
        backend.device, dtype, layout=layout
    )
    forward = backend.operator("flow_conv")
    opcheck(forward, (input, flows, weight, bias, -1.0))
    opcheck(forward, (input, flows.half(), weight))
    backward = backend.operator("flow_conv_backward")
    opcheck(backward, (grad, input, flows, weight, -1.0, *[True] * 4))
    for one in range(4):
        wanted = [k == one for k in range(4)]
        opcheck(backward, (grad, input, flows, weight, -1.0, *wanted))


@LAYOUTS
def test_compile_without_graph_breaks(backend, layout):
    torch.compiler.reset()
    arguments = sample_inputs(backend.device, layout=layout)
    got = derivatives(torch.compile(flow_conv, fullgraph=True), *arguments)
    for one, other in zip(got, derivatives(flow_conv, *arguments), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_is_that_of_a_convolution(backend, low):
    *arguments, grad = sample_inputs(backend.device)
    with torch.autocast(backend.device, low):
        got = derivatives(flow_conv, *arguments, grad.to(low))
    input, flows, weight, bias = arguments
    wanted = derivatives(
        flow_conv, input.to(low), flows, weight.to(low), bias.to(low), grad.to(low)
    )
    assert got[0].dtype == low
    # The gradients go back to the dtypes of the parameters.
    assert all(g.dtype == torch.float32 for g in got[1:])
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other.to(one.dtype))


def test_deterministic_algorithms(backend):
    arguments = sample_inputs(backend.device)
    torch.use_deterministic_algorithms(True)
    try:
        if backend.name == "cpu":
            derivatives(flow_conv, *arguments)
        else:
            with pytest.raises(RuntimeError, match="flow_conv_backward on CUDA"):
                derivatives(flow_conv, *arguments)
    finally:
        torch.use_deterministic_algorithms(False)


@LAYOUTS
@pytest.mark.parametrize(
    ("size", "outputs"),
    [((2, 40, 31, 37), 50), ((1, 3, 5, 6), 7), ((1, 1, 200, 210), 1)],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_cpu_results_do_not_depend_on_the_threads(dtype, size, outputs, layout):
    arguments = sample_inputs("cpu", dtype, size, 3, outputs, layout)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            results.append(derivatives(flow_conv, *arguments))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_meta_tensors():
    *arguments, _ = sample_inputs("meta")
    output = flow_conv(*arguments)
    assert output.shape == (2, 4, 4, 6)
    with pytest.raises(ValueError, match=r"flows must be on meta.*got cpu"):
        flow_conv(arguments[0], torch.zeros(2, 6, 4, 6), *arguments[2:])
    with pytest.raises(ValueError, match=r"weight must be on cpu.*got meta"):
        flow_conv(torch.zeros(2, 5, 4, 6), torch.zeros(2, 6, 4, 6), arguments[2])


def test_autocast_around_the_backward_pass_alone(backend):
    *arguments, grad = sample_inputs(backend.device)
    leaves = [t.requires_grad_() for t in arguments]
    wanted = derivatives(flow_conv, *arguments, grad)[1:]
    output = flow_conv(*leaves)
    with torch.autocast(backend.device, torch.bfloat16):
        got = torch.autograd.grad(output, leaves, grad)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_operator_with_tensors_that_require_grad(backend):
    """As in an exported program, which calls the operator itself."""
    *arguments, _ = sample_inputs(backend.device)
    operator = backend.operator("flow_conv")
    wanted = operator(*arguments)
    assert torch.equal(operator(*(t.requires_grad_() for t in arguments)), wanted)


def test_derivatives_of_empty_tensors(backend):
    input, flows, weight, bias, grad = sample_inputs(backend.device, size=(0, 3, 4, 5))
    leaves = [t.requires_grad_() for t in (input, flows, weight, bias)]
    first = torch.autograd.grad(flow_conv(*leaves), leaves, grad, create_graph=True)
    second = torch.autograd.grad(sum(g.sum() for g in first[:3]), leaves[:3])
    assert [s.shape for s in second] == [t.shape for t in leaves[:3]]


GOOD = [
    torch.zeros(2, 3, 4, 5),
    torch.zeros(2, 4, 4, 5),
    torch.zeros(7, 6),
    torch.zeros(7),
]


@pytest.mark.parametrize(
    ("which", "value", "error", "message"),
    [
        (0, 3, TypeError, "input must be a Tensor, got int"),
        (1, None, TypeError, "flows must be a Tensor, got NoneType"),
        (2, "w", TypeError, "weight must be a Tensor, got str"),
        (3, [0.0], TypeError, "bias must be a Tensor, got list"),
        (4, None, TypeError, "flow_scale must be a number, got NoneType"),
        (0, GOOD[0].int(), TypeError, "input must be float32.*got Int"),
        (0, GOOD[0][0], ValueError, "input must have 4 dimensions.*got 3"),
        (1, GOOD[1][:, :3], ValueError, r"flows must be \[B, 2 \* links.*2, 3, 4, 5"),
        (1, GOOD[1][:1], ValueError, r"flows must be .*got \[1, 4, 4, 5\]"),
        (2, GOOD[2].double(), TypeError, "weight must have the dtype of input, Float"),
        (2, GOOD[2][:, :5], ValueError, r"weight must be .* = \[O, 6\].*got \[7, 5\]"),
        (2, torch.zeros(7, 6, 3, 3), ValueError, r"weight must be.*got \[7, 6, 3, 3\]"),
        (3, GOOD[3][:2], ValueError, r"bias must be \[O\] = \[7\], got \[2\]"),
        (3, GOOD[3].half(), TypeError, "bias must have the dtype of input"),
    ],
)
def test_argument_errors(backend, which, value, error, message):
    arguments = [*GOOD, 1.0]
    arguments[which] = value
    arguments = [
        a.to(backend.device) if isinstance(a, torch.Tensor) else a for a in arguments
    ]
    with pytest.raises(error, match=f"flow_conv: {message}"):
        flow_conv(*arguments)


def test_backward_operator_errors(backend):
    input, flows, weight, _ = (tensor.to(backend.device) for tensor in GOOD)
    backward = backend.operator("flow_conv_backward")
    wanted = (1.0, True, True, True, True)
    with pytest.raises(ValueError, match=r"grad must be \[B, O, H, W\] = \[2, 7, 4, 5"):
        backward(input, input, flows, weight, *wanted)
    with pytest.raises(ValueError, match="weight must be"):
        backward(input, input, flows, weight[0], *wanted)
