"""lstm_gates: in autograd, torch.func, torch.compile, and its errors."""

from functools import partial

import pytest
import torch
from autograd_checks import gradcheck, gradgradcheck, opcheck
from gate_inputs import derivatives, moved, present
from test_lstm_gates import LAYOUTS, PEEPHOLES, flat, sample_inputs

from trajgru_ext import lstm_gates
from trajgru_ext.ops._options import LstmOptions


def leaves(device, parts="both", peephole="none"):
    tensors, _ = sample_inputs(
        device, torch.float64, (2, 2, 1, 2), parts=parts, peephole=peephole
    )
    return [t if t is None else t.requires_grad_() for t in tensors]


@PEEPHOLES
@pytest.mark.parametrize("parts", ["both", "x", "h"])
def test_gradcheck(backend, parts, peephole):
    options = {"order": "gfio", "forget_bias": 1.0}
    function, tensors = present(
        flat(lstm_gates, **options), leaves(backend.device, parts, peephole)
    )
    assert gradcheck(function, tensors, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, tensors, check_fwd_over_rev=True)


@pytest.mark.parametrize("wanted", range(6))
def test_one_gradient_alone(backend, wanted):
    tensors = [t.detach() for t in leaves(backend.device, peephole="channel")]
    tensors[wanted].requires_grad_()
    assert gradcheck(flat(lstm_gates), tensors)
    assert gradgradcheck(flat(lstm_gates), tensors)


def test_only_the_arguments_are_saved(backend):
    tensors = leaves(backend.device, peephole="channel")
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t) or t, lambda t: t
    ):
        flat(lstm_gates)(*tensors)
    assert {t.data_ptr() for t in saved} == {t.data_ptr() for t in tensors}


def test_func_transforms(backend):
    tensors = [t.detach() for t in leaves(backend.device, peephole="element")]
    function, every = flat(lstm_gates), tuple(range(6))
    by_reverse = torch.func.jacrev(function, every)(*tensors)
    by_forward = torch.func.jacfwd(function, every)(*tensors)
    torch.testing.assert_close(by_reverse, by_forward)


@pytest.mark.parametrize(
    "dims",
    [
        (0, 0, 0),
        (None, 1, None),
        (2, None, 0),
        (0, 0, 0, None, None, None),
        (None, None, 1, 0, None, 2),
    ],
    ids=str,
)
def test_vmap(backend, dims):
    peephole = "none" if len(dims) == 3 else "element"
    tensors, seeds = sample_inputs(backend.device, torch.float64, peephole=peephole)
    tensors = tensors[: len(dims)]
    dims = dims[: len(tensors)]
    stacked = [
        t if dim is None else torch.stack([t, 0.5 * t], dim)
        for t, dim in zip(tensors, dims, strict=True)
    ]

    def function(*given):
        return flat(lstm_gates)(*given, *[None] * (6 - len(given)))

    def gradients(*given):
        return torch.func.vjp(function, *given)[1](seeds)

    for one in (function, gradients):
        got = torch.vmap(one, in_dims=dims)(*stacked)
        for k in range(2):
            pairs = zip(stacked, dims, strict=True)
            wanted = one(*(t if dim is None else t.select(dim, k) for t, dim in pairs))
            torch.testing.assert_close(tuple(g[k] for g in got), tuple(wanted))


@LAYOUTS
@PEEPHOLES
@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(backend, low, peephole, layout):
    for parts in ("both", "x", "h"):
        tensors, seeds = sample_inputs(
            backend.device,
            layout=layout,
            parts=parts,
            peephole=peephole,
            gates_dtype=low,
        )
        options = LstmOptions(3, 0, 1, 2, 0.5).numbers()
        opcheck(backend.operator("lstm_gates"), (*tensors, options))
        backward = backend.operator("lstm_gates_backward")
        opcheck(backward, (*seeds, *tensors, options, True, True, True))
        opcheck(backward, (seeds[0], None, *tensors, options, False, True, False))
        opcheck(backward, (None, seeds[1], *tensors, options, True, False, True))


@LAYOUTS
@PEEPHOLES
def test_compile_without_graph_breaks(backend, peephole, layout):
    torch.compiler.reset()
    tensors, seeds = sample_inputs(backend.device, layout=layout, peephole=peephole)
    given = len([t for t in tensors if t is not None])

    def whole(*tensors):
        return flat(lstm_gates)(*tensors, *[None] * (6 - len(tensors)))

    compiled = backend.compile(whole)
    got = derivatives(compiled, tensors[:given], seeds)
    wanted = derivatives(whole, tensors[:given], seeds)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)
    # Two steps, of which the last cell state goes nowhere.
    whole_sequence = partial(two_steps, whole)
    got = derivatives(backend.compile(whole_sequence), tensors[:given], seeds[0])
    wanted = derivatives(whole_sequence, tensors[:given], seeds[0])
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)


def two_steps(step, x_gates, h_gates, c, *weights):
    h, c = step(x_gates, h_gates, c, *weights)
    return step(x_gates, torch.cat([h] * 4, 1), c, *weights)[0]


def test_autocast_leaves_dtypes(backend):
    tensors, seeds = sample_inputs(backend.device, gates_dtype=torch.bfloat16)
    wanted = derivatives(flat(lstm_gates), tensors, seeds)
    with torch.autocast(backend.device, torch.bfloat16):
        got = derivatives(flat(lstm_gates), tensors, seeds)
    assert all(map(torch.equal, got, wanted))
    assert got[0].dtype == got[1].dtype == torch.float32


@PEEPHOLES
@pytest.mark.parametrize("size", [(3, 33, 17, 19), (2, 1, 190, 180)], ids=str)
@LAYOUTS
def test_bit_for_bit_for_any_number_of_threads(backend, layout, size, peephole):
    if backend.name != "cpu":
        pytest.skip("threads of the CPU")
    tensors, seeds = sample_inputs(
        backend.device, size=size, layout=layout, peephole=peephole
    )
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            results.append(derivatives(flat(lstm_gates), tensors, seeds))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


GATES, STATE = torch.zeros(2, 12, 4, 5), torch.zeros(2, 3, 4, 5)
WEIGHT = torch.zeros(1, 3, 1, 1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({0: 3}, TypeError, "x_gates must be a Tensor, got int"),
        ({2: None}, TypeError, "c must be a Tensor, got NoneType"),
        ({0: None, 1: None}, ValueError, "x_gates or h_gates must be given"),
        ({0: GATES.long()}, TypeError, "x_gates must be float32.*got .*(Long|int64)"),
        ({0: GATES.double()}, TypeError, "x_gates must have the dtype of c, .*, or"),
        ({1: GATES[:, :9]}, ValueError, r"h_gates .*\[B, 4F, H, W\] = \[2, 12, 4, 5"),
        ({2: STATE[0]}, ValueError, "c must have 4 dimensions"),
        ({"order": "ifgg"}, ValueError, "order must be a permutation of 'ifog'"),
        ({"forget_bias": "1"}, TypeError, "forget_bias must be a number, got str"),
        ({"peephole": WEIGHT}, ValueError, "peephole must be three tensors.*Tensor"),
        ({"peephole": [WEIGHT] * 2}, ValueError, "peephole must be three.*list of 2"),
        (
            {"peephole": [WEIGHT, WEIGHT, 1]},
            TypeError,
            r"peephole\[2\] must be a Tensor",
        ),
        ({"peephole": [WEIGHT[0]] * 3}, ValueError, r"peephole .*got \[3, 1, 1\]"),
        ({"peephole": [WEIGHT.int()] * 3}, TypeError, "peephole must be float32"),
        ({"peephole": [WEIGHT, WEIGHT, STATE[:1]]}, ValueError, "peephole must be thr"),
    ],
)
def test_argument_errors(backend, change, error, message):
    good = (GATES, GATES, STATE)
    for device in (backend.device, "meta"):
        tensors = [moved(change.get(k, t), device) for k, t in enumerate(good)]
        options = {k: moved(v, device) for k, v in change.items() if isinstance(k, str)}
        with pytest.raises(error, match=f"lstm_gates: .*{message}"):
            lstm_gates(*tensors, **options)


def test_backward_operator_errors(backend):
    gates, c = GATES.to(backend.device), STATE.to(backend.device)
    backward = backend.operator("lstm_gates_backward")
    options = (None, None, None, LstmOptions().numbers(), True, True, True)
    with pytest.raises(ValueError, match="h_grad must have the sizes of c"):
        backward(gates, None, gates, None, c, *options)
    with pytest.raises(ValueError, match="must have all of w_ci, w_cf, w_co"):
        backward(c, None, gates, None, c, WEIGHT.to(c), *options[1:])


def test_meta_tensors():
    gates, c, weight = moved([GATES, STATE, WEIGHT], "meta")
    h, new = lstm_gates(gates, gates, c, [weight] * 3)
    assert h.shape == new.shape == c.shape
    assert h.device.type == new.device.type == "meta"
    with pytest.raises(ValueError, match=r"x_gates must be on meta.*got cpu"):
        lstm_gates(GATES, gates, c)
    with pytest.raises(ValueError, match=r"peephole must be on meta.*got cpu"):
        lstm_gates(gates, gates, c, [weight, WEIGHT, weight])
