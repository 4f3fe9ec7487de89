"""flow_conv: in autograd, torch.func, torch.compile, autocast, and its errors."""

import pytest
import torch
from autograd_checks import gradcheck, gradgradcheck, opcheck
from test_flow_conv import LAYOUTS, derivatives, sample_inputs

from trajgru_ext import flow_conv


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
    got = derivatives(backend.compile(flow_conv), *arguments)
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
        for count in (1, 2, 3, 5, 16):
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
