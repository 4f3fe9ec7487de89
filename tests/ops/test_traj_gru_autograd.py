"""traj_gru: in autograd, torch.func, torch.compile, autocast, and its errors."""

import pytest
import torch
from autograd_checks import gradcheck, gradgradcheck, opcheck
from traj_gru_inputs import (
    FORMATS,
    derivatives,
    flatten,
    in_dtype,
    sample_arguments,
    sample_offset,
    sample_seeds,
    unflatten,
    with_flows,
)

from trajgru_ext import traj_gru
from trajgru_ext.ops._options import GruOptions

RECOMPUTE = pytest.mark.parametrize("recompute", ["none", "gates", "flows"])
SMALL = (2, 1, 1, 2, 2, 3)


def leaves(backend, sizes=SMALL, links=1, **options):
    """All tensors of some arguments, and how to call the operator on them."""
    arguments = sample_arguments(
        backend.device, sizes=sizes, links=links, within_cells=True, **options
    )
    return [None if t is None else t.requires_grad_() for t in flatten(arguments)]


def on_tensors(**options):
    def call(*tensors):
        return with_flows(*unflatten(tensors), **options)

    return call


@RECOMPUTE
@pytest.mark.parametrize("activation", ["leaky_relu", "tanh"])
def test_gradcheck(backend, activation, recompute):
    function = on_tensors(activation=activation, recompute=recompute)
    assert gradcheck(function, leaves(backend))


@pytest.mark.parametrize("with_offset", [False, True], ids=["", "offset"])
def test_forward_mode_and_batched_gradients(backend, with_offset):
    tensors = leaves(backend)
    offset = sample_offset(backend.device, 1, SMALL[-2:]) if with_offset else None
    function = on_tensors(flow_offset=offset)
    assert gradcheck(function, tensors, check_forward_ad=True)
    assert gradcheck(function, tensors, check_batched_grad=True)


@pytest.mark.parametrize("with_offset", [False, True], ids=["", "offset"])
@pytest.mark.parametrize("activation", ["leaky_relu", "tanh"])
def test_gradgradcheck(backend, activation, with_offset):
    offset = sample_offset(backend.device, 1, SMALL[-2:]) if with_offset else None
    function = on_tensors(activation=activation, flow_offset=offset)
    assert gradgradcheck(function, leaves(backend), fast_mode=True)


@pytest.mark.parametrize("wanted", range(12))
def test_one_gradient_alone(backend, wanted):
    tensors = [t.detach() for t in leaves(backend)]
    tensors[wanted].requires_grad_()
    assert gradcheck(on_tensors(), tensors)
    assert gradgradcheck(on_tensors(activation="tanh"), tensors, fast_mode=True)


@pytest.mark.parametrize("given", ["inputs", "h"])
def test_gradients_where_an_argument_is_absent(backend, given):
    steps = {"steps": 2} if given == "h" else {}
    present = {"with_inputs": given == "inputs", "with_h": given == "h"}
    tensors = leaves(backend, **present)
    assert gradcheck(on_tensors(**steps), tensors)
    assert gradgradcheck(
        on_tensors(activation="tanh", **steps), tensors, fast_mode=True
    )


@RECOMPUTE
def test_backward_twice(backend, recompute):
    tensors = leaves(backend)
    outputs, _ = on_tensors(recompute=recompute)(*tensors)
    seed = torch.ones_like(outputs)
    first = torch.autograd.grad(outputs, tensors, seed, retain_graph=True)
    second = torch.autograd.grad(outputs, tensors, seed)
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other)


def test_batched_gradients_of_one_backward_pass(backend):
    """Without `retain_graph`, as by `vmap` and by `is_grads_batched`."""
    tensors = leaves(backend)
    outputs, _ = on_tensors()(*tensors)
    seeds = torch.stack([torch.ones_like(outputs), -outputs.detach()])
    wanted = [
        torch.autograd.grad(outputs, tensors, seed, retain_graph=True) for seed in seeds
    ]
    again, _ = on_tensors()(*tensors)
    mapped = torch.vmap(lambda seed: torch.autograd.grad(outputs, tensors, seed))(seeds)
    batched = torch.autograd.grad(again, tensors, seeds, is_grads_batched=True)
    for got in (mapped, batched):
        for one, *others in zip(got, *wanted, strict=True):
            torch.testing.assert_close(one, torch.stack(others))


def test_gradients_of_each_sample(backend):
    tensors = [t.detach() for t in leaves(backend)]
    images = torch.stack([tensors[0], 0.5 * tensors[0]])

    def loss(image):
        return on_tensors()(image, *tensors[1:])[0].square().sum()

    got = torch.vmap(torch.func.grad(loss))(images)
    wanted = torch.stack([torch.func.grad(loss)(image) for image in images])
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("empty", [0, 1, 4, 5], ids=["T", "B", "H", "W"])
def test_double_backward_of_empty_tensors(backend, empty):
    sizes = [2, 1, 1, 2, 2, 3]
    sizes[empty] = 0
    tensors = leaves(backend, sizes=tuple(sizes))
    outputs = on_tensors()(*tensors)
    seeds = [torch.ones_like(one).requires_grad_() for one in outputs]
    found = torch.autograd.grad(outputs, tensors, seeds, create_graph=True)
    total = sum(one.square().sum() for one in found)
    for one in torch.autograd.grad(total, tensors, allow_unused=True):
        assert one is None or not one.any()


def test_a_parameter_that_inputs_depend_on(backend):
    """Its gradient by this way is not counted again in double backward."""
    tensors = [t.detach() for t in leaves(backend)]
    weight = tensors[6].requires_grad_()

    def function(weight):
        inputs = tensors[0] * weight.sum()
        return on_tensors(activation="tanh")(
            inputs, *tensors[1:6], weight, *tensors[7:]
        )

    assert gradgradcheck(function, [weight])


def test_func_transforms(backend):
    tensors = [t.detach() for t in leaves(backend)]

    def loss(*tensors):
        return on_tensors()(*tensors)[0].square().sum()

    every = tuple(range(12))
    got = torch.func.grad(loss, every)(*tensors)
    tracked = [t.requires_grad_() for t in tensors]
    wanted = torch.autograd.grad(loss(*tracked), tracked)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("mapped", [(0,), (1,), (0, 1), (6,), (0, 10, 11)], ids=str)
def test_vmap(backend, mapped):
    tensors = [t.detach() for t in leaves(backend)]
    dims = tuple(0 if k in mapped else None for k in range(12))
    pairs = list(zip(tensors, dims, strict=True))
    stacked = [t if d is None else torch.stack([t, 0.5 * t]) for t, d in pairs]
    got = torch.vmap(on_tensors(), in_dims=dims)(*stacked)
    for k in range(2):
        one = [t if d is None else t[k] for t, d in zip(stacked, dims, strict=True)]
        for batched, wanted in zip(got, on_tensors()(*one), strict=True):
            torch.testing.assert_close(batched[k], wanted)


@pytest.mark.parametrize("layout", FORMATS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kept", range(3))
def test_opcheck(backend, kept, dtype, layout):
    for given in ({}, {"with_h": False}, {"with_inputs": False}):
        arguments = sample_arguments(backend.device, dtype, layout=layout, **given)
        inputs, h, *parameters = flatten(arguments)
        parameters[8] = parameters[8].flatten(1)
        forward = backend.operator("traj_gru")
        offset = sample_offset(backend.device) if kept == 1 else None
        options = GruOptions(activation=2, negative_slope=0.2)
        choices = (options.numbers(), None, offset)
        opcheck(forward, (inputs, h, parameters, 3, *choices, kept))
        left = forward(inputs, h, parameters, 3, *choices, kept)
        seeds = sample_seeds(arguments, 3)
        wanted = [inputs is not None, h is not None, *[inputs is not None] * 4]
        wanted += [True] * 6
        backward = backend.operator("traj_gru_backward")
        tensors = (*seeds, inputs, h, parameters)
        opcheck(backward, (*tensors, *choices, *left, kept, wanted))


@RECOMPUTE
def test_compile_without_graph_breaks(backend, recompute):
    torch.compiler.reset()
    arguments = sample_arguments(backend.device, torch.float32)
    seeds = sample_seeds(arguments, 3)
    compiled = backend.compile(with_flows)
    got = derivatives(compiled, arguments, seeds, recompute=recompute)
    wanted = derivatives(with_flows, arguments, seeds, recompute=recompute)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(backend, low):
    arguments = sample_arguments(backend.device, torch.float32)
    seeds = sample_seeds(in_dtype(arguments, low, backend.device), 3)
    with torch.autocast(backend.device, low):
        got = derivatives(with_flows, arguments, seeds)
    wanted = derivatives(with_flows, in_dtype(arguments, low, backend.device), seeds)
    assert got[0].dtype == low
    assert got[1].dtype == torch.float32
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other.to(one.dtype))


def test_meta_tensors():
    outputs, flows = with_flows(*sample_arguments("meta", torch.bfloat16))
    assert outputs.shape == (3, 2, 3, 4, 5)
    assert flows.shape == (3, 2, 4, 4, 5)
    assert outputs.dtype == torch.bfloat16
    assert flows.dtype == torch.float32


def test_zoneout_mask_is_broadcast(backend):
    arguments = sample_arguments(backend.device)
    mask = torch.rand(3, 1, 3, 1, 1, device=backend.device) < 0.5
    got = traj_gru(*arguments, zoneout_mask=mask)[0]
    whole = mask.expand(3, 2, 3, 4, 5).float()
    assert torch.equal(got, traj_gru(*arguments, zoneout_mask=whole)[0])


NAMES = ["inputs", "h", "i2h", "i2f_conv1", "h2f_conv1", "flows_conv", "ret"]
ZEROS = torch.zeros


@pytest.mark.parametrize("device", ["real", "meta"])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"inputs": 3}, TypeError, "inputs must be a Tensor, got int"),
        (
            {"ret": None},
            ValueError,
            "the weights of h2f_conv1, flows_conv and ret must be given",
        ),
        ({"i2h": None}, ValueError, "the weights of i2h and i2f_conv1 must be given"),
        ({"i2h": ZEROS(1)}, TypeError, "i2h must be a weight and a bias.*got Tensor"),
        ({"ret": ("w", None)}, TypeError, r"ret\[0\] must be a Tensor, got str"),
        ({"inputs": None, "h": None}, ValueError, "steps must be given without"),
        ({"inputs": None, "h": None, "steps": 3}, ValueError, "inputs or h must be"),
        ({"steps": 4}, ValueError, "steps must be the number of inputs, 3.*got 4"),
        ({"steps": -1, "inputs": None}, ValueError, "steps must not be below 0, got"),
        ({"activation": "elu"}, ValueError, "activation must be one of.*got 'elu'"),
        ({"recompute": 1}, ValueError, "recompute must be one of.*got 1"),
        ({"negative_slope": -1}, ValueError, "negative_slope must not be below 0"),
        ({"h": ZEROS(2, 4, 4, 5)}, ValueError, r"h must be \[2, 3, 4, 5\].*\[2, 4"),
        ({"h": ZEROS(3, 4, 5)}, ValueError, "h must .*got"),
        ({"h": ZEROS(3, 4), "inputs": None, "steps": 2}, ValueError, "h must .*got"),
        ({"h": ZEROS(2, 3, 4, 5).int()}, TypeError, "h must be float32.*got"),
        ({"h": ZEROS(2, 3, 4, 5).half()}, TypeError, "h must have the dtype of"),
        ({"inputs": ZEROS(3, 2, 4, 5)}, ValueError, "inputs must .*got"),
        ({"i2h": (ZEROS(9, 4, 3, 3), None)}, ValueError, "i2h_weight must be.*got"),
        ({"h2f_conv1": (ZEROS(3, 3, 4, 5), None)}, ValueError, "odd kernel"),
        (
            {"flows_conv": (ZEROS(3, 3, 5, 5), None)},
            ValueError,
            "flows_conv_weight must",
        ),
        ({"ret": (ZEROS(9, 5), None)}, ValueError, r"ret_weight must be \[3F, L"),
        ({"ret": (ZEROS(9, 6), ZEROS(8))}, ValueError, r"ret_bias must be.*got \[8\]"),
        ({"flow_offset": 0.5}, TypeError, "flow_offset must be a Tensor, got float"),
        ({"flow_offset": ZEROS(4, 5, 4)}, ValueError, "flow_offset must .*got"),
        ({"flow_offset": ZEROS(4, 1, 1)}, ValueError, "flow_offset must .*got"),
        (
            {"flow_offset": ZEROS(4, 4, 5).requires_grad_()},
            ValueError,
            "flow_offset must not require a gradient",
        ),
        ({"zoneout_mask": ZEROS(4)}, ValueError, "zoneout_mask must broadcast to"),
    ],
)
def test_argument_errors(backend, change, error, message, device):
    device = backend.device if device == "real" else "meta"
    arguments = sample_arguments(device, torch.float32)
    named = dict(zip(NAMES, arguments, strict=True))

    def place(value):
        if isinstance(value, torch.Tensor):
            return value.to(device)
        return tuple(map(place, value)) if isinstance(value, tuple) else value

    named |= {name: place(value) for name, value in change.items()}
    with pytest.raises(error, match=f"traj_gru: .*{message}"):
        traj_gru(**named)
