"""Layers under autocast in half precision against eager PyTorch and our own float32.

Batch 2, five steps, kernels of 3: 64 to 64 channels at 32 x 32, 16 to 16 and
1 to 16 at 64 x 64, and a TrajGRU layer of 13 links, 8 to 64 channels at 32 x 32. The
other sides: (a) the published modules' code path under the same autocast; our layer in
float32. Which processors multiply in bfloat16 themselves is printed with the machine's
facts. Every side's outputs and gradients are compared with those of float64 before they
are timed: their relative error is printed, and ours may be at most a tenth above that
of (a).
"""

import argparse
import os
from functools import partial

import torch
from bench_conv_rnn import NETS
from measure import (
    Side,
    add_arguments,
    device,
    machine,
    medians_of_models,
    print_table,
    write,
)
from ported_layers import PortedTrajGRU
from torch import Tensor, nn
from training import Ours, train_step

from trajgru_ext.nn import TrajGRU

BATCH, STEPS, LINKS = 2, 5, 13
# Channels, features, height and width.
SIZES = [(64, 64, 32), (16, 16, 64), (1, 16, 64)]
FLOW_SIZE = (8, 64, 32)
FORMATS = {
    "contiguous": torch.contiguous_format,
    "channels last": torch.channels_last,
}
# Rounded half types are off by so much, relative to the norm of what is rounded.
MOST = {torch.bfloat16: 0.1, torch.float16: 0.02}
INSTRUCTIONS = ("avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16")


def instructions() -> str:
    """Those of the processor that multiply in half precision."""
    with open("/proc/cpuinfo") as lines:
        flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return ", ".join(one for one in INSTRUCTIONS if one in flags) or "none"


def title(
    name: str, size: tuple[int, int, int], dtype: torch.dtype, layout: str
) -> str:
    """What is measured."""
    channels, features, side = size
    kind = str(dtype).removeprefix("torch.")
    return f"{name}, {channels} to {features}, {side} x {side}, {layout}, {kind}"


def layer(name: str, size: tuple[int, int, int]) -> tuple[nn.Module, nn.Module]:
    """Ours, and the published code path with the same parameters."""
    channels, features, _ = size
    if name != "TrajGRU":
        kind, own, port, _ = NETS[name]
        ours = kind(channels, features, 3, **own)
        return ours, port(ours)
    traj_gru = TrajGRU(channels, features, LINKS, zero_flows=False)
    with torch.no_grad():  # between whole coordinates, where gradients are smooth
        traj_gru.flows_conv.weight.mul_(0.1)
        traj_gru.flows_conv.bias.copy_(torch.randint(-4, 4, (2 * LINKS,)) + 0.5)
    return traj_gru, PortedTrajGRU(traj_gru)


def errors(got: list[Tensor], wanted: list[Tensor]) -> list[float]:
    """Of each result, relative to its norm, and of the least of them to the largest."""
    least = 1e-3 * max(one.norm() for one in wanted)
    pairs = zip(got, wanted, strict=True)
    return [
        float((one.double() - other).norm() / other.norm().clamp(min=least))
        for one, other in pairs
    ]


def bench(
    name: str, size: tuple[int, int, int], dtype: torch.dtype, layout: str, rounds: int
) -> list[dict]:
    """Inference and training of one layer."""
    torch.manual_seed(0)
    ours, port = layer(name, size)
    channels, features, side = size
    images = torch.randn(STEPS * BATCH, channels, side, side)
    images = images.contiguous(memory_format=FORMATS[layout])
    inputs = images.unflatten(0, (STEPS, BATCH)).requires_grad_()
    seed = torch.randn(STEPS, BATCH, features, side, side)
    autocast = partial(torch.autocast, device(), dtype)
    sides: dict[str, tuple[nn.Module, bool]] = {
        "ours": (Ours(ours), True),
        "(a) published": (port, True),
        "ours, float32": (Ours(ours), False),
    }

    def train(model: nn.Module, half: bool) -> list[Tensor]:
        with autocast(enabled=half):
            return train_step(
                model, inputs, seed.to(dtype) if half and model is not port else seed
            )

    def infer(model: nn.Module, half: bool) -> Tensor:
        with torch.no_grad(), autocast(enabled=half):
            return model(inputs)

    found = {one: train(*how) for one, how in sides.items()}
    doubles = inputs.detach().double().requires_grad_()
    wanted = train_step(port.double(), doubles, seed.double())
    port.float()
    off = {one: max(errors(got, wanted)) for one, got in found.items()}
    if not off["ours"] < min(MOST[dtype], 1.1 * off["(a) published"]):
        raise SystemExit(f"{name} is wrong: relative errors {off}")
    del found

    records = []
    for mode, way in (("forward", infer), ("forward+backward", train)):
        runs: dict[str, Side] = {
            one: partial(way, model, half) for one, (model, half) in sides.items()
        }
        times = medians_of_models(runs, rounds)
        print_table(f"{title(name, size, dtype, layout)}, {mode}", times, "ours")
        records.append(
            {
                "net": name,
                "size": list(size),
                "format": layout,
                "dtype": str(dtype).removeprefix("torch."),
                "mode": mode,
                "milliseconds": times,
                "times_ours": {one: ms / times["ours"] for one, ms in times.items()},
                "errors": off,
            }
        )
    print(
        "  largest relative error:", ", ".join(f"{k} {v:.1e}" for k, v in off.items())
    )
    return records


def main() -> None:
    """Run every layer in bfloat16, and one in float16."""
    parser = add_arguments(argparse.ArgumentParser(description=__doc__), "half")
    parser.set_defaults(rounds=3)
    parser.add_argument("--only", default="", help="those whose title has this in it")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    print(machine(), "half precision by:", instructions())
    cases = [(name, size) for name in NETS for size in SIZES] + [("TrajGRU", FLOW_SIZE)]
    every = [(*case, torch.bfloat16, layout) for case in cases for layout in FORMATS]
    every.append((*cases[0], torch.float16, "channels last"))
    records = []
    for name, size, dtype, layout in every:
        if options.only in title(name, size, dtype, layout):
            records += bench(name, size, dtype, layout, options.rounds)
    write(options.json, records)


if __name__ == "__main__":
    main()
