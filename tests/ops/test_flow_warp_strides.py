"""flow_warp of arguments anywhere in memory, and of any that can be drawn."""

import pytest
import torch
from accuracy import DTYPES
from flow_warp_inputs import (
    EXTREMES,
    PADDINGS,
    STRIDES,
    compare,
    derivatives,
    sample_inputs,
    strided,
)
from hypothesis import given
from hypothesis import strategies as st

from trajgru_ext import flow_warp

pytestmark = pytest.mark.kernels


@pytest.mark.parametrize("how", STRIDES)
@pytest.mark.parametrize("padding", PADDINGS)
def test_strided_arguments(backend, padding, how):
    size = (2, 8, 4, 6)
    input, flow, grad = sample_inputs(backend.device, torch.float32, size)
    wanted = derivatives(flow_warp, input, flow, grad, 1.0, padding)
    moved = [strided(t, how) for t in (input, flow, grad)]
    assert all(
        torch.equal(a, b) for a, b in zip(moved, (input, flow, grad), strict=True)
    )
    found = derivatives(flow_warp, *moved, 1.0, padding)
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_expanded_arguments(backend):
    input, flow, grad = sample_inputs(backend.device, torch.float32, (1, 1, 4, 6))
    input, grad = input.expand(3, 5, 4, 6), grad[:, :, :1, :1].expand(3, 5, 4, 6)
    compare(input, flow.expand(3, 2, 4, 6), grad)


def test_offsets_past_2_to_the_31(backend):
    # Pages that are never touched cost nothing.
    rows = 2**31 + 8
    memory = torch.empty(rows + 32, dtype=torch.bfloat16, device=backend.device)
    far = memory.as_strided((1, 1, 2, 4), (0, 1, rows, 1))
    near, flow, grad = sample_inputs(backend.device, torch.bfloat16, (1, 1, 2, 4))
    far.copy_(near)
    wanted = derivatives(flow_warp, near, flow, grad)
    for got, want in zip(derivatives(flow_warp, far, flow, grad), wanted, strict=True):
        assert torch.equal(got, want)


@given(data=st.data())
def test_any_shape_strides_dtype_and_flow(backend, data):
    draw = data.draw
    size = draw(st.tuples(*(st.integers(0, n) for n in (3, 20, 5, 6))), "size")
    dtype = draw(st.sampled_from(DTYPES), "dtype")
    input, flow, grad = sample_inputs(backend.device, dtype, size)
    flow = draw(st.sampled_from([flow, flow.round(), 0.1 * flow]), "flow")
    for _ in range(draw(st.integers(0, 4), "extremes")):
        if flow.numel():
            where = draw(st.integers(0, flow.numel() - 1))
            flow.view(-1)[where] = draw(st.sampled_from(EXTREMES))
    moved = [
        strided(tensor, draw(st.sampled_from(["none", *STRIDES]), name))
        for name, tensor in (("input", input), ("flow", flow), ("grad", grad))
    ]
    scale = draw(st.sampled_from([1.0, -1.0, 0.5]), "scale")
    compare(*moved, scale, draw(st.sampled_from(PADDINGS), "padding"))
