"""conv_gru and conv_lstm: their values and gradients on every backend."""

from itertools import permutations

import pytest
import torch
from accuracy import opmath
from conv_rnn_inputs import (
    FORMATS,
    NETS,
    SIZES,
    derivatives,
    naive_derivatives,
    sample_arguments,
    sample_seeds,
)

EVERY = pytest.mark.parametrize("net", NETS.values(), ids=list(NETS))
LAYOUTS = pytest.mark.parametrize(
    "layout", FORMATS, ids=["contiguous", "channels_last"]
)
RECOMPUTE = pytest.mark.parametrize("recompute", ["none", "gates"])
STEPS = 3
GRU, LSTM = NETS["conv_gru"], NETS["conv_lstm"]


def variants(net):
    """Ways of computing that share little."""
    if net is GRU:
        return [{"reset": "after"}, {"reset": "before"}]
    return [{}]


def assert_equal(got, wanted):
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=0, atol=1e-10)


def check(net, tensors, seeds, recompute="none", **options):
    """Compare values and gradients with the naive formula; the former."""
    got = derivatives(net, tensors, seeds, recompute=recompute, **options)
    assert_equal(got, naive_derivatives(net, tensors, seeds, **options))
    return got


@pytest.mark.kernels
@RECOMPUTE
@pytest.mark.parametrize("given", ["both", "inputs", "h"])
@EVERY
def test_matches_the_naive_formula(backend, net, given, recompute):
    present = {"with_inputs": given != "h", "with_h": given != "inputs"}
    tensors = sample_arguments(net, backend.device, **present)
    seeds = sample_seeds(net, tensors, STEPS)
    steps = STEPS if given == "h" else None
    for variant in variants(net):
        check(net, tensors, seeds, recompute, steps=steps, **variant)


@pytest.mark.kernels
@EVERY
def test_float32_is_that_of_the_naive_formula(backend, net):
    """Which ThreadSanitizer takes: of float64 it has no time to see all."""
    tensors = sample_arguments(net, backend.device, torch.float32)
    seeds = sample_seeds(net, tensors, STEPS)
    got, wanted = (
        derivatives(net, tensors, seeds),
        naive_derivatives(net, tensors, seeds),
    )
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one.cpu().double(), other, rtol=0, atol=1e-4)


@RECOMPUTE
@pytest.mark.parametrize("reset", ["after", "before"])
@pytest.mark.parametrize("activation", ["leaky_relu", "relu", "tanh"])
@pytest.mark.parametrize("update", ["keep", "replace"])
def test_choices_of_a_gru(backend, update, activation, reset, recompute):
    tensors = sample_arguments(GRU, backend.device)
    seeds = sample_seeds(GRU, tensors, STEPS)
    options = {"update": update, "activation": activation, "negative_slope": 0.1}
    check(GRU, tensors, seeds, recompute, reset=reset, **options)


@EVERY
def test_orders(backend, net):
    tensors = sample_arguments(net, backend.device)
    seeds = sample_seeds(net, tensors, STEPS)
    letters = "run" if net is GRU else "ifog"
    for order in list(permutations(letters))[:: 1 if net is GRU else 5]:
        for variant in variants(net):
            check(net, tensors, seeds, order="".join(order), **variant)


@RECOMPUTE
@EVERY
def test_kernels_and_dilation(backend, net, recompute):
    """Reaching beyond the image, and each its own."""
    for kernels, dilations in (((1, 5), (1, 2)), ((5, 1), (3, 1)), ((3, 3), (2, 4))):
        tensors = sample_arguments(net, backend.device, kernels=kernels)
        seeds = sample_seeds(net, tensors, STEPS)
        options = {"x_dilation": dilations[0], "h_dilation": dilations[1]}
        for variant in variants(net):
            check(net, tensors, seeds, recompute, **options, **variant)


@EVERY
def test_dilation_beyond_the_image(backend, net):
    tensors = sample_arguments(net, backend.device)
    seeds = sample_seeds(net, tensors, STEPS)
    far = {"x_dilation": 2**31 - 1, "h_dilation": (5, 2**40)}
    near = {"x_dilation": (4, 5), "h_dilation": (4, 5)}
    for variant in variants(net):
        got = derivatives(net, tensors, seeds, **far, **variant)
        wanted = derivatives(net, tensors, seeds, **near, **variant)
        assert all(map(torch.equal, got, wanted))


@pytest.mark.parametrize("batch", [1, 4])
@EVERY
def test_dilation_in_bfloat16(backend, net, batch):
    """Sizes at which oneDNN's gradient to the weight is wrong."""
    if backend.name == "cuda-emulated":
        pytest.skip("its convolutions are torch's on the host, by oneDNN itself")
    sizes = (2, batch, 4, 33, 33, 40)
    tensors = sample_arguments(net, backend.device, torch.bfloat16, sizes)
    seeds = sample_seeds(net, tensors, 2)
    options = {"h_dilation": 2, "x_dilation": 2}
    got = derivatives(net, tensors, seeds, **options)
    doubles = {name: t.double() for name, t in tensors.items()}
    wanted = derivatives(net, doubles, [s.double() for s in seeds], **options)
    for one, other in zip(got, wanted, strict=True):
        assert (one.double() - other).norm() < 0.03 * other.norm()


@EVERY
def test_kernels_and_dilation_of_two_sizes(backend, net):
    tensors = sample_arguments(net, backend.device, sizes=(2, 1, 2, 2, 20, 19))
    seeds = sample_seeds(net, tensors, 2)
    tensors["x_weight"] = tensors["x_weight"][:, :, :1].clone()
    options = {"x_dilation": (3, 2), "h_dilation": (2, 1)}
    check(net, tensors, seeds, **options)


@RECOMPUTE
@EVERY
def test_lengths(backend, net, recompute):
    tensors = sample_arguments(net, backend.device, sizes=(4, 3, 2, 3, 4, 5))
    seeds = sample_seeds(net, tensors, 4)
    lengths = torch.tensor([4, 0, 2], device=backend.device)
    for variant in variants(net):
        outputs, *others = check(
            net, tensors, seeds, recompute, lengths=lengths, **variant
        )
        assert torch.equal(outputs[0, 1], tensors["h"][1])
        alone = {k: t[:2, 2:] if k == "inputs" else t for k, t in tensors.items()}
        alone |= {name: tensors[name][2:] for name in net.states}
        short, *last = net(alone, **variant)
        torch.testing.assert_close(outputs[:2, 2:], short)
        torch.testing.assert_close(outputs[3, 2:], short[-1])
        if last:
            torch.testing.assert_close(others[0][2:], last[0])
        # What is past the end has no part.
        assert not others[net.results - 1][2:, 2].any()
        listed = net(tensors, lengths=[4, 0, 2], **variant)
        assert torch.equal(listed[0], outputs)
        # Whatever it is.
        padded = tensors["inputs"].clone()
        padded[:, 1] = padded[2:, 2] = torch.nan
        again = derivatives(
            net, tensors | {"inputs": padded}, seeds, lengths=lengths, **variant
        )
        for one, other in zip(again, (outputs, *others), strict=True):
            torch.testing.assert_close(one, other)


@EVERY
def test_one_channel_fits_both_formats(net):
    """Then the weights say which is meant."""
    for layout in (torch.contiguous_format, torch.channels_last):
        sizes = (3, 2, 1, 3, 4, 5)
        tensors = sample_arguments(net, sizes=sizes, with_h=False, layout=layout)
        tensors["h_weight"] = tensors["h_weight"].contiguous(memory_format=layout)
        assert net(tensors)[0][0].is_contiguous(memory_format=layout)


@RECOMPUTE
@pytest.mark.parametrize("reset", ["after", "before"])
def test_zoneout_of_a_gru(backend, reset, recompute):
    tensors = sample_arguments(GRU, backend.device)
    seeds = sample_seeds(GRU, tensors, STEPS)
    mask = (torch.rand(STEPS, 2, 3, 4, 5) < 0.4).to(backend.device)
    lengths = torch.tensor([2, 3], device=backend.device)
    for options in ({}, {"lengths": lengths}):
        options["zoneout_mask"] = mask
        check(GRU, tensors, seeds, recompute, reset=reset, **options)


@pytest.mark.kernels
@RECOMPUTE
@pytest.mark.parametrize("peephole", ["channel", "element"])
@pytest.mark.parametrize("given", ["both", "inputs", "h"])
def test_peepholes_of_an_lstm(backend, given, peephole, recompute):
    present = {"with_inputs": given != "h", "with_h": given != "inputs"}
    tensors = sample_arguments(LSTM, backend.device, peephole=peephole, **present)
    seeds = sample_seeds(LSTM, tensors, STEPS)
    options = {"order": "fogi", "forget_bias": 1.5}
    options["steps"] = STEPS if given == "h" else None
    check(LSTM, tensors, seeds, recompute, **options)


@RECOMPUTE
@pytest.mark.parametrize("peephole", ["channel", "element"])
def test_peepholes_and_lengths_of_an_lstm(backend, peephole, recompute):
    tensors = sample_arguments(LSTM, backend.device, peephole=peephole)
    seeds = sample_seeds(LSTM, tensors, STEPS)
    lengths = torch.tensor([1, 3], device=backend.device)
    check(LSTM, tensors, seeds, recompute, lengths=lengths)
    del tensors["c"]
    check(LSTM, tensors, seeds, recompute, lengths=lengths)


@pytest.mark.parametrize("wanted", [0, 1])
def test_one_result_of_an_lstm(backend, wanted):
    """Where the other's gradient is None."""
    tensors = sample_arguments(LSTM, backend.device, peephole="channel")
    seeds = sample_seeds(LSTM, tensors, STEPS)
    seeds[1 - wanted] = None
    check(LSTM, tensors, seeds)


@RECOMPUTE
@LAYOUTS
@EVERY
def test_layouts_and_no_bias(backend, net, layout, recompute):
    tensors = sample_arguments(net, backend.device, with_bias=False, layout=layout)
    seeds = sample_seeds(net, tensors, STEPS)
    for variant in variants(net):
        got = check(net, tensors, seeds, recompute, **variant)
        assert got[0][0].is_contiguous(memory_format=layout)
        assert got[net.results].stride() == tensors["inputs"].stride()


@EVERY
def test_sizes_of_one(backend, net):
    """One feature, one channel, one pixel: strides that say nothing."""
    for sizes in ((2, 1, 1, 1, 1, 1), (2, 2, 1, 1, 3, 2), (2, 3, 2, 2, 1, 1)):
        tensors = sample_arguments(net, backend.device, sizes=sizes)
        for variant in variants(net):
            check(net, tensors, sample_seeds(net, tensors, 2), **variant)


@RECOMPUTE
@EVERY
def test_many_steps(backend, net, recompute):
    """More than are computed together, and no multiple of them."""
    tensors = sample_arguments(net, backend.device, sizes=(11, 1, 1, 2, 3, 2))
    seeds = sample_seeds(net, tensors, 11)
    for variant in variants(net):
        got = check(net, tensors, seeds, recompute, **variant)
        # Nothing is kept here.
        assert all(map(torch.equal, net(tensors, **variant), got))


@pytest.mark.kernels
@LAYOUTS
@RECOMPUTE
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str
)
@EVERY
def test_low_precision(backend, net, dtype, recompute, layout):
    """Off by the roundings of the longest chain of results.

    A result of a step is a sum of at most n products of which each is off by eps, and
    is rounded to the dtype. A value of the last step has come through eight such
    results a step, its gradient again through as many.
    """
    sizes = (3, 2, 5, 8, 6, 7)
    tensors = sample_arguments(net, backend.device, dtype, sizes, layout=layout)
    seeds = sample_seeds(net, tensors, STEPS)
    terms = max(t[0].numel() for k, t in tensors.items() if "weight" in k)
    sums, rounded = torch.finfo(opmath(dtype)).eps, torch.finfo(dtype).eps
    bound = 8 * STEPS * (terms * sums + rounded)
    for variant in variants(net):
        got = derivatives(net, tensors, seeds, recompute=recompute, **variant)
        wanted = naive_derivatives(net, tensors, seeds, **variant)
        for k, (one, other) in enumerate(zip(got, wanted, strict=True)):
            assert one.dtype == dtype
            error = (one.detach().cpu().double() - other).norm() / other.norm()
            assert error < (1 if k < net.results else 2) * bound


@RECOMPUTE
@EVERY
def test_sequence_in_two(backend, net, recompute):
    tensors = sample_arguments(net, backend.device)
    for variant in variants(net):
        whole, *last = net(tensors, recompute=recompute, **variant)
        start = {k: t[:2] if k == "inputs" else t for k, t in tensors.items()}
        first, *between = net(start, **variant)
        rest = tensors | {"inputs": tensors["inputs"][2:], "h": first[-1]}
        rest |= dict(zip(net.states[1:], between, strict=True))
        second, *end = net(rest, **variant)
        assert torch.equal(whole, torch.cat([first, second]))
        assert all(map(torch.equal, last, end))


@pytest.mark.parametrize("empty", [0, 1, 4, 5], ids=["T", "B", "H", "W"])
@pytest.mark.parametrize("with_h", [True, False], ids=["h", "no_h"])
@EVERY
def test_empty_tensors(backend, net, empty, with_h):
    sizes = list(SIZES)
    sizes[empty] = 0
    tensors = sample_arguments(net, backend.device, sizes=sizes, with_h=with_h)
    steps, batch, _, features, height, width = sizes
    seeds = [sample_seeds(net, tensors, steps)[0], *[None] * (net.results - 1)]
    for recompute in ("none", "gates"):
        for variant in variants(net):
            options = {"recompute": recompute, **variant}
            outputs, *others = derivatives(net, tensors, seeds, **options)
            assert outputs.shape == (steps, batch, features, height, width)
            for gradient, leaf in zip(
                others[net.results - 1 :], tensors.values(), strict=True
            ):
                assert gradient.shape == leaf.shape
                assert not gradient.any()


@EVERY
def test_strided_arguments(backend, net):
    """Batch first, expanded and sliced inputs; weights that are parts of one."""
    tensors = sample_arguments(net, backend.device)
    inputs = tensors["inputs"]
    both = torch.cat([tensors["x_weight"], tensors["h_weight"]], dim=1)
    channels = inputs.shape[2]
    for variant in variants(net):
        wanted = net(tensors, **variant)[0]
        transposed = inputs.transpose(0, 1).contiguous().transpose(0, 1)
        assert torch.equal(net(tensors | {"inputs": transposed}, **variant)[0], wanted)
        wide = torch.cat([inputs, inputs], dim=-1)[..., : inputs.shape[-1]]
        assert torch.equal(net(tensors | {"inputs": wide}, **variant)[0], wanted)
        one = inputs[:1].expand(3, -1, -1, -1, -1)
        repeated = net(tensors | {"inputs": one.contiguous()}, **variant)[0]
        assert torch.equal(net(tensors | {"inputs": one}, **variant)[0], repeated)
        split = {"x_weight": both[:, :channels], "h_weight": both[:, channels:]}
        assert torch.equal(net(tensors | split, **variant)[0], wanted)


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kernel", [1, 3])
@EVERY
def test_cpu_results_do_not_depend_on_the_threads(net, kernel, batch, dtype, layout):
    sizes = (3, batch, 5, 20, 33, 17)
    tensors = sample_arguments(
        net,
        "cpu",
        dtype,
        sizes,
        (3, kernel),
        layout=layout,
        peephole="channel" if net is LSTM else None,
    )
    seeds = sample_seeds(net, tensors, 3)
    threads = torch.get_num_threads()
    for number, variant in enumerate(variants(net)):
        options = {"recompute": ("none", "gates")[number], "x_dilation": 2, **variant}
        options |= {"h_dilation": 1 + number}
        results = []
        try:
            for count in (1, 2, 3, 5):
                torch.set_num_threads(count)
                results.append(derivatives(net, tensors, seeds, **options))
        finally:
            torch.set_num_threads(threads)
        for other in results[1:]:
            assert all(map(torch.equal, results[0], other))
