"""What small operators would cost with their first derivatives in Python.

`PYTHONPATH=benchmarks python tests/tools/derivatives_in_python.py` prints microseconds
of forward and backward at 8 channels of 16 x 16 and batch 1, by the compiled derivative
and by a Function in Python, and their ratio: medians of a thread's own time, the two in
turn. Both call the same kernels; their gradients are compared first.
"""

import statistics
import time
from collections.abc import Callable

import torch
from measure import machine
from torch import Tensor

from trajgru_ext import channel_mean, flow_warp, se_scale
from trajgru_ext.ops._autograd import _compiled

ROUNDS, CALLS = 50, 50
IMAGE = (1, 8, 16, 16)
OPERATORS: dict[str, tuple[Callable[..., Tensor], list[Tensor]]] = {
    "flow_warp": (flow_warp, [torch.randn(IMAGE), torch.rand(1, 2, 16, 16) + 0.1]),
    "se_scale": (se_scale, [torch.randn(IMAGE), torch.randn(1, 8)]),
    "channel_mean": (channel_mean, [torch.randn(IMAGE)]),
}


def sides(
    name: str, function: Callable[..., Tensor], tensors: list[Tensor]
) -> dict[str, Callable[[], tuple[Tensor, ...]]]:
    """Forward and backward in both ways."""
    leaves = [tensor.requires_grad_() for tensor in tensors]
    kind = _compiled[name]
    ones = torch.ones_like(function(*leaves))

    def side(derivative: str) -> Callable[[], tuple[Tensor, ...]]:
        def run() -> tuple[Tensor, ...]:
            kind.derivative = derivative
            return torch.autograd.grad(function(*leaves), leaves, ones)

        return run

    return {"compiled": side(name), "Python": side("")}


def medians(both: dict[str, Callable[[], tuple[Tensor, ...]]]) -> dict[str, float]:
    """Microseconds of a call."""
    times: dict[str, list[float]] = {name: [] for name in both}
    for _ in range(ROUNDS):
        for name, side in both.items():
            start = time.process_time()
            for _ in range(CALLS):
                side()
            times[name].append(1e6 * (time.process_time() - start) / CALLS)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(*(f"{key}: {value}" for key, value in machine().items()), sep="\n")
    for name, (function, tensors) in OPERATORS.items():
        both = sides(name, function, tensors)
        for one, other in zip(*(side() for side in both.values()), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)
        times = medians(both)
        shown = ", ".join(f"{side} {taken:.0f} us" for side, taken in times.items())
        print(f"{name}: {shown}, {times['Python'] / times['compiled']:.1f} times")


if __name__ == "__main__":
    main()
