"""gru_gates, gru_reset, gru_output: autograd, torch.func, torch.compile, errors."""

import itertools
from functools import partial

import pytest
import torch
from autograd_checks import gradcheck, gradgradcheck, opcheck
from gate_inputs import FORMATS, derivatives, moved, present
from test_gru_gates import (
    ACTIVATIONS,
    LAYOUTS,
    PARTS,
    UPDATES,
    sample_inputs,
    sample_output,
    zoneout,
)

from trajgru_ext import gru_gates, gru_output, gru_reset
from trajgru_ext.ops._options import GruOptions

# Finite differences take time with the square of it.
SMALL = (2, 2, 1, 2)


def leaves(device, parts="both", gates=3):
    *tensors, _ = sample_inputs(device, torch.float64, SMALL, FORMATS[0], parts)
    if gates == 2:
        tensors = [t if t is None or t.shape[1] < 6 else t[:, :4] for t in tensors]
    return [t if t is None else t.clone().requires_grad_() for t in tensors]


def check_derivatives(function, tensors):
    function, tensors = present(function, tensors)
    assert gradcheck(function, tensors, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, tensors, check_fwd_over_rev=True)


@PARTS
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradcheck(backend, activation, parts):
    tensors = leaves(backend.device, parts)
    mask = zoneout(backend.device, SMALL)
    options = {"activation": activation, "order": "nur", "zoneout_mask": mask}
    for update in UPDATES:
        check_derivatives(partial(gru_gates, update=update, **options), tensors)


@PARTS
def test_gradcheck_of_the_halves(backend, parts):
    tensors = leaves(backend.device, parts, gates=2)
    check_derivatives(gru_reset, tensors)
    check_derivatives(lambda *given: gru_reset(*given)[1], tensors)
    u, candidate, h, _ = sample_output(backend.device, torch.float64, SMALL)
    tensors = [t.detach().requires_grad_() for t in (u, candidate, h)]
    mask = zoneout(backend.device, SMALL)
    for activation, update in itertools.product(ACTIVATIONS, UPDATES):
        options = {"activation": activation, "update": update, "zoneout_mask": mask}
        check_derivatives(partial(gru_output, **options), tensors)


@pytest.mark.parametrize("wanted", range(3))
@pytest.mark.parametrize("function", [gru_gates, gru_reset, gru_output])
def test_one_gradient_alone(backend, function, wanted):
    if function is gru_output:
        tensors = [*sample_output(backend.device, torch.float64, (1, 2, 2, 2))[:3]]
    else:
        tensors = leaves(backend.device, gates=3 if function is gru_gates else 2)
    tensors = [t.detach() for t in tensors]
    tensors[wanted].requires_grad_()
    assert gradcheck(function, tensors)
    # Nothing depends on what is linear: a zero Hessian is no differentiable function.
    linear = function is not gru_gates and wanted == 2
    linear = linear or (function is gru_output and wanted == 0)
    if not linear:
        assert gradgradcheck(function, tensors)


def test_only_the_arguments_are_saved(backend):
    *tensors, _ = sample_inputs(backend.device)
    tensors = [t.requires_grad_() for t in tensors]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t) or t, lambda t: t
    ):
        gru_gates(*tensors)
    assert {t.data_ptr() for t in saved} == {t.data_ptr() for t in tensors}


def test_func_transforms(backend):
    tensors = [t.detach() for t in leaves(backend.device)]
    by_reverse = torch.func.jacrev(gru_gates, (0, 1, 2))(*tensors)
    by_forward = torch.func.jacfwd(gru_gates, (0, 1, 2))(*tensors)
    torch.testing.assert_close(by_reverse, by_forward)


@pytest.mark.parametrize("dims", [(0, 0, 0), (None, 1, None), (2, None, 0)], ids=str)
@pytest.mark.parametrize("function", [gru_gates, gru_reset, gru_output])
def test_vmap(backend, function, dims):
    if function is gru_output:
        tensors = [*sample_output(backend.device, torch.float64)[:3]]
    else:
        gates = 3 if function is gru_gates else 2
        *tensors, _ = sample_inputs(backend.device, torch.float64, gates=gates)
    stacked = [
        t if dim is None else torch.stack([t, 0.5 * t], dim)
        for t, dim in zip(tensors, dims, strict=True)
    ]
    got = torch.vmap(function, in_dims=dims)(*stacked)
    for k in range(2):
        pairs = zip(stacked, dims, strict=True)
        one = function(*(t if dim is None else t.select(dim, k) for t, dim in pairs))
        torch.testing.assert_close(
            got[k] if isinstance(got, torch.Tensor) else tuple(g[k] for g in got), one
        )


@LAYOUTS
@PARTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(backend, dtype, parts, layout):
    def inputs(gates):
        return sample_inputs(
            backend.device, torch.float32, layout=layout, parts=parts, gates=gates
        )

    def low(tensors):
        return [None if t is None else t.to(dtype) for t in tensors]

    x_gates, h_gates, h, grad = inputs(3)
    gates = low((x_gates, h_gates))
    mask = zoneout(backend.device)
    options = GruOptions(2, 0, 1, 2, 0.2, True).numbers()
    opcheck(backend.operator("gru_gates"), (*gates, h, options, mask))
    opcheck(backend.operator("gru_gates"), (*gates, h, options, None))
    backward = backend.operator("gru_gates_backward")
    for wanted in ((True, True, True), (False, True, False)):
        opcheck(backward, (grad, *gates, h, options, mask, *wanted))

    x_gates, h_gates, h, grad = inputs(2)
    gates = low((x_gates, h_gates))
    options = GruOptions(1, 0).numbers()
    opcheck(backend.operator("gru_reset"), (*gates, h, options))
    backward = backend.operator("gru_reset_backward")
    for u_grad, wanted in ((grad, (True, True)), (None, (False, True))):
        opcheck(backward, (u_grad, grad, *gates, h, options, *wanted))

    u, candidate, h, grad = sample_output(backend.device, layout=layout)
    candidate = candidate.to(dtype)
    choices = GruOptions(activation=1, negative_slope=0.2, u_weighs_old=False)
    options = (choices.numbers(), mask)
    opcheck(backend.operator("gru_output"), (u, candidate, h, *options))
    backward = backend.operator("gru_output_backward")
    for wanted in ((True, True, True), (False, True, False)):
        opcheck(backward, (grad, u, candidate, h, *options, *wanted))


@LAYOUTS
def test_compile_without_graph_breaks(backend, layout):
    torch.compiler.reset()
    *tensors, grad = sample_inputs(backend.device, layout=layout)
    mask = zoneout(backend.device)

    def whole(x_gates, h_gates, h):
        new = gru_gates(x_gates, h_gates, h, zoneout_mask=mask)
        u, reset = gru_reset(x_gates[:, :10], h_gates[:, :10], new, "ur")
        return gru_output(u, x_gates[:, 10:], reset, "relu", update="replace")

    got = derivatives(backend.compile(whole), tensors, grad)
    for one, other in zip(got, derivatives(whole, tensors, grad), strict=True):
        torch.testing.assert_close(one, other)


def test_autocast_leaves_dtypes(backend):
    *tensors, grad = sample_inputs(backend.device, gates_dtype=torch.bfloat16)
    wanted = derivatives(gru_gates, tensors, grad)
    with torch.autocast(backend.device, torch.bfloat16):
        got = derivatives(gru_gates, tensors, grad)
    assert all(map(torch.equal, got, wanted))
    assert got[0].dtype == torch.float32


def test_operator_with_tensors_that_require_grad(backend):
    """As in an exported program, where gates and state must be converted too."""
    x_gates, h_gates, h, _ = sample_inputs(backend.device, torch.float64)
    tensors = [x_gates.float(), h_gates.contiguous(memory_format=FORMATS[1]), h]
    operator = backend.operator("gru_gates")
    options = (GruOptions().numbers(), None)
    wanted = operator(*tensors, *options)
    got = operator(*(t.requires_grad_() for t in tensors), *options)
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("size", [(3, 33, 17, 19), (2, 1, 90, 70)], ids=str)
@LAYOUTS
def test_bit_for_bit_for_any_number_of_threads(backend, layout, size):
    if backend.name != "cpu":
        pytest.skip("threads of the CPU")
    *tensors, grad = sample_inputs(backend.device, size=size, layout=layout)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(derivatives(gru_gates, tensors, grad))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


GOOD = [torch.zeros(2, 9, 4, 5), torch.zeros(2, 9, 4, 5), torch.zeros(2, 3, 4, 5)]
MASK = torch.zeros(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({0: 3}, TypeError, "x_gates must be a Tensor, got int"),
        ({1: "g"}, TypeError, "h_gates must be a Tensor, got str"),
        ({2: None}, TypeError, "h must be a Tensor, got NoneType"),
        ({0: None, 1: None}, ValueError, "x_gates or h_gates must be given"),
        ({0: GOOD[0].int()}, TypeError, "x_gates must be float32.*got .*(Int|int32)"),
        ({0: GOOD[0].double()}, TypeError, "x_gates must have the dtype of h, .*or"),
        ({0: GOOD[0][0]}, ValueError, "x_gates must have 4 dimensions.*got 3"),
        ({1: GOOD[1][:, :6]}, ValueError, r"h_gates .*\[B, 3F, H, W\] = \[2, 9, 4, 5"),
        ({2: GOOD[2][0]}, ValueError, "h must have 4 dimensions"),
        ({"order": "ruo"}, ValueError, "order must be a permutation of 'run', got 'ru"),
        ({"order": 3}, ValueError, "order must be a permutation of 'run', got 3"),
        ({"activation": "elu"}, ValueError, "activation must be one of 'tanh', 'relu'"),
        ({"negative_slope": None}, TypeError, "negative_slope must be a number"),
        ({"update": "new"}, ValueError, "update must be one of 'keep', 'replace', got"),
        ({"zoneout_mask": 1}, TypeError, "zoneout_mask must be a Tensor, got int"),
        ({"zoneout_mask": MASK[0, 0, 0, :2]}, ValueError, r"must broadcast.*got \[2\]"),
        ({"zoneout_mask": MASK[None]}, ValueError, "zoneout_mask must broadcast to"),
    ],
)
def test_argument_errors(backend, change, error, message):
    for device in (backend.device, "meta"):
        tensors = [moved(change.get(k, t), device) for k, t in enumerate(GOOD)]
        options = {k: moved(v, device) for k, v in change.items() if isinstance(k, str)}
        with pytest.raises(error, match=f"gru_gates: .*{message}"):
            gru_gates(*tensors, **options)


@pytest.mark.parametrize("device", ["", "meta"])
def test_argument_errors_of_the_halves(backend, device):
    x_gates, _, h = (tensor.to(device or backend.device) for tensor in GOOD)
    with pytest.raises(ValueError, match=r"gru_reset: x_gates must be \[B, 2F, H, W"):
        gru_reset(x_gates, None, h)
    with pytest.raises(
        ValueError, match=r"gru_reset: order must be .* 'ru', got 'run'"
    ):
        gru_reset(x_gates[:, :6], None, h, "run")
    with pytest.raises(ValueError, match=r"gru_output: candidate must be \[B, F, H, W"):
        gru_output(h, x_gates, h)
    with pytest.raises(ValueError, match="gru_output: u must have the sizes of h"):
        gru_output(x_gates, h, h)
    with pytest.raises(TypeError, match="gru_output: u must have the dtype of h"):
        gru_output(h.double(), h, h)
    with pytest.raises(TypeError, match="gru_output: u must be a Tensor, got None"):
        gru_output(None, h, h)


def test_backward_operator_errors(backend):
    x_gates, _, h = (tensor.to(backend.device) for tensor in GOOD)
    backward = backend.operator("gru_gates_backward")
    wanted = (None, True, True, True)
    good = GruOptions()
    with pytest.raises(ValueError, match="grad must have the sizes of h"):
        backward(x_gates, x_gates, None, h, good.numbers(), *wanted)
    for message, numbers in (
        (r"gate_order must be a permutation of 0 to 2, got \[0, 1, 3\]", (0, 1, 3)),
        ("candidate_slice must be a whole number", (0, 1, 1.5)),
        ("candidate_slice must be a whole number", (0, 1, float("nan"))),
        ("activation must be 0, 1 or 2, got 3", (0, 1, 2, 3)),
        ("u_weighs_old must be a whole number from 0 to 1", (0, 1, 2, 0, 0.2, 2)),
    ):
        bad = [*numbers, *good.numbers()[len(numbers) :]]
        with pytest.raises(ValueError, match=f"gru_gates_backward: {message}"):
            backward(h, x_gates, None, h, bad, *wanted)
    with pytest.raises(ValueError, match="options must be 7 numbers, got 2"):
        backward(h, x_gates, None, h, [0, 1], *wanted)


def test_meta_tensors():
    x_gates, h_gates, h = moved(GOOD, "meta")
    output = gru_gates(x_gates, h_gates, h, zoneout_mask=MASK.to("meta"))
    assert output.shape == h.shape
    assert output.device.type == "meta"
    with pytest.raises(ValueError, match=r"gru_gates: h_gates must be on meta.*cpu"):
        gru_gates(x_gates, GOOD[1], h)
    with pytest.raises(ValueError, match=r"zoneout_mask must be on cpu.*got meta"):
        gru_gates(*GOOD, zoneout_mask=MASK.to("meta"))
    for u, candidate in ((GOOD[2], h), (h, GOOD[2])):
        with pytest.raises(ValueError, match=r"gru_output: .* must be on meta.*cpu"):
            gru_output(u, candidate, h)
