"""flow_warp: in autograd, torch.func, torch.compile, autocast, and its errors."""

import subprocess
import sys

import pytest
import torch
from autograd_checks import gradcheck, gradgradcheck, opcheck
from flow_warp_inputs import FORMATS, PADDINGS, derivatives, sample_inputs

from trajgru_ext import flow_warp, reference
from trajgru_ext.ops._corners import Corners


def leaves(backend, size=(2, 2, 3, 4)):
    input, flow, _ = sample_inputs(backend.device, torch.float64, size)
    # Finite differences must not step across a whole coordinate.
    flow = flow.floor() + (flow - flow.floor()).clamp(0.1, 0.9)
    return input.requires_grad_(), flow.requires_grad_()


def scaled(input, flow):
    return flow_warp(input, flow, -1.5)


def clipped(input, flow):
    return flow_warp(input, flow, -1.5, "border")


WARPS = pytest.mark.parametrize("warp", [scaled, clipped])


@pytest.mark.parametrize("layout", FORMATS, ids=["contiguous", "channels_last"])
def test_gradcheck(backend, layout):
    input, flow = leaves(backend)
    input = input.detach().contiguous(memory_format=layout).requires_grad_()
    assert gradcheck(flow_warp, (input, flow), check_forward_ad=True)
    assert gradcheck(flow_warp, (input, flow), check_batched_grad=True)
    assert gradgradcheck(flow_warp, (input, flow), check_fwd_over_rev=True)


@WARPS
def test_gradcheck_with_a_scale(backend, warp):
    input, flow = leaves(backend)
    flow = (flow / -1.5).detach().requires_grad_()
    assert gradcheck(warp, (input, flow), check_forward_ad=True)
    assert gradcheck(warp, (input, flow), check_batched_grad=True)
    assert gradgradcheck(warp, (input, flow), check_fwd_over_rev=True)


@pytest.mark.parametrize("wanted", [0, 1], ids=["input", "flow"])
def test_one_gradient_alone(backend, wanted):
    arguments = [t.detach() for t in leaves(backend)]
    arguments[wanted].requires_grad_()
    assert gradcheck(flow_warp, arguments)
    assert gradgradcheck(flow_warp, arguments)


def test_gradient_to_the_input_does_not_keep_the_input(backend):
    input, flow = leaves(backend)
    saved = []
    pack = torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t) or t, lambda t: t
    )
    with pack:
        flow_warp(input, flow.detach())
    assert [t.shape for t in saved] == [flow.shape]


@pytest.mark.parametrize("padding", PADDINGS)
def test_second_derivative_at_zero_flow(backend, padding):
    """The mixed derivative of the cell to the right and below, as the formula says."""
    input, flow, grad = sample_inputs(backend.device, torch.float64, (1, 2, 3, 4))
    found = []
    for function in (flow_warp, reference.flow_warp):
        zero = torch.zeros_like(flow, requires_grad=True)
        image = input.clone().requires_grad_()
        (first,) = torch.autograd.grad(
            *(function(image, zero, 1.0, padding), zero, grad), create_graph=True
        )
        found.append(torch.autograd.grad(first.square().sum(), (image, zero)))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("padding", PADDINGS)
def test_func_transforms(backend, padding):
    input, flow = (t.detach() for t in leaves(backend))
    options = (1.0, padding)

    def warp(input, flow):
        return flow_warp(input, flow, *options)

    by_reverse = torch.func.jacrev(warp, (0, 1))(input, flow)
    by_forward = torch.func.jacfwd(warp, (0, 1))(input, flow)
    torch.testing.assert_close(by_reverse, by_forward)

    def energy(flow):
        return warp(input, flow).square().sum()

    def plain_energy(flow):
        return reference.flow_warp(input, flow, *options).square().sum()

    hessian = torch.func.hessian(energy)(flow)
    torch.testing.assert_close(
        hessian, torch.func.jacrev(torch.func.grad(energy))(flow)
    )
    wanted = torch.autograd.functional.hessian(plain_energy, flow)
    torch.testing.assert_close(hessian, wanted)


@pytest.mark.parametrize("dims", [(0, None), (None, 2), (1, 0)], ids=str)
@WARPS
def test_vmap(backend, warp, dims):
    input, flow = (t.detach() for t in leaves(backend))
    stacked = [
        tensor if dim is None else torch.stack([tensor, 0.5 * tensor, 2 * tensor], dim)
        for tensor, dim in zip((input, flow), dims, strict=True)
    ]
    got = torch.vmap(warp, in_dims=dims)(*stacked)

    def one(k):
        pairs = zip(stacked, dims, strict=True)
        return [t if dim is None else t.select(dim, k) for t, dim in pairs]

    assert torch.equal(got, torch.stack([warp(*one(k)) for k in range(3)]))


@pytest.mark.parametrize("layout", FORMATS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("padding", [0, 1])
def test_opcheck(backend, padding, dtype, layout):
    input, flow, grad = sample_inputs(backend.device, dtype, layout=layout)
    opcheck(backend.operator("flow_warp"), (input, flow, -1.0, padding))
    opcheck(backend.operator("flow_warp"), (input[:, :3], flow.bfloat16()))
    backward = backend.operator("flow_warp_backward")
    for wanted in ((True, True), (True, False), (False, True), (False, False)):
        given = input if wanted[1] else None
        opcheck(backward, (grad, given, flow, -1.0, padding, *wanted))
        opcheck(backward, (grad, given, flow.half(), -1.0, padding, *wanted))
    opcheck(backend.operator("flow_warp"), (input[:0], flow[:0]))


@pytest.mark.parametrize("layout", FORMATS, ids=["contiguous", "channels_last"])
@WARPS
def test_compile_without_graph_breaks(backend, warp, layout):
    torch.compiler.reset()
    input, flow, grad = sample_inputs(backend.device, layout=layout)
    compiled = backend.compile(warp)
    got = derivatives(lambda i, f, _: compiled(i, f), input, flow, grad)
    wanted = derivatives(lambda i, f, _: warp(i, f), input, flow, grad)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)


@WARPS
def test_compile_does_not_recompile_for_other_sizes(backend, warp):
    torch.compiler.reset()
    compiled = backend.compile(warp, dynamic=True)
    for n, size in enumerate([(7, 3, 4, 5), (3, 5, 6, 8), (4, 3, 9, 9)]):
        input, flow, _ = sample_inputs(backend.device, size=size)
        with torch.compiler.set_stance("default" if n == 0 else "fail_on_recompile"):
            assert torch.equal(compiled(input, flow), warp(input, flow))


def test_export(backend):
    class Warp(torch.nn.Module):
        def forward(self, input, flow):
            return flow_warp(input, flow)

    input, flow, _ = sample_inputs(backend.device)
    program = torch.export.export(Warp(), (input, flow))
    assert any("flow_warp" in str(node.target) for node in program.graph.nodes)
    assert torch.equal(program.module()(input, flow), flow_warp(input, flow))


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_leaves_the_flow_its_precision(backend, low):
    input, flow, grad = sample_inputs(backend.device)
    with torch.autocast(backend.device, low):
        kept = derivatives(flow_warp, input, flow, grad)
        lowered = derivatives(flow_warp, input.to(low), flow, grad.to(low))
    for got, want in zip(kept, derivatives(flow_warp, input, flow, grad), strict=True):
        torch.testing.assert_close(got, want)
    assert lowered[0].dtype == low
    assert lowered[2].dtype == torch.float32
    torch.testing.assert_close(lowered[2], kept[2], rtol=0, atol=0.3)


@pytest.mark.parametrize("layout", FORMATS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("channels", [1, 3, 19, 40])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str
)
@pytest.mark.parametrize("padding", PADDINGS)
def test_cpu_results_do_not_depend_on_the_threads(padding, dtype, channels, layout):
    arguments = sample_inputs("cpu", dtype, (2, channels, 61, 67), layout)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            results.append(derivatives(flow_warp, *arguments, 1.0, padding))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_cpu_instruction_sets(capability):
    """Every one that this processor has, in a process of its own."""
    if capability == "avx512" and not torch.cpu._is_avx512_supported():
        pytest.skip("this processor does not have it")
    script = (
        "import torch, trajgru_ext._C as c;"
        "from accuracy import DTYPES;"
        "from flow_warp_inputs import *;"
        "print(c.facts()['cpu_capability'].lower());"
        "[compare(*sample_inputs('cpu', d, (2, 37, 5, 6), f), 1.0, p)"
        " for d in DTYPES for f in FORMATS for p in PADDINGS];"
        "import test_flow_conv as t;"
        "[t.compare(*t.sample_inputs('cpu', d, (1, 37, 4, 5), layout=f))"
        " for d in DTYPES for f in FORMATS]"
    )
    import os

    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "ATEN_CPU_CAPABILITY": capability, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if done.stdout.strip() != capability:
        pytest.skip(f"this processor or build has no {capability}")


# Errors name the operator, the argument, what was wanted and what came.

GOOD = torch.zeros(2, 3, 4, 5), torch.zeros(2, 2, 4, 5)


@pytest.mark.parametrize(
    ("input", "flow", "error", "message"),
    [
        (None, GOOD[1], TypeError, "input must be a Tensor, got NoneType"),
        (GOOD[0], [[0.0]], TypeError, "flow must be a Tensor, got list"),
        (GOOD[0].long(), GOOD[1], TypeError, "input must be float32.*got Long"),
        (GOOD[0], GOOD[1].bool(), TypeError, "flow must be float32.*got Bool"),
        (GOOD[0].cfloat(), GOOD[1], TypeError, "input must be .*got ComplexFloat"),
        (GOOD[0][0], GOOD[1], ValueError, "input must have 4 dimensions.*got 3"),
        (GOOD[0], GOOD[1][0], ValueError, "flow must have 4 dimensions.*got 3"),
        (GOOD[0], GOOD[1][:, :1], ValueError, r"flow must be \[B, 2, H, W\].*2, 1, 4"),
        (
            GOOD[0],
            GOOD[1][:1],
            ValueError,
            r"flow must be .*= \[2, 2, 4, 5\].*got \[1, 2",
        ),
        (GOOD[0], GOOD[1].mT, ValueError, r"flow must be .*got \[2, 2, 5, 4\]"),
    ],
)
def test_argument_errors(backend, input, flow, error, message):
    arguments = [
        a.to(backend.device) if isinstance(a, torch.Tensor) else a
        for a in (input, flow)
    ]
    with pytest.raises(error, match=f"flow_warp: {message}"):
        flow_warp(*arguments)


def test_scale_errors(backend):
    arguments = [tensor.to(backend.device) for tensor in GOOD]
    with pytest.raises(
        TypeError, match="flow_warp: flow_scale must be a number, got str"
    ):
        flow_warp(*arguments, "2")


def test_padding_errors(backend):
    arguments = [tensor.to(backend.device) for tensor in GOOD]
    for wrong in ("reflection", 1, None):
        message = (
            f"flow_warp: padding_mode must be one of 'zeros', 'border', got {wrong!r}"
        )
        with pytest.raises(ValueError, match=message):
            flow_warp(*arguments, padding_mode=wrong)
    with pytest.raises(ValueError, match=r"flow_warp: padding must be 0 .*, got 2"):
        backend.operator("flow_warp")(*arguments, 1.0, 2)


def test_backward_operator_errors(backend):
    grad, flow = (tensor.to(backend.device) for tensor in GOOD)
    backward = backend.operator("flow_warp_backward")
    with pytest.raises(ValueError, match="flow_warp_backward: input must be given"):
        backward(grad, None, flow, 1.0, 0, True, True)
    with pytest.raises(ValueError, match="input must have the sizes of grad"):
        backward(grad, grad[:, :1], flow, 1.0, 0, True, True)
    with pytest.raises(TypeError, match="input must have the dtype of grad, Float"):
        backward(grad, grad.double(), flow, 1.0, 0, True, True)
    with pytest.raises(ValueError, match="flow must be"):
        backward(grad, grad, flow[:, :1], 1.0, 0, True, True)
    with pytest.raises(ValueError, match="flow_warp_backward: padding must be 0"):
        backward(grad, grad, flow, 1.0, -1, True, True)


def test_sparse_tensors():
    with pytest.raises(TypeError, match="flow_warp: input must be a dense Tensor"):
        flow_warp(GOOD[0].to_sparse(), GOOD[1])


def test_meta_tensors():
    input, flow = (tensor.to("meta") for tensor in GOOD)
    output = flow_warp(input, flow)
    assert output.shape == input.shape
    assert output.device.type == "meta"
    for arguments in ((GOOD[0], flow), (input, GOOD[1])):
        with pytest.raises(ValueError, match=r"flow_warp: flow must be on .*, got"):
            flow_warp(*arguments)
    with pytest.raises(ValueError, match=r"flow must be \[2, 2, 4, 5\], got"):
        flow_warp(input, flow[:, :1])
    with pytest.raises(TypeError, match=r"input must be float32.*got torch.int64"):
        flow_warp(input.long(), flow)


@pytest.mark.parametrize("spread", [30.0, 3000.0])
@pytest.mark.parametrize("padding", PADDINGS)
def test_cpu_flow_that_points_everywhere(padding, spread):
    """Where every tile reaches every band, the bands are cut differently."""
    input, flow, grad = sample_inputs("cpu", torch.float64, (1, 4, 60, 70))
    flow = spread * flow
    got = derivatives(flow_warp, input, flow, grad, 1.0, padding)
    corners = Corners(input, flow, 1.0, PADDINGS.index(padding))
    wanted = corners.image_grad(grad), corners.flow_grad(grad, input)
    for one, other in zip(got[1:], wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_nan_beside_a_whole_displacement_does_not_leak(backend):
    """Into the gradient only where the slope to the right or below needs it."""
    input, flow, grad = sample_inputs(backend.device, torch.float64, (1, 2, 5, 5))
    input[0, 0, 3, 2] = torch.nan
    flow_grads = []
    for function in (flow_warp, reference.flow_warp):
        zero = torch.zeros_like(flow, requires_grad=True)
        output = function(input, zero)
        assert output.isnan().sum() == 1
        kept = grad.masked_fill(input.isnan(), 0)
        (flow_grad,) = torch.autograd.grad(output, zero, kept)
        flow_grads.append(flow_grad.isnan())
    own = flow_grads[0]
    # dU at the pixel and to its left, dV at the pixel and above it.
    wanted = torch.zeros_like(own)
    wanted[0, 0, 3, 1:3] = wanted[0, 1, 2:4, 2] = True
    wanted[0, :, 3, 2] = True
    assert own.equal(wanted)
