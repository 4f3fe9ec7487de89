"""How rounding errors grow over 200 steps: float32 and bfloat16 against float64.

`python benchmarks/error_growth.py` runs each sequence operator with the same numbers in
the three dtypes, and draws docs/pictures/error_growth.png: the largest error of a
step's state, and of the gradient to a step's input from the last state, by the largest
value there.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

import trajgru_ext

STEPS, CHANNELS, FEATURES, SIZE = 200, 3, 8, 16
OUTPUT = Path(__file__).parent.parent / "docs" / "pictures" / "error_growth.png"


def normal(generator: torch.Generator, *shape: int, scale: float = 1.0) -> Tensor:
    # As bfloat16 has them, so that all start from the same numbers.
    values = scale * torch.randn(shape, generator=generator)
    return values.bfloat16().double()


def conv(generator: torch.Generator, outputs: int, inputs: int, kernel: int) -> Tensor:
    fan_in = inputs * kernel**2
    return normal(generator, outputs, inputs, kernel, kernel, scale=fan_in**-0.5)


def run(name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The states, and the gradients to the inputs from the last."""
    g = torch.Generator().manual_seed(0)
    inputs = normal(g, STEPS, 1, CHANNELS, SIZE, SIZE).to(dtype).requires_grad_()
    gates = 4 if name == "conv_lstm" else 3
    x, h = (conv(g, gates * FEATURES, n, 3).to(dtype) for n in (CHANNELS, FEATURES))
    if name == "conv_lstm":
        states, _ = trajgru_ext.conv_lstm(inputs, None, None, x, h)
    elif name == "conv_gru":
        states = trajgru_ext.conv_gru(inputs, None, x, h)
    else:
        shapes = [(4, CHANNELS, 5), (4, FEATURES, 5), (6, 4, 5), (24, 3 * FEATURES, 1)]
        convs = [(conv(g, *shape).to(dtype), None) for shape in shapes]
        states, _ = trajgru_ext.traj_gru(inputs, None, (x, None), *convs)
    seed = normal(g, *states.shape[1:]).to(dtype)
    (gradient,) = torch.autograd.grad(states[-1], inputs, seed)
    return states.detach().double(), gradient.double()


def error(found: Tensor, exact: Tensor) -> Tensor:
    """Step by step, by the largest value of the step."""
    largest = exact.abs().flatten(1).amax(1)
    return (found - exact).abs().flatten(1).amax(1) / largest


def main() -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    titles = ("state, by step", "gradient to the input, by steps before the last")
    for name, colour in (("conv_lstm", "C0"), ("conv_gru", "C1"), ("traj_gru", "C2")):
        exact = run(name, torch.float64)
        for dtype, line in ((torch.float32, "-"), (torch.bfloat16, ":")):
            kind = str(dtype).removeprefix("torch.")
            for k, (one, want) in enumerate(zip(run(name, dtype), exact, strict=True)):
                errors = error(one, want)
                errors = errors.flip(0) if k else errors
                axes[k].semilogy(errors, line, color=colour, label=f"{name}, {kind}")
                first, last = errors[:10].max(), errors[-10:].max()
                print(f"{name:10} {kind:9} {titles[k]:48} {first:.1e} to {last:.1e}")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("largest error / largest value")
    axes[1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(OUTPUT, dpi=80)


if __name__ == "__main__":
    main()
