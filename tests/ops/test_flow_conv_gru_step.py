"""A GRU's step whose gates' recurrent part is flow_conv of the state, in one kernel."""

import pytest
import torch
from accuracy import opmath
from test_flow_conv import FORMATS, sample_inputs
from test_flow_conv_fused import (
    EMULATED,
    EVERY,
    OFF_CPU,
    images,
    kept,
    launches,
    rounds,  # noqa: F401 - a fixture
)
from torch import Tensor

from trajgru_ext.ops._options import GruOptions

STEP = torch.ops.trajgru_ext.flow_conv_gru_step
OPTIONS = {
    "tanh": {},
    "leaky_relu": {"activation": "leaky_relu", "negative_slope": 0.3},
    "another order": {"order": "unr"},
    "the update gate replaces": {"update": "replace"},
}


def sample(backend, dtype, *, features=32, size=(9, 18), links=2, layout=FORMATS[1]):
    """Gates, h, flows, weight, mask, the two biases."""
    batch = images(backend)
    shape = (batch, features, *size)
    h, flows, weight, h_bias, _ = sample_inputs(
        backend.device, dtype, shape, links, 3 * features, layout
    )
    generator = torch.Generator().manual_seed(features)
    gates = torch.randn(batch, 3 * features, *size, generator=generator)
    mask = torch.rand(shape, generator=generator) < 0.3
    gates = gates.to(backend.device, dtype).contiguous(memory_format=layout)
    mask = mask.to(backend.device)
    return gates, h, flows, weight / links, mask, h_bias.flip(0), h_bias


def run(step, tensors, options, *, saves=True, has_inputs=True, masked=False):
    """The new state, and, where they are saved, gates and candidate."""
    gates, h, flows, weight, mask, x_bias, h_bias = tensors
    gates, output = gates.clone(), torch.empty_like(h)
    candidate = torch.empty_like(h) if saves else None
    step(
        *(gates, h, flows, weight, -1.0, has_inputs, options.numbers()),
        *(mask if masked else None, candidate, output, x_bias, h_bias),
    )
    return [output, gates, candidate] if saves else [output]


def formula(
    gates, h, flows, weight, scale, has_inputs, numbers, mask, left, to, x_bias, h_bias
):
    """In the CPU's float64: flow_conv, then gru_step of what it gives."""
    h_gates = torch.ops.trajgru_ext.flow_conv(h, flows, weight, h_bias, scale)
    gates += x_bias[:, None, None]
    torch.ops.trajgru_ext.gru_step(
        *(gates, h_gates, h, has_inputs, numbers, mask, left, to, None, None)
    )


def compare(found: list[Tensor], tensors, options, **how):
    doubles = [
        one.cpu() if one.dtype == torch.bool else one.cpu().double() for one in tensors
    ]
    wanted = run(formula, doubles, options, **how)
    dtype, columns = tensors[1].dtype, tensors[3].shape[1]
    bound = 8 * kept(dtype) + columns * torch.finfo(opmath(dtype)).eps
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == dtype
        assert one.isfinite().all()
        error = (one.cpu() - other).abs().max() / other.abs().max()
        assert error < bound


@pytest.mark.kernels
@OFF_CPU
@EVERY
@pytest.mark.parametrize("features", [16, 48, 64])
def test_matches_the_naive_formula(backend, dtype, features):
    tensors, options = sample(backend, dtype, features=features), GruOptions.choose("")

    def compared():
        compare(run(STEP, tensors, options), tensors, options)

    if backend.name == "cuda-emulated":
        assert launches(compared)["kernels"] == 1
    else:
        compared()


@pytest.mark.kernels
@OFF_CPU
@EVERY
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("has_inputs", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_options(backend, dtype, name, has_inputs, masked):
    tensors, options = sample(backend, dtype), GruOptions.choose("", **OPTIONS[name])
    how = {"has_inputs": has_inputs, "masked": masked}
    if not has_inputs:
        tensors = (*tensors[:5], torch.zeros_like(tensors[5]), tensors[6])
    compare(run(STEP, tensors, options, **how), tensors, options, **how)
    (alone,) = run(STEP, tensors, options, saves=False, **how)
    compare([alone], tensors, options, saves=False, **how)
    if masked:
        assert torch.equal(alone[tensors[4]], tensors[1][tensors[4]])


@EMULATED
@EVERY
def test_same_bits_in_any_order_of_threads(monkeypatch, backend, dtype):
    tensors, options = sample(backend, dtype), GruOptions.choose("")
    wanted = run(STEP, tensors, options)
    monkeypatch.setenv("TRAJGRU_EMULATION", "shuffled")
    for one, other in zip(run(STEP, tensors, options), wanted, strict=True):
        assert torch.equal(one, other)


@EMULATED
@pytest.mark.parametrize(
    ("dtype", "features", "size", "fused"),
    [
        (torch.bfloat16, 16, (9, 18), True),
        (torch.bfloat16, 16, (1, 2), True),
        (torch.bfloat16, 24, (9, 18), False),  # a fragment and a half
        (torch.bfloat16, 80, (9, 18), False),  # more outputs than a block has
        (torch.float64, 16, (9, 18), False),
    ],
    ids=str,
)
def test_where_it_is_one_kernel(backend, dtype, features, size, fused):
    tensors = sample(backend, dtype, features=features, size=size)
    options = GruOptions.choose("")
    found = launches(lambda: compare(run(STEP, tensors, options), tensors, options))
    assert (found["kernels"] == 1) == fused


@EMULATED
@EVERY
def test_an_image_of_one_pixel(backend, dtype):
    """Is in both memory formats."""
    tensors, options = sample(backend, dtype, size=(1, 1)), GruOptions.choose("")
    compare(run(STEP, tensors, options), tensors, options)


@OFF_CPU
def test_wrong_arguments_are_named(backend):
    gates, h, flows, weight, mask, *biases = sample(backend, torch.bfloat16)
    numbers = GruOptions.choose("").numbers()

    def step(gates, h, flows, weight, output, biases):
        STEP(gates, h, flows, weight, -1.0, True, numbers, mask, None, output, *biases)

    output = torch.empty_like(h)
    with pytest.raises(ValueError, match="flow_conv_gru_step: output must not"):
        step(gates, h, flows, weight, h, biases)
    with pytest.raises(ValueError, match="flow_conv_gru_step: weight must be"):
        step(gates, h, flows, weight[:, 1:], output, biases)
    with pytest.raises(ValueError, match="flow_conv_gru_step: flows must be"):
        step(gates, h, flows[:, 1:], weight, output, biases)
    with pytest.raises(ValueError, match="flow_conv_gru_step: x_gates must"):
        step(gates[:, 1:], h, flows, weight, output, biases)
    with pytest.raises(ValueError, match="flow_conv_gru_step: weight"):
        step(gates, h, flows, weight[3:], output, biases)
    with pytest.raises(ValueError, match="flow_conv_gru_step: a bias must be"):
        step(gates, h, flows, weight, output, [biases[0][1:], biases[1]])
