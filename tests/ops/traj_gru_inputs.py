"""What the tests of TrajGRU share: arguments, and their derivatives."""

import torch
from accuracy import opmath

from trajgru_ext import traj_gru

FORMATS = [torch.contiguous_format, torch.channels_last]


def sample_arguments(
    device="cpu",
    dtype=torch.float64,
    sizes=(3, 2, 2, 3, 4, 5),
    links=2,
    *,
    with_inputs=True,
    with_h=True,
    with_bias=True,
    within_cells=False,
    layout=FORMATS[0],
):
    """Inputs, h, and the five convolutions of a TrajGRU; sizes: T, B, C, F, H, W.

    within_cells: flows between whole numbers, so that small differences never cross
    one, where the gradient jumps.
    """
    steps, batch, channels, features, height, width = sizes
    generator = torch.Generator().manual_seed(sum(sizes) + links)

    def normal(*shape, scale=1.0):
        values = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        return values.to(device, dtype)

    def images(count, depth):
        return normal(count, depth, height, width).contiguous(memory_format=layout)

    def conv(outputs, inputs, size, scale=1.0):
        scale /= max(1, inputs * size * size) ** 0.5
        weight = normal(outputs, inputs, size, size, scale=scale)
        return weight, normal(outputs, scale=0.5) if with_bias else None

    flow_channels = 3
    inputs = images(steps * batch, channels).unflatten(0, (steps, batch))
    h = images(batch, features)
    i2h = conv(3 * features, channels, 3)
    i2f = conv(flow_channels, channels, 5)
    h2f = conv(flow_channels, features, 5)
    flows = conv(2 * links, flow_channels, 5, 0.1 if within_cells else 2.0)
    if within_cells and with_bias:
        flows = flows[0], torch.full_like(flows[1], 0.5)
    ret = conv(3 * features, links * features, 1)
    if not with_inputs:
        inputs = i2h = i2f = None
    return [inputs, h if with_h else None, i2h, i2f, h2f, flows, ret]


def sample_offset(device="cpu", links=2, size=(4, 5), dtype=torch.float64):
    """Flows to be added, within a pixel."""
    count = 2 * links * size[0] * size[1]
    offset = torch.linspace(-0.4, 0.4, count, dtype=dtype, device=device)
    return offset.reshape(2 * links, *size)


def flatten(arguments):
    """All tensors, weights and biases one by one, None where there is none."""
    inputs, h, *convs = arguments
    pairs = [(None, None) if pair is None else pair for pair in convs]
    return [inputs, h, *(tensor for pair in pairs for tensor in pair)]


def unflatten(tensors):
    """Undo `flatten`."""
    pairs = zip(tensors[2::2], tensors[3::2], strict=True)
    return [*tensors[:2], *(None if w is None else (w, b) for w, b in pairs)]


def derivatives(function, arguments, seeds, **options):
    """States and flows, and the gradients to all tensors that are given.

    seeds: to the states, and to the flows or None.
    """
    tensors = flatten(arguments)
    tensors = [None if t is None else t.detach().requires_grad_() for t in tensors]
    outputs = function(*unflatten(tensors), **options)
    leaves = [t for t in tensors if t is not None]
    pairs = [(o, s) for o, s in zip(outputs, seeds, strict=True) if s is not None]
    gradients = torch.autograd.grad(
        [o for o, _ in pairs], leaves, [s for _, s in pairs]
    )
    return *outputs, *gradients


def sample_seeds(arguments, steps):
    """Gradients to the states and to the flows."""
    inputs, h, *_, flows, ret = arguments
    generator = torch.Generator().manual_seed(1)
    sized, dtype = (h if inputs is None else inputs), ret[0].dtype
    seeds = []
    for channels, kind in (
        (ret[0].shape[0] // 3, dtype),
        (flows[0].shape[0], opmath(dtype)),
    ):
        shape = (steps, sized.shape[-4], channels, *sized.shape[-2:])
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        seeds.append(values.to(sized.device, kind))
    return seeds


def in_dtype(arguments, dtype, device="cpu"):
    tensors = [None if t is None else t.to(device, dtype) for t in flatten(arguments)]
    return unflatten(tensors)


def with_flows(*arguments, **options):
    return traj_gru(*arguments, return_flows=True, **options)
