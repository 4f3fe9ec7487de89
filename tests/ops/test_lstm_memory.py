"""lstm_memory on every backend: values and gradients, autograd and errors."""

import itertools
import math

import pytest
import torch
from accuracy import DTYPES
from autograd_checks import gradcheck, gradgradcheck, opcheck
from flow_warp_inputs import STRIDES, strided
from gate_inputs import FORMATS, assert_equal, assert_updates, derivatives, normal

from trajgru_ext import lstm_gates, lstm_memory, reference
from trajgru_ext.ops._options import LstmOptions

LAYOUTS = pytest.mark.parametrize(
    "layout", FORMATS, ids=["contiguous", "channels_last"]
)
PARTS = pytest.mark.parametrize("parts", ["both", "x", "h"])


def sample_inputs(
    device,
    dtype=torch.float32,
    size=(2, 5, 4, 6),
    layout=FORMATS[0],
    parts="both",
    gates_dtype=None,
):
    """Both parts of the gates and the cell state; the gradient to the new one."""
    generator = torch.Generator().manual_seed(sum(size))
    batch, features, height, width = size

    def image(count, dtype):
        shape = (batch, count * features, height, width)
        values = normal(generator, device, dtype, *shape)
        return values.contiguous(memory_format=layout)

    gates = [
        image(3, gates_dtype or dtype) if parts in ("both", k) else None for k in "xh"
    ]
    return [*gates, image(1, dtype)], image(1, dtype)


def on_cpu(tensors):
    return [None if t is None else t.cpu() for t in tensors]


@pytest.mark.kernels
@PARTS
@LAYOUTS
def test_every_order_matches_the_naive_formula(backend, layout, parts):
    tensors, seed = sample_inputs(
        backend.device, torch.float64, layout=layout, parts=parts
    )
    for order in map("".join, itertools.permutations("ifg")):
        got = derivatives(lambda *t, o=order: lstm_memory(*t, o, 0.7), tensors, seed)
        wanted = derivatives(
            lambda *t, o=order: reference.lstm_memory(*t, o, 0.7),
            on_cpu(tensors),
            seed.cpu(),
        )
        assert_equal([g.cpu() for g in got], wanted)


@pytest.mark.kernels
@LAYOUTS
@pytest.mark.parametrize(
    "size",
    [(1, 1, 1, 1), (2, 3, 1, 1), (1, 67, 3, 4), (3, 4, 5, 1), (2, 35, 9, 11)],
    ids=str,
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_and_sizes_match_the_naive_formula(backend, dtype, size, layout):
    tensors, seed = sample_inputs(backend.device, dtype, size, layout)
    got = assert_updates(lstm_memory, reference.lstm_memory, tensors, (seed,))
    assert all(one.dtype == dtype for one in got)
    format_of_gates = torch.empty(size).contiguous(memory_format=layout).stride()
    assert got[0].stride() == format_of_gates or size[1:] == (1, 1, 1)


@pytest.mark.kernels
@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_gates_of_a_lower_dtype(backend, low):
    """As under autocast: the arithmetic is the state's, each gradient its tensor's."""
    tensors, seed = sample_inputs(backend.device, gates_dtype=low)
    got = assert_updates(lstm_memory, reference.lstm_memory, tensors, (seed,))
    assert [one.dtype for one in got] == [torch.float32, low, low, torch.float32]


@pytest.mark.kernels
@pytest.mark.parametrize("strides", STRIDES)
def test_any_strides(backend, strides):
    for layout, which in itertools.product(FORMATS, range(4)):
        tensors, seed = sample_inputs(backend.device, torch.float64, layout=layout)
        wanted = derivatives(lstm_memory, tensors, seed)
        if which < 3:
            tensors[which] = strided(tensors[which], strides)
        else:
            seed = strided(seed, strides)
        assert_equal(derivatives(lstm_memory, tensors, seed), wanted)


@pytest.mark.kernels
@LAYOUTS
def test_slices_of_a_larger_tensor(backend, layout):
    """Those of PredRNN's two memories lie in one."""
    generator = torch.Generator().manual_seed(0)
    whole = normal(generator, backend.device, torch.float64, 2, 35, 4, 6)
    whole = whole.contiguous(memory_format=layout)
    (_, h_gates, c), seed = sample_inputs(backend.device, torch.float64, layout=layout)
    for start in (0, 15, 20):
        part = whole[:, start : start + 15]
        got = derivatives(lstm_memory, (part, h_gates, c), seed)
        wanted = derivatives(lstm_memory, (part.clone(), h_gates, c), seed)
        assert_equal(got, wanted)


@pytest.mark.kernels
@LAYOUTS
def test_is_the_memory_of_lstm_gates(backend, layout):
    """Bit for bit."""
    (x_gates, h_gates, c), _ = sample_inputs(backend.device, layout=layout)
    four = [torch.cat([gates, gates[:, :5]], 1) for gates in (x_gates, h_gates)]
    four = [gates.contiguous(memory_format=layout) for gates in four]
    _, wanted = lstm_gates(*four, c, order="ifgo", forget_bias=1.0)
    assert lstm_memory(x_gates, h_gates, c, forget_bias=1.0).equal(wanted)


@pytest.mark.kernels
@LAYOUTS
@pytest.mark.parametrize("empty", range(4), ids=["batch", "features", "height", "w"])
def test_empty_tensors(backend, empty, layout):
    size = [2, 3, 4, 5]
    size[empty] = 0
    tensors, seed = sample_inputs(backend.device, size=tuple(size), layout=layout)
    got = derivatives(lstm_memory, tensors, seed)
    for one, like in zip(got, (seed, *tensors), strict=True):
        assert one.shape == like.shape


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_saturated_gates(backend, dtype):
    """Finite values and gradients."""
    values = torch.tensor([0.0, 1e-30, 20.0, -88.5, 88.5, 6e4, -6e4])
    grid = torch.cartesian_prod(*[values] * 3).T.reshape(1, 3, 7, 49)
    x_gates = grid.to(backend.device, dtype)
    c = torch.full_like(x_gates[:, :1], -2.0)
    got = derivatives(lstm_memory, [x_gates, None, c], c / 4)
    assert all(one.isfinite().all() for one in got)


@pytest.mark.kernels
def test_nan_stays_where_it_is(backend):
    size = (1, 4, 3, 5)
    for which, layout in itertools.product(range(3), FORMATS):
        tensors, _ = sample_inputs(backend.device, size=size, layout=layout)
        tensors[which][0, 5 % tensors[which].shape[1], 2, 3] = math.nan
        here = torch.zeros(size, dtype=torch.bool, device=backend.device)
        here[0, 1, 2, 3] = True
        assert lstm_memory(*tensors).isnan().equal(here)


@PARTS
def test_gradcheck(backend, parts):
    tensors, _ = sample_inputs(backend.device, torch.float64, (2, 2, 1, 2), parts=parts)
    given = [t.requires_grad_() for t in tensors if t is not None]

    def function(*some):
        each = iter(some)
        return lstm_memory(
            *(None if t is None else next(each) for t in tensors), "gfi", 1.0
        )

    assert gradcheck(function, given, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, given, check_fwd_over_rev=True)


@pytest.mark.parametrize("wanted", range(3))
def test_one_gradient_alone(backend, wanted):
    tensors, _ = sample_inputs(backend.device, torch.float64, (2, 2, 1, 2))
    tensors[wanted].requires_grad_()
    assert gradcheck(lstm_memory, tensors)
    assert gradgradcheck(lstm_memory, tensors)


def test_only_the_arguments_are_saved(backend):
    tensors = [t.requires_grad_() for t in sample_inputs(backend.device)[0]]
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t) or t, lambda t: t
    ):
        lstm_memory(*tensors)
    assert {t.data_ptr() for t in saved} == {t.data_ptr() for t in tensors}


@pytest.mark.parametrize("dims", [(0, 0, 0), (None, 1, None), (2, None, 0)], ids=str)
def test_vmap(backend, dims):
    tensors, seed = sample_inputs(backend.device, torch.float64)
    stacked = [
        t if dim is None else torch.stack([t, 0.5 * t], dim)
        for t, dim in zip(tensors, dims, strict=True)
    ]

    def gradients(*given):
        return torch.func.vjp(lstm_memory, *given)[1](seed)

    for one in (lambda *given: (lstm_memory(*given),), gradients):
        got = torch.vmap(one, in_dims=dims)(*stacked)
        for k in range(2):
            pairs = zip(stacked, dims, strict=True)
            wanted = one(*(t if dim is None else t.select(dim, k) for t, dim in pairs))
            torch.testing.assert_close(tuple(g[k] for g in got), tuple(wanted))


@LAYOUTS
@PARTS
@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck(backend, low, parts, layout):
    tensors, seed = sample_inputs(
        backend.device, layout=layout, parts=parts, gates_dtype=low
    )
    options = LstmOptions(2, 0, 1, forget_bias=0.5).numbers()
    opcheck(backend.operator("lstm_memory"), (*tensors, options))
    backward = backend.operator("lstm_memory_backward")
    for wanted in ((True, True), (False, True), (True, False)):
        opcheck(backward, (seed, *tensors, options, *wanted))


@LAYOUTS
def test_compile_without_graph_breaks(backend, layout):
    torch.compiler.reset()
    tensors, seed = sample_inputs(backend.device, layout=layout)
    compiled = backend.compile(lstm_memory)
    got = derivatives(compiled, tensors, seed)
    torch.testing.assert_close(got, derivatives(lstm_memory, tensors, seed))


def test_wrong_arguments(backend):
    (x_gates, h_gates, c), _ = sample_inputs(backend.device)
    wrong = [
        (TypeError, "x_gates must be a Tensor", ([1.0], None, c)),
        (ValueError, "x_gates or h_gates must be given", (None, None, c)),
        (ValueError, r"x_gates must be \[B, 3F, H, W\]", (x_gates[:, :10], None, c)),
        (ValueError, r"h_gates must be \[B, 3F, H, W\]", (None, h_gates[:1], c)),
        (TypeError, "x_gates must have the dtype of c", (x_gates.double(), None, c)),
        (
            ValueError,
            "order must be a permutation of 'ifg'",
            (x_gates, None, c, "ifog"),
        ),
        (TypeError, "forget_bias must be a number", (x_gates, None, c, "ifg", "1")),
    ]
    for kind, message, given in wrong:
        with pytest.raises(kind, match=f"lstm_memory: {message}"):
            lstm_memory(*given)


def test_the_operator_has_no_output_gate(backend):
    (x_gates, _, c), _ = sample_inputs(backend.device)
    options = LstmOptions(3, 1, 2, 0).numbers()
    with pytest.raises(ValueError, match="must be a permutation of 0 to 2"):
        backend.operator("lstm_memory")(x_gates, None, c, options)
