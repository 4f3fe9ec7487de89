"""Runs every operator on images that several threads share, and saves the results.

`python tests/tools/reproducible_results.py FILE`, with ATEN_CPU_CAPABILITY set. Ends
with status 1 where results depend on the number of threads, or on the run.
"""

import sys

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

import trajgru_ext

BATCH, CHANNELS, HIDDEN, HEIGHT, WIDTH = 2, 35, 6, 40, 56


def arguments(
    channels: int = CHANNELS,
    hidden: int = HIDDEN,
    height: int = HEIGHT,
    width: int = WIDTH,
) -> dict[str, tuple]:
    """Of every operator, with enough to do for four threads."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(shape, generator=generator)

    def image(channels: int) -> Tensor:
        return normal(BATCH, channels, height, width)

    def conv(outputs: int, inputs: int, size: int) -> tuple[Tensor, Tensor]:
        scale = (inputs * size**2) ** -0.5
        return normal(outputs, inputs, size, size, scale=scale), normal(outputs)

    x, f = image(channels), hidden
    inputs, h = normal(3, BATCH, 3, height, width), image(f)
    rnn = {3: (conv(3 * f, 3, 3), conv(3 * f, f, 3)), 4: (conv(4 * f, 3, 3),)}
    (gru_x, gru_xb), (gru_h, gru_hb) = rnn[3]
    ((lstm_x, lstm_xb),), (lstm_h, lstm_hb) = rnn[4], conv(4 * f, f, 3)
    trajectory = (conv(3 * f, 3, 3), conv(4, 3, 5), conv(4, f, 5), conv(4, 4, 5))
    return {
        "flow_warp": (x, 2 * image(2)),
        "flow_conv": (x, 2 * image(4), normal(9, 2 * channels), normal(9)),
        "lstm_gates": (image(4 * f), image(4 * f), h, tuple(normal(3, 1, f, 1, 1))),
        "gru_gates": (image(3 * f), image(3 * f), h),
        "gru_reset": (image(2 * f), None, h),
        "gru_output": (image(f).sigmoid(), image(f), h),
        "conv_lstm": (inputs, h, image(f), lstm_x, lstm_h, lstm_xb, lstm_hb),
        "conv_gru": (inputs, h, gru_x, gru_h, gru_xb, gru_hb),
        "traj_gru": (inputs, h, *trajectory, (normal(3 * f, 2 * f), normal(3 * f))),
        "channel_mean": (x, image(channels)),
        "se_scale": (x, normal(BATCH, channels)),
        "sk_select": ([x, image(channels)], normal(BATCH, 2, channels)),
        "hff_concat": (
            *([x, image(channels), image(channels)], 1),
            *normal(3, 2 * channels),
        ),
        "spatial_pyramid_pool": (x, 3, "mean"),
    }


def derivatives(name: str, given: tuple, dtype: torch.dtype) -> list[Tensor]:
    """The results, and the gradients of a weighted sum of them."""
    leaves = []

    def leaf(value: object) -> object:
        if not isinstance(value, Tensor):
            return value
        leaves.append(value.to(dtype).requires_grad_())
        return leaves[-1]

    found = getattr(trajgru_ext, name)(*tree_map(leaf, given))
    found = (
        [found] if isinstance(found, Tensor) else [f for f in found if f is not None]
    )
    weights = [torch.linspace(-1, 1, f.numel(), dtype=f.dtype) for f in found]
    seeds = [
        torch.empty_like(f).copy_(w.view(f.shape))
        for w, f in zip(weights, found, strict=True)
    ]
    return [f.detach() for f in found] + list(torch.autograd.grad(found, leaves, seeds))


def main(path: str) -> None:
    results = {}
    for name, given in arguments().items():
        for dtype in (torch.float32, torch.bfloat16):
            for threads in (1, 2, 4, 4):
                torch.set_num_threads(threads)
                found = derivatives(name, given, dtype)
                first = results.setdefault(f"{name} {dtype}", found)
                if not all(map(torch.equal, first, found)):
                    raise SystemExit(f"{name}, {dtype}: others with {threads} threads")
    torch.save(results, path)


if __name__ == "__main__":
    main(sys.argv[1])
