"""Arguments of flow_warp, and its results against the formula."""

import math

import torch
from accuracy import assert_accurate, opmath

from trajgru_ext import flow_warp, reference

FORMATS = [torch.contiguous_format, torch.channels_last]
PADDINGS = ["zeros", "border"]
# Displacements at which something jumps, or overflows.
EXTREMES = [math.inf, -math.inf, 1e30, -1e30, 1e-30, -1e-30, 0.0, -0.0, -1.0, 1.0, 3.0]
STRIDES = [
    "transposed",
    "sliced",
    "channel slice of channels last",
    "offset",
    "channels last",
]


def sample_inputs(device, dtype=torch.float32, size=(2, 5, 4, 6), layout=FORMATS[0]):
    """An image, a flow that leaves it here and there, and an output gradient."""
    generator = torch.Generator().manual_seed(sum(size))
    batch, _, height, width = size

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    input, grad = (normal(*size).to(device, dtype) for _ in range(2))
    flow = (2 * normal(batch, 2, height, width)).to(device, opmath(dtype))
    return (
        input.contiguous(memory_format=layout),
        flow,
        grad.contiguous(memory_format=layout),
    )


def derivatives(function, input, flow, grad, scale=1.0, *padding):
    """The output and the gradients to input and flow."""
    leaves = [input.detach().requires_grad_(), flow.detach().requires_grad_()]
    output = function(*leaves, scale, *padding)
    return output, *torch.autograd.grad(output, leaves, grad)


def largest(tensor):
    """The largest absolute value."""
    return tensor.abs().max().item() if tensor.numel() else 0.0


def compare(input, flow, grad, scale=1.0, padding="zeros"):
    """Against the naive formula in float64."""
    options = (scale, padding)
    got = derivatives(flow_warp, input, flow, grad, *options)
    doubles = [t.detach().cpu().double() for t in (input, flow, grad)]
    exact = derivatives(reference.flow_warp, *doubles, *options)
    # What each result sums up, in absolute values: the same sums of absolute values.
    absolute = derivatives(
        *(reference.flow_warp, doubles[0].abs(), doubles[1], doubles[2].abs()), *options
    )
    channels, pixels, dtype = (
        input.shape[1],
        input.shape[2] * input.shape[3],
        input.dtype,
    )
    image, seed = largest(doubles[0]), largest(doubles[2])
    slopes = 4 * abs(scale) * channels * image * seed
    assert_accurate(got[0], exact[0], terms=4, magnitude=image)
    assert_accurate(got[1], exact[1], terms=4 * pixels, magnitude=largest(absolute[1]))
    assert_accurate(got[2], exact[2], terms=channels, magnitude=slopes, dtype=dtype)
    return got


def strided(tensor, how):
    """The same values in other memory."""
    batch, channels, height, width = tensor.shape
    if how == "transposed":
        return tensor.transpose(2, 3).contiguous().transpose(2, 3)
    if how == "sliced":
        wide = torch.zeros(batch, 2 * channels, height, width + 3).to(tensor)
        wide[:, ::2, :, 2:-1] = tensor
        return wide[:, ::2, :, 2:-1]
    if how == "channel slice of channels last":
        wide = torch.zeros(batch, channels + 5, height, width).to(tensor)
        wide = wide.contiguous(memory_format=torch.channels_last)
        wide[:, 3:-2] = tensor
        return wide[:, 3:-2]
    if how == "offset":
        return torch.cat((tensor.new_zeros(7), tensor.flatten()))[7:].view(tensor.shape)
    return tensor.contiguous(memory_format=torch.channels_last)
