"""flow_warp: its values and gradients on every backend."""

import math
from fractions import Fraction

import pytest
import torch
from accuracy import DTYPES, opmath
from flow_warp_inputs import FORMATS, PADDINGS, compare, derivatives, sample_inputs

from ports.warp import positions, sample
from trajgru_ext import flow_warp, reference

pytestmark = pytest.mark.kernels


@pytest.mark.parametrize("layout", FORMATS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "size",
    [
        (2, 1, 5, 7),
        (2, 3, 4, 6),
        (1, 8, 9, 5),
        (2, 32, 5, 6),
        (1, 67, 3, 4),
        (3, 4, 1, 1),
    ],
    ids=str,
)
@pytest.mark.parametrize("padding", PADDINGS)
def test_matches_the_naive_formula(backend, padding, size, dtype, layout):
    input, flow, grad = sample_inputs(backend.device, dtype, size, layout)
    output, input_grad, flow_grad = compare(input, flow, grad, -0.5, padding)
    assert output.dtype == input_grad.dtype == dtype
    assert flow_grad.dtype == flow.dtype
    assert output.stride() == input.stride()
    assert input_grad.stride() == input.stride()


@pytest.mark.parametrize("padding", PADDINGS)
def test_image_larger_than_a_tile_and_a_band(backend, padding):
    for layout in FORMATS:
        inputs = sample_inputs(backend.device, torch.float32, (1, 70, 13, 17), layout)
        compare(*inputs, 1.0, padding)


@pytest.mark.parametrize("flow_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_flow_of_any_dtype(backend, dtype, flow_dtype):
    input, flow, grad = sample_inputs(backend.device, dtype)
    flow = flow.to(flow_dtype)
    output, _, flow_grad = derivatives(flow_warp, input, flow, grad)
    read = flow.to(opmath(dtype))
    assert torch.equal(output, flow_warp(input, read))
    assert flow_grad.dtype == flow_dtype


def test_channel_0_points_right_and_channel_1_down(backend):
    input, flow, _ = sample_inputs(backend.device, torch.float64)
    right, down = torch.zeros_like(flow), torch.zeros_like(flow)
    right[:, 0] = 1
    down[:, 1] = 1
    assert torch.equal(flow_warp(input, right)[..., :-1], input[..., 1:])
    assert torch.equal(flow_warp(input, down)[:, :, :-1], input[:, :, 1:])
    assert torch.equal(flow_warp(input, right, -1.0)[..., 1:], input[..., :-1])


@pytest.mark.parametrize("padding", PADDINGS)
def test_matches_grid_sample(backend, padding):
    input, flow, grad = sample_inputs(backend.device, torch.float64, (2, 5, 6, 7))
    # Away from whole coordinates, where the derivative jumps.
    flow = flow.floor() + (flow - flow.floor()).clamp(0.01, 0.99)

    def sampled(input, flow, scale, padding):
        return sample(input, positions(scale * flow), padding_mode=padding)

    def both(flow, tolerance):
        got = derivatives(flow_warp, input, flow, grad, 1.0, padding)
        wanted = derivatives(sampled, input, flow, grad, 1.0, padding)
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=tolerance)

    both(flow, 1e-12)
    # And on either side of them.
    for side in (-1e-6, 1e-6):
        both(flow.round() + side, 1e-8)


# The corner cases of the definition.


@pytest.mark.parametrize("layout", FORMATS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("padding", PADDINGS)
def test_zero_flow_is_exactly_the_identity(backend, padding, dtype, layout):
    input, flow, _ = sample_inputs(backend.device, dtype, (1, 9, 5, 6), layout)
    input[0, 3, 2, 2] = math.inf
    input[0, 4, 3, 3] = math.nan
    output = flow_warp(input, torch.zeros_like(flow), padding_mode=padding)
    torch.testing.assert_close(output, input, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("padding", PADDINGS)
def test_what_rounds_to_a_whole_displacement_reads_one_corner(backend, padding, dtype):
    """Whether or not the compiler adds to products before it rounds them."""
    input = torch.full((1, 1, 3, 3), math.nan, dtype=dtype)
    input[0, 0, 1, 1] = 7
    input = input.to(backend.device)
    tried = 0
    for parts in range(3, 100):
        scale = torch.tensor(1 / parts, dtype=dtype)
        if scale * parts != 1 or Fraction(scale.item()) * parts == 1:
            continue
        flow = parts * torch.tensor([[1, 0, -1]] * 3, dtype=dtype)
        flow = torch.stack([flow, flow.T])[None].to(backend.device)
        warped = flow_warp(input, flow, 1 / parts, padding)
        assert torch.equal(warped, torch.full_like(warped, 7)), parts
        tried += 1
    assert tried > 9


@pytest.mark.parametrize("size", [(1, 3, 1, 6), (1, 3, 6, 1), (1, 3, 1, 1)], ids=str)
def test_flow_along_an_axis_of_size_1_is_honoured(backend, size):
    input, flow, grad = sample_inputs(backend.device, torch.float64, size)
    compare(input, flow, grad)
    half = torch.full_like(flow, 0.5)
    blend = 0.25 if size[2:] == (1, 1) else 0.5 * 0.5
    assert torch.equal(flow_warp(input, half)[..., -1, -1], blend * input[..., -1, -1])
    # Clipped to the border, it has but one place to go.
    _, _, flow_grad = compare(input, flow, grad, 1.0, "border")
    for component, pixels in enumerate((size[3], size[2])):
        assert flow_grad[:, component].any() == (pixels > 1)
    clipped = flow_warp(input, half, padding_mode="border")
    assert torch.equal(clipped[..., -1, -1], input[..., -1, -1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("component", [0, 1])
@pytest.mark.parametrize("other", [math.inf, 0.25])
@pytest.mark.parametrize("padding", PADDINGS)
def test_nan_flow_gives_nan_at_its_pixel_alone(
    backend, padding, dtype, component, other
):
    input, flow, grad = sample_inputs(backend.device, dtype)
    options = (1.0, padding)
    plain = derivatives(flow_warp, input, flow, grad, *options)
    without = grad.clone()
    without[1, :, 2, 3] = 0
    wanted_input_grad = derivatives(flow_warp, input, flow, without, *options)[1]
    flow[1, component, 2, 3] = math.nan
    flow[1, 1 - component, 2, 3] = other
    found = derivatives(flow_warp, input, flow, grad, *options)
    output, input_grad, flow_grad = found
    here = torch.zeros(2, 1, 4, 6, dtype=torch.bool, device=backend.device)
    here[1, :, 2, 3] = True
    assert output.isnan().equal(here.expand_as(output))
    assert flow_grad.isnan().equal(here.expand_as(flow_grad))
    # Nothing of the pixel's gradient goes anywhere.
    torch.testing.assert_close(input_grad, wanted_input_grad)
    for after, before in ((output, plain[0]), (flow_grad, plain[2])):
        assert torch.equal(after.masked_fill(here, 0), before.masked_fill(here, 0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("far", [math.inf, -math.inf, 1e30, -1e30, 1e10, -6.5, 2.0**31])
def test_far_outside_gives_zero_and_no_gradient(backend, far, dtype):
    input, flow, grad = sample_inputs(backend.device, dtype)
    for component in range(2):
        away = flow.clone()
        away[:, component] = far
        for result in derivatives(flow_warp, input, away, grad):
            assert not result.any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("far", [math.inf, -math.inf, 1e30, -1e30, 1e10, -6.5, 2.0**31])
def test_far_outside_is_the_border_where_it_is_repeated(backend, far, dtype):
    input, flow, grad = sample_inputs(backend.device, dtype)
    for component, size in enumerate((6, 4)):
        # As far as the nearest pixel of the border, along this component alone.
        steps = torch.arange(size, device=backend.device, dtype=flow.dtype)
        to_border = (size - 1 if far > 0 else 0) - steps
        away, near = flow.clone(), flow.clone()
        away[:, component] = far
        near[:, component] = to_border if component == 0 else to_border[:, None]
        got = derivatives(flow_warp, input, away, grad, 1.0, "border")
        want = derivatives(flow_warp, input, near, grad, 1.0, "border")
        assert torch.equal(got[0], want[0])
        torch.testing.assert_close(got[1], want[1])  # not summed in any order
        assert not got[2][:, component].any()
        assert torch.equal(got[2][:, 1 - component], want[2][:, 1 - component])


# By the position in [1, 2, 4] that is read: the value and its slope to the right, with
# the border repeated and with zeros.
POSITIONS = {
    -0.5: ((1.0, 0.0), (0.5, 1.0)),
    0.0: ((1.0, 1.0), (1.0, 1.0)),
    0.5: ((1.5, 1.0), (1.5, 1.0)),
    1.0: ((2.0, 2.0), (2.0, 2.0)),
    2.0: ((4.0, 0.0), (4.0, -4.0)),
    2.5: ((4.0, 0.0), (2.0, -4.0)),
    3.0: ((4.0, 0.0), (0.0, 0.0)),
    -1.0: ((1.0, 0.0), (0.0, 1.0)),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("component", [0, 1])
@pytest.mark.parametrize("position", POSITIONS)
def test_positions_at_the_borders(backend, position, component, dtype):
    values = torch.tensor([1.0, 2.0, 4.0], dtype=dtype, device=backend.device)
    image = values.view(1, 1, 1, 3).expand(1, 1, 3, 3)
    image = image.contiguous() if component == 0 else image.mT.contiguous()
    flow = torch.zeros(1, 2, 3, 3, device=backend.device)
    flow[0, component, 1, 1] = position - 1
    grad = torch.zeros_like(image)
    grad[..., 1, 1] = 1
    for padding, wanted in zip(reversed(PADDINGS), POSITIONS[position], strict=True):
        got = derivatives(flow_warp, image, flow, grad, 1.0, padding)
        assert (got[0][0, 0, 1, 1], got[2][0, component, 1, 1]) == wanted


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_a_clipped_position_does_not_read_may_be_nan(backend, dtype):
    input, flow, grad = sample_inputs(backend.device, dtype)
    input[..., 1:-1] = math.nan
    flow[:, 0, :, :3], flow[:, 0, :, 3:], flow[:, 1] = -9, 9, 0
    output, _, flow_grad = derivatives(flow_warp, input, flow, grad, 1.0, "border")
    assert torch.equal(output[..., :3], input[..., :1].expand(-1, -1, -1, 3))
    assert torch.equal(output[..., 3:], input[..., -1:].expand(-1, -1, -1, 3))
    assert not flow_grad[:, 0].any()
    assert flow_grad.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("padding", PADDINGS)
def test_the_smallest_displacement_is_a_weight(backend, padding, dtype):
    """It is lost where 1 is added to it before it is taken away."""
    least = torch.finfo(dtype).smallest_normal
    input = torch.tensor([[[[0, 1]]]], dtype=dtype, device=backend.device)
    flow = torch.zeros(1, 2, 1, 2, dtype=dtype, device=backend.device)
    flow[:, 0] = least
    for warp in (flow_warp, reference.flow_warp):
        assert warp(input, flow, 1.0, padding)[..., 0].item() == least


@pytest.mark.parametrize("whole", [-1.0, 0.0, 1.0, 2.0])
@pytest.mark.parametrize("padding", PADDINGS)
def test_gradient_at_whole_coordinates_is_from_the_right(backend, padding, whole):
    input, flow, grad = sample_inputs(backend.device, torch.float64)
    step = 2.0**-20  # bilinear: exact but for round-off within the cell
    at = torch.full_like(flow, whole)
    options = (1.0, padding)
    flow_grad = derivatives(flow_warp, input, at, grad, *options)[2]
    for component in range(2):
        beside = at.clone()
        beside[:, component] += step
        risen = flow_warp(input, beside, *options) - flow_warp(input, at, *options)
        slope = risen / step
        torch.testing.assert_close(
            flow_grad[:, component], (slope * grad).sum(1), rtol=0, atol=1e-8
        )


@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("padding", PADDINGS)
def test_empty_tensors(backend, padding, axis):
    size = [2, 3, 4, 5]
    size[axis] = 0
    for layout in FORMATS:
        input, flow, grad = sample_inputs(backend.device, torch.float32, size, layout)
        found = derivatives(flow_warp, input, flow, grad, 1.0, padding)
        output, input_grad, flow_grad = found
        assert output.shape == input_grad.shape == input.shape
        assert flow_grad.shape == flow.shape
        assert not flow_grad.any()
