"""Whether a change made anything slower: the operators of two builds in one run.

`python benchmarks/compare_builds.py BEFORE AFTER` takes two checkouts in which the
extension is built in place (`python setup.py build_ext --inplace`). In each round both
run in a process of their own, in turn, so that both get the same share of whatever else
the machine does; the results of the two are compared first. On the CPU, in float32 and
channels last but where a title says otherwise: flow_conv, flow_warp, the operators over
branches, sequences of ConvLSTM and ConvGRU, and the gate updates alone, forward, and
forward with backward. `--only WORD` leaves out the cases without it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from trajgru_ext import (
    channel_mean,
    conv_gru,
    conv_lstm,
    flow_conv,
    flow_warp,
    gru_gates,
    hff_concat,
    lstm_gates,
    sk_select,
    spatial_pyramid_pool,
)

Case = tuple[str, Callable[..., Tensor], list[Tensor]]


def image(*sizes: int) -> Tensor:
    return torch.randn(sizes).contiguous(memory_format=torch.channels_last)


def warps() -> Iterator[Case]:
    """Of a large image and of small ones, with what else changes the loops."""
    for count, channels, side in ((1, 8, 480), (4, 64, 64)):
        flow = 3 * torch.randn(count, 2, side, side)
        x = image(count, channels, side, side)
        title = f"flow_warp, {count}x{channels}x{side}x{side}"
        yield title, flow_warp, [x, flow]
        yield f"{title}, planes", flow_warp, [x.contiguous(), flow]
        yield (
            f"{title}, border",
            lambda x, flow: flow_warp(x, flow, padding_mode="border"),
            [x, flow],
        )
        yield f"{title}, bfloat16", flow_warp, [x.bfloat16(), flow]


def branches() -> Iterator[Case]:
    """Some images of one size, in both memory formats."""
    for name, form in (
        ("", torch.channels_last),
        (", planes", torch.contiguous_format),
    ):
        x = [image(4, 64, 64, 64).contiguous(memory_format=form) for _ in range(4)]
        logits = torch.randn(4, 4, 64)
        yield f"hff_concat{name}", lambda *x: hff_concat(x), x
        yield f"channel_mean{name}", channel_mean, x
        yield f"sk_select{name}", lambda *t: sk_select(t[:-1], t[-1]), [*x, logits]
        yield f"spatial_pyramid_pool{name}", lambda x: spatial_pyramid_pool(x, 4), x[:1]


def cases() -> Iterator[Case]:
    """Functions that both builds have, and their tensors."""
    yield from warps()
    yield from branches()
    for side, channels, links in ((96, 64, 13), (32, 192, 13), (16, 192, 9)):
        weight = torch.randn(3 * channels, links * channels) / 30
        tensors = [image(3, channels, side, side), image(3, 2 * links, side, side)]
        title = f"flow_conv, {channels} channels, {side} square"
        yield title, flow_conv, [*tensors, weight, torch.randn(3 * channels)]
    inputs = image(40, 64, 64, 64).unflatten(0, (10, 4))

    def weights(gates: int) -> list[Tensor]:
        kernels = [torch.randn(gates * 64, 64, 3, 3) / 25 for _ in range(2)]
        return [inputs, *kernels, torch.randn(gates * 64)]

    def lstm(x: Tensor, *parameters: Tensor) -> Tensor:
        return conv_lstm(x, None, None, *parameters)[0]

    def gru(reset: str) -> Callable[..., Tensor]:
        return lambda x, *parameters: conv_gru(x, None, *parameters, reset=reset)

    yield "conv_lstm", lstm, weights(4)
    for reset in ("after", "before"):
        yield f"conv_gru, reset {reset}", gru(reset), weights(3)
    for title, side in (("", 64), (", 8 channels, 8 square", 8)):
        features = side

        def gates(count: int, f: int = features, s: int = side) -> list[Tensor]:
            parts = [image(4, count * f, s, s) for _ in range(2)]
            return [*parts, image(4, f, s, s)]

        yield f"lstm_gates{title}", lambda *t: lstm_gates(*t)[0], gates(4)
        yield f"gru_gates{title}", gru_gates, gates(3)


def seconds(run: Callable[[], object]) -> float:
    """The median over a second."""
    run()
    found = []
    end = time.perf_counter() + 1
    while len(found) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def measure(only: str) -> dict[str, list[float]]:
    """Of each case and pass the seconds, and what tells the result."""
    torch.manual_seed(0)
    found = {}
    for title, function, tensors in cases():
        if only not in title:
            continue
        seed = torch.ones_like(function(*tensors))
        leaves = [one.detach().requires_grad_() for one in tensors]

        def infer(function=function, tensors=tensors) -> list[Tensor]:
            with torch.no_grad():
                return [function(*tensors)]

        def train(function=function, leaves=leaves, seed=seed) -> list[Tensor]:
            return list(torch.autograd.grad(function(*leaves), leaves, seed))

        for mode, run in (("forward", infer), ("forward+backward", train)):
            told = sum(one.double().norm().item() for one in run())
            found[f"{title}, {mode}"] = [seconds(run), told]
    return found


def in_process(tree: Path, only: str) -> dict[str, list[float]]:
    command = [
        sys.executable,
        str(Path(__file__).resolve()),
        "--measure",
        "--only",
        only,
    ]
    environment = os.environ | {"PYTHONPATH": str(tree.resolve())}
    done = subprocess.run(
        command,
        cwd=tree,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Run both builds in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("builds", nargs="*", type=Path, metavar="BUILD")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", metavar="WORD")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.only)))
        return
    if len(options.builds) != 2:
        parser.error("two builds must be given, that before the change first")
    runs: list[list[dict]] = [[], []]
    for number in range(options.rounds):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            runs[which].append(in_process(options.builds[which], options.only))
    if not runs[0][0]:
        parser.error(f"--only: no case has {options.only!r}")
    print(f"{'milliseconds':<50} {'before':>9} {'after':>9}  before / after")
    for title, (_, told) in runs[0][0].items():
        _, other = runs[1][0][title]
        if not abs(told - other) <= 1e-4 * abs(told):
            raise SystemExit(f"{title}: the results differ, {told} and {other}")
        each = [[1e3 * run[title][0] for run in both] for both in runs]
        before, after = map(statistics.median, each)
        least = min(each[0]) / min(each[1])
        figures = f"{before:9.3f} {after:9.3f}  {before / after:.2f}"
        print(f"{title:<50} {figures}, by minima {least:.2f}")


if __name__ == "__main__":
    main()
