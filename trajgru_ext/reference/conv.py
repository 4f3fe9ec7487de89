"""Convolutions."""

import itertools

import torch
from torch import Tensor
from torch.nn.functional import conv2d as torch_conv2d
from torch.nn.functional import pad

Conv = tuple[Tensor, Tensor | None]


def convolve(image: Tensor, conv: Conv, dilation: int | tuple[int, int] = 1) -> Tensor:
    """Convolve, keeping the size, with a weight and a bias or None."""
    weight, bias = conv[0].double(), None if conv[1] is None else conv[1].double()
    if 0 in image.shape[2:]:  # which torch refuses
        none = image.double().sum() * weight.sum()
        return none.expand(len(image), len(weight), *image.shape[2:])
    both = (dilation, dilation) if isinstance(dilation, int) else dilation
    sizes = zip(both, weight.shape[2:], strict=True)
    padding = [one * (size // 2) for one, size in sizes]
    return torch_conv2d(image.double(), weight, bias, padding=padding, dilation=both)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """Convolve: the sum over channels and taps of the padded image, product by product.

    y[b,o,i,j] = sum_c sum_m sum_n x[b,c,i s+m d-p,j s+n d-p] w[o,c,m,n]
    """
    rows, columns = padding
    image = pad(input.double(), (columns, columns, rows, rows))
    parts = []
    weights = weight.double().chunk(groups)
    for x, w in zip(image.chunk(groups, 1), weights, strict=True):
        patches = image.new_zeros(())
        for m, n in itertools.product(range(w.shape[2]), range(w.shape[3])):
            height = x.shape[2] - dilation[0] * (w.shape[2] - 1)
            width = x.shape[3] - dilation[1] * (w.shape[3] - 1)
            first_row, first_column = m * dilation[0], n * dilation[1]
            seen = x[:, :, first_row : first_row + height : stride[0]]
            seen = seen[..., first_column : first_column + width : stride[1]]
            patches = patches + torch.einsum("bchw,oc->bohw", seen, w[:, :, m, n])
        parts.append(patches)
    output = torch.cat(parts, 1)
    return output if bias is None else output + bias.double()[:, None, None]
