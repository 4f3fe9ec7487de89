"""conv_gru and conv_lstm in autograd, torch.func, torch.compile, autocast; errors."""

import pytest
import torch
from autograd_checks import gradcheck, gradgradcheck, opcheck
from conv_rnn_inputs import (
    FORMATS,
    PEEPHOLE,
    SMALL,
    derivatives,
    on_tensors,
    sample_arguments,
    sample_seeds,
)
from test_conv_rnn import EVERY, GRU, LSTM, RECOMPUTE, variants

from trajgru_ext.ops._options import GruOptions, LstmOptions


def leaves(net, backend, **options):
    """The names of some tensors, and the tensors."""
    if net is not GRU:
        options = {"peephole": "channel", **options}
    tensors = sample_arguments(net, backend.device, sizes=SMALL, **options)
    return list(tensors), [t.requires_grad_() for t in tensors.values()]


@RECOMPUTE
@EVERY
def test_gradcheck(backend, net, recompute):
    names, tensors = leaves(net, backend)
    for variant in variants(net):
        function = on_tensors(net, names, recompute=recompute, **variant)
        assert gradcheck(function, tensors)


@EVERY
def test_forward_mode_and_batched_gradients(backend, net):
    names, tensors = leaves(net, backend)
    for variant in variants(net):
        function = on_tensors(net, names, **variant)
        assert gradcheck(function, tensors, check_forward_ad=True, fast_mode=True)
        assert gradcheck(function, tensors, check_batched_grad=True, fast_mode=True)


@EVERY
def test_gradgradcheck(backend, net):
    names, tensors = leaves(net, backend)
    for variant in variants(net):
        choices = {"x_dilation": 2, "lengths": [1], **variant}
        for options in (variant, choices):
            function = on_tensors(net, names, **options)
            assert gradgradcheck(function, tensors, fast_mode=True)


@EVERY
def test_one_gradient_alone(backend, net):
    names, tensors = leaves(net, backend)
    for variant in variants(net):
        function = on_tensors(net, names, **variant)
        for wanted in range(len(names)):
            one = [t.detach() for t in tensors]
            one[wanted].requires_grad_()
            assert gradcheck(function, one, fast_mode=True)
            assert gradgradcheck(function, one, fast_mode=True)


@pytest.mark.parametrize("given", ["inputs", "h"])
@EVERY
def test_gradients_where_an_argument_is_absent(backend, net, given):
    present = {"with_inputs": given == "inputs", "with_h": given == "h"}
    names, tensors = leaves(net, backend, **present)
    steps = {"steps": 2} if given == "h" else {}
    for variant in variants(net):
        function = on_tensors(net, names, **steps, **variant)
        assert gradcheck(function, tensors, fast_mode=True)
        assert gradgradcheck(function, tensors, fast_mode=True)


@RECOMPUTE
@EVERY
def test_backward_twice(backend, net, recompute):
    names, tensors = leaves(net, backend)
    for variant in variants(net):
        function = on_tensors(net, names, recompute=recompute, **variant)
        outputs = function(*tensors)[0]
        seed = torch.ones_like(outputs)
        first = torch.autograd.grad(outputs, tensors, seed, retain_graph=True)
        second = torch.autograd.grad(outputs, tensors, seed)
        assert all(map(torch.equal, first, second))


@EVERY
def test_batched_gradients_of_one_backward_pass(backend, net):
    """Without `retain_graph`, as by `vmap` and by `is_grads_batched`."""
    names, tensors = leaves(net, backend)
    for variant in variants(net):
        outputs = on_tensors(net, names, **variant)(*tensors)[0]
        seeds = torch.stack([torch.ones_like(outputs), -outputs.detach()])
        options = {"allow_unused": True}
        wanted = [
            torch.autograd.grad(outputs, tensors, seed, retain_graph=True, **options)
            for seed in seeds
        ]

        def pull(seed, outputs=outputs):
            return torch.autograd.grad(outputs, tensors, seed, allow_unused=True)

        again = on_tensors(net, names, **variant)(*tensors)[0]
        mapped = torch.vmap(pull)(seeds)
        batched = torch.autograd.grad(
            again, tensors, seeds, is_grads_batched=True, **options
        )
        for got in (mapped, batched):
            for one, *others in zip(got, *wanted, strict=True):
                if others[0] is not None:
                    torch.testing.assert_close(one, torch.stack(others))


@EVERY
def test_gradients_of_each_sample(backend, net):
    names, tensors = leaves(net, backend)
    tensors = [t.detach() for t in tensors]
    k = names.index("inputs")
    images = torch.stack([tensors[k], 0.5 * tensors[k], -tensors[k]])
    for variant in variants(net):

        def loss(image, variant=variant):
            every = [*tensors[:k], image, *tensors[k + 1 :]]
            return on_tensors(net, names, **variant)(*every)[0].square().sum()

        got = torch.vmap(torch.func.grad(loss))(images)
        wanted = torch.stack([torch.func.grad(loss)(image) for image in images])
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("empty", [0, 1, 4, 5], ids=["T", "B", "H", "W"])
@EVERY
def test_double_backward_of_empty_tensors(backend, net, empty):
    sizes = [2, 1, 1, 2, 2, 3]
    sizes[empty] = 0
    tensors = sample_arguments(net, backend.device, sizes=tuple(sizes))
    seeds = sample_seeds(net, tensors, sizes[0])
    tensors = {k: t.requires_grad_() for k, t in tensors.items()}
    outputs = net(tensors)
    every = list(tensors.values())
    found = torch.autograd.grad(
        outputs, every, [s.requires_grad_() for s in seeds], create_graph=True
    )
    total = sum(one.square().sum() for one in found)
    for one in torch.autograd.grad(total, every, allow_unused=True):
        assert one is None or one.isfinite().all()


@EVERY
def test_func_transforms(backend, net):
    names, tensors = leaves(net, backend)
    for variant in variants(net):
        function = on_tensors(net, names, **variant)

        def loss(*tensors, function=function):
            return sum(one.square().sum() for one in function(*tensors))

        plain = [t.detach() for t in tensors]
        got = torch.func.grad(loss, tuple(range(len(names))))(*plain)
        wanted = torch.autograd.grad(loss(*tensors), tensors)
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "mapped", [["inputs"], ["h"], ["h_weight", "x_bias"]], ids="-".join
)
@EVERY
def test_vmap(backend, net, mapped):
    names, tensors = leaves(net, backend)
    tensors = [t.detach() for t in tensors]
    dims = tuple(0 if name in mapped else None for name in names)
    pairs = list(zip(tensors, dims, strict=True))
    stacked = [t if d is None else torch.stack([t, 0.5 * t]) for t, d in pairs]
    for variant in variants(net):
        function = on_tensors(net, names, **variant)
        got = torch.vmap(function, in_dims=dims)(*stacked)
        for k in range(2):
            one = [t if d is None else t[k] for t, d in zip(stacked, dims, strict=True)]
            for batched, wanted in zip(got, function(*one), strict=True):
                torch.testing.assert_close(batched[k], wanted)


@pytest.mark.parametrize("layout", FORMATS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("given", [{}, {"with_h": False}, {"with_inputs": False}])
def test_opcheck_of_a_gru(backend, given, dtype, layout):
    tensors = sample_arguments(GRU, backend.device, dtype, layout=layout, **given)
    forward = backend.operator("conv_gru")
    backward = backend.operator("conv_gru_backward")
    names = ("inputs", "h", "x_weight", "x_bias", "h_weight", "h_bias")
    arguments = [tensors.get(name) for name in names]
    (seed,) = sample_seeds(GRU, tensors, 3)
    wanted = [t is not None for t in arguments]
    for before in (False, True):
        options = GruOptions(1, 0, 2, 2, 0.2, True, before)
        choices = ([1, 1], [2, 2], options.numbers(), None)
        for kept in (False, True):
            opcheck(forward, (*arguments, 3, *choices, kept))
            left = forward(*arguments, 3, *choices, kept)
            opcheck(backward, (seed, *arguments, *choices, *left, kept, wanted))


@pytest.mark.parametrize("layout", FORMATS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("given", [{}, {"with_h": False}, {"with_inputs": False}])
@pytest.mark.parametrize("peephole", [None, "channel", "element"])
def test_opcheck_of_an_lstm(backend, peephole, given, dtype, layout):
    given = {"peephole": peephole, "layout": layout, **given}
    tensors = sample_arguments(LSTM, backend.device, dtype, **given)
    forward = backend.operator("conv_lstm")
    backward = backend.operator("conv_lstm_backward")
    names = ("inputs", "h", "x_weight", "x_bias", "h_weight", "h_bias", "c", *PEEPHOLE)
    arguments = [tensors.get(name) for name in names]
    seeds = sample_seeds(LSTM, tensors, 3)
    wanted = [t is not None for t in arguments]
    options = LstmOptions(1, 0, 2, 3, 0.5)
    choices = ([1, 1], [2, 2], options.numbers(), None)
    for kept in (False, True):
        opcheck(forward, (*arguments, 3, *choices, True, kept))
        left = forward(*arguments, 3, *choices, True, kept)
        left = (left[0], *left[2:], kept)
        opcheck(backward, (*seeds, *arguments, *choices, *left, wanted))
    opcheck(forward, (*arguments, 3, *choices, False, False))


@RECOMPUTE
@EVERY
def test_compile_without_graph_breaks(backend, net, recompute):
    tensors = sample_arguments(net, backend.device, torch.float32)
    seeds = sample_seeds(net, tensors, 3)
    for variant in variants(net):
        torch.compiler.reset()

        def function(tensors, variant=variant):
            options = {"lengths": [2, 3], "recompute": recompute}
            return net(tensors, **options, **variant)

        got = derivatives(backend.compile(function), tensors, seeds)
        wanted = derivatives(function, tensors, seeds)
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, other)


@EVERY
def test_compile_for_any_number_of_steps(net):
    torch.compiler.reset()
    compiled = torch.compile(net, fullgraph=True, dynamic=True)
    with torch.compiler.set_stance("default"):
        for steps in range(2, 14):
            sizes = (steps, 2, 2, 3, 4, 5)
            tensors = sample_arguments(net, "cpu", torch.float32, sizes)
            for one, other in zip(compiled(tensors), net(tensors), strict=True):
                torch.testing.assert_close(one, other)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
@EVERY
def test_autocast(backend, net, low):
    tensors = sample_arguments(net, backend.device, torch.float32)
    lowered = {k: t.to(low) for k, t in tensors.items()}
    seeds = sample_seeds(net, lowered, 3)
    for variant in variants(net):
        with torch.autocast(backend.device, low):
            got = derivatives(net, tensors, seeds, **variant)
        wanted = derivatives(net, lowered, seeds, **variant)
        assert got[0].dtype == low
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, other.to(one.dtype))


@EVERY
def test_deterministic_algorithms(backend, net):
    tensors = sample_arguments(net, backend.device)
    torch.use_deterministic_algorithms(True)
    try:
        derivatives(net, tensors, sample_seeds(net, tensors, 3))
    finally:
        torch.use_deterministic_algorithms(False)


@EVERY
def test_meta_tensors(net):
    outputs, *others = net(sample_arguments(net, "meta", torch.bfloat16))
    assert outputs.shape == (3, 2, 3, 4, 5)
    assert all(one.shape == (2, 3, 4, 5) for one in others)
    assert {one.dtype for one in (outputs, *others)} == {torch.bfloat16}


ZEROS = torch.zeros
ERRORS = [
    ({"inputs": 3}, TypeError, "inputs must be a Tensor, got int"),
    ({"h_weight": None}, TypeError, "h_weight must be a Tensor, got NoneType"),
    ({"x_weight": None}, ValueError, "x_weight must be given with inputs"),
    ({"inputs": None}, ValueError, "steps must be given without"),
    ({"inputs": None, "h": None, "steps": 3}, ValueError, "inputs or h must be"),
    ({"steps": 4}, ValueError, "steps must be the number of inputs, 3.*got 4"),
    ({"steps": -1, "inputs": None}, ValueError, "steps must not be below 0, got"),
    ({"recompute": 1}, ValueError, "recompute must be one of.*got 1"),
    ({"order": "abc"}, ValueError, "order must be a permutation of.*got 'abc'"),
    ({"x_dilation": 0}, ValueError, "x_dilation must be a positive number.*got 0"),
    ({"h_dilation": (1, 2, 3)}, ValueError, "h_dilation must be.*got .1, 2, 3"),
    ({"h": ZEROS(2, 4, 4, 5)}, ValueError, r"h must be \[2, 3, 4, 5\].*\[2, 4"),
    ({"h": ZEROS(2, 3, 4, 5).int()}, TypeError, "h must be float32.*got"),
    ({"h": ZEROS(2, 3, 4, 5).half()}, TypeError, "h must have the dtype of"),
    ({"inputs": ZEROS(3, 2, 4, 5)}, ValueError, "inputs must .*got"),
    ({"h_weight": ZEROS(5, 3, 3, 3)}, ValueError, "h_weight must be.*F, F, k"),
    ({"lengths": 3}, TypeError, "lengths must be a Tensor or a list.*got int"),
    ({"lengths": [1, 2, 3]}, ValueError, r"lengths must be \[2\], got \[3\]"),
    ({"lengths": ZEROS(2)}, TypeError, "lengths must be of integers, got"),
    ({"lengths": [True, 2]}, TypeError, "lengths must be of integers, got True"),
    ({"lengths": [-1, 2]}, ValueError, r"lengths must lie in 0\.\.3, got -1"),
    ({"lengths": [4, 2]}, ValueError, r"lengths must lie in 0\.\.3, got 4"),
    ({"steps": 2.5, "inputs": None}, TypeError, "steps must be an integer, got 2.5"),
    ({"steps": True, "inputs": None}, TypeError, "steps must be an integer, got True"),
]
GRU_ERRORS = [
    ({"activation": "elu"}, ValueError, "activation must be one of.*got 'elu'"),
    ({"negative_slope": -1}, ValueError, "negative_slope must not be below 0"),
    ({"reset": "never"}, ValueError, "reset must be one of.*got 'never'"),
    ({"update": "none"}, ValueError, "update must be one of.*got 'none'"),
    ({"x_weight": ZEROS(9, 4, 3, 3)}, ValueError, "x_weight must be.*got"),
    ({"h_weight": ZEROS(9, 3, 4, 3)}, ValueError, "odd kernel"),
    ({"h_bias": ZEROS(8)}, ValueError, r"h_bias must be.*got \[8\]"),
    ({"zoneout_mask": ZEROS(4)}, ValueError, "zoneout_mask must broadcast to"),
]


LSTM_ERRORS = [
    ({"c": ZEROS(2, 4, 4, 5)}, ValueError, r"c must be \[2, 3, 4, 5\].*\[2, 4"),
    ({"c": ZEROS(2, 3, 4, 5).double()}, TypeError, "c must have the dtype of"),
    ({"x_weight": ZEROS(12, 4, 3, 3)}, ValueError, "x_weight must be.*got"),
    ({"h_weight": ZEROS(12, 3, 4, 3)}, ValueError, "odd kernel"),
    ({"x_bias": ZEROS(8)}, ValueError, r"x_bias must be.*got \[8\]"),
    ({"forget_bias": "1"}, TypeError, "forget_bias must be a number, got str"),
    ({"peephole": ZEROS(3)}, ValueError, "peephole must be three tensors.*Tensor"),
    ({"peephole": (ZEROS(1, 3, 4, 4),) * 3}, ValueError, "three of .1, F, H, W"),
    ({"peephole": (ZEROS(1, 3, 1, 1).double(),) * 3}, TypeError, "have the dtype"),
]


@pytest.mark.parametrize("device", ["real", "meta"])
@EVERY
def test_argument_errors(backend, net, device):
    device = backend.device if device == "real" else "meta"
    tensors = sample_arguments(net, device, torch.float32)
    own = GRU_ERRORS if net is GRU else LSTM_ERRORS
    for change, error, message in [*ERRORS, *own]:

        def place(value):
            if isinstance(value, tuple):
                return tuple(map(place, value))
            return value.to(device) if isinstance(value, torch.Tensor) else value

        placed = {name: place(value) for name, value in change.items()}
        with pytest.raises(error, match=f"{net.name}: .*{message}"):
            net(tensors | placed)
