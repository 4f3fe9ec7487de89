"""A TrajGRU layer, 8 to 64 channels at 96 x 96, against what a user would run instead.

Batch 3, 13 links, float32 on the CPU. The other sides: (a) the published PyTorch port's
code path; (b) the same with torchvision's deform_conv2d; OpenVINO and
onnxruntime on (a), exported, for inference; (c) with --compile, torch.compile of (a),
which takes many minutes. Those that are not installed are left out (`pip install
trajgru_ext[bench]`). Every side's values and gradients are first compared with those of
float64. Memory is the peak of a training step beyond what there was before it, in a
process of its own, and what each further time step adds to it.

The share of the matrix product's rate counts the multiplications of all convolutions,
three times in training, against one thread's rate times the threads.
"""

import argparse
import os
from collections.abc import Callable

import torch
from measure import Side, add_arguments, machine, medians, print_table, write
from peak_memory import peak_mib
from ported_layers import DeformedTrajGRU, PortedTrajGRU
from runtimes import installed, runtime_sides
from sgemm import share_of_sgemm, single_threaded_sgemm
from torch import Tensor, nn
from training import Ours, train_step

from trajgru_ext.nn import TrajGRU

BATCH, CHANNELS, FEATURES, SIZE, LINKS, STEPS = 3, 8, 64, 96, 13, 5
FORMATS = {
    "contiguous": torch.contiguous_format,
    "channels last": torch.channels_last,
}
SGEMM = "sgemm, one thread"


def layer_and_inputs(
    layout: str, steps: int = STEPS, links: int = LINKS, size: int = SIZE
) -> tuple[TrajGRU, Tensor]:
    """A layer whose flows are a few pixels long, and its inputs.

    They stay between whole coordinates, where grid_sample's round-off picks the cell
    and so the gradient.
    """
    torch.manual_seed(0)
    layer = TrajGRU(CHANNELS, FEATURES, links, zero_flows=False)
    with torch.no_grad():
        layer.flows_conv.weight.mul_(0.2)
        layer.flows_conv.bias.copy_(torch.randint(-4, 4, (2 * links,)) + 0.5)
    layer = layer.to(memory_format=FORMATS[layout])
    images = torch.randn(steps * BATCH, CHANNELS, size, size)
    images = images.contiguous(memory_format=FORMATS[layout])
    return layer, images.unflatten(0, (steps, BATCH)).requires_grad_()


def operations(steps: int) -> int:
    """Multiplications and additions of the convolutions in a forward pass.

    Those of the state are not needed in the first step, where it is 0.
    """
    hidden, gates = 32, 3 * FEATURES
    of_inputs = CHANNELS * (9 * gates + 25 * hidden) + 25 * hidden * 2 * LINKS
    of_state = 25 * FEATURES * hidden + LINKS * FEATURES * gates
    pixels = BATCH * SIZE * SIZE
    return 2 * pixels * (steps * of_inputs + (steps - 1) * of_state)


def check(
    name: str, got: list[Tensor], wanted: list[Tensor], tolerance: float = 1e-3
) -> None:
    """Stop where a side is wrong; grid_sample's positions cost it three digits."""
    for one, other in zip(got, wanted, strict=True):
        error = (one.double() - other).norm() / other.norm()
        if not error < tolerance:
            raise SystemExit(f"{name} is wrong: relative error {error}")


def bench(layout: str, options: argparse.Namespace) -> list[dict]:
    """Forward, and forward with backward, in one memory format."""
    layer, inputs = layer_and_inputs(layout)
    models: dict[str, nn.Module] = {"ours": Ours(layer)}
    models["(a) published port"] = PortedTrajGRU(layer)
    if installed("torchvision"):
        models["(b) deform_conv2d"] = DeformedTrajGRU(layer)
    if options.compile:
        models["(c) torch.compile of (a)"] = torch.compile(models["(a) published port"])
    seed = torch.randn(STEPS, BATCH, FEATURES, SIZE, SIZE)
    exact = PortedTrajGRU(layer_and_inputs(layout)[0].double())
    doubles = inputs.detach().double().requires_grad_()
    wanted = train_step(exact, doubles, seed.double())

    forward: dict[str, Side] = {}
    training: dict[str, Side] = {}
    for name, model in models.items():

        def infer(model=model):
            with torch.no_grad():
                return model(inputs)

        def train(model=model):
            return train_step(model, inputs, seed)

        check(name, [infer(), *train()[1:]], wanted)
        forward[name], training[name] = infer, train
    for again in ("gates", "flows"):

        def train_again(again=again):
            layer.recompute = again
            try:
                return train_step(models["ours"], inputs, seed)
            finally:
                layer.recompute = "none"

        name = f'ours, recompute="{again}"'
        check(name, train_again(), wanted)
        training[name] = train_again
    for name, run in runtime_sides(models["(a) published port"], (inputs,)).items():
        check(name, list(run()), wanted[:1])
        forward[name] = run

    records = []
    work = operations(STEPS)
    for mode, sides, count in (
        ("forward", forward, work),
        ("forward+backward", training, 3 * work),
    ):
        times = medians({**sides, SGEMM: single_threaded_sgemm()}, options.rounds)
        share = share_of_sgemm(times.pop(SGEMM), count, times["ours"])
        print_table(f"T={STEPS}, {layout}, {mode}", times, "ours")
        print(f"  ours at {share:.0%} of sgemm")
        ratios = {name: ms / times["ours"] for name, ms in times.items()}
        record = {"format": layout, "mode": mode, "milliseconds": times}
        records.append(record | {"times_ours": ratios, "share_of_sgemm": share})
    return records


def prepare_training(
    kind: str, layout: str, steps: int, links: int = LINKS, size: int = SIZE
) -> Callable[[], object]:
    """For peak_mib: a training step that is about to run."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    layer, inputs = layer_and_inputs(layout, steps, links, size)
    if kind != "port":
        layer.recompute = kind
    model = PortedTrajGRU(layer) if kind == "port" else Ours(layer)
    small, _ = layer_and_inputs(layout, 1)
    few = torch.randn(2, 1, CHANNELS, 8, 8).requires_grad_()
    train_step(Ours(small), few, torch.ones(2, 1, FEATURES, 8, 8))
    seed = torch.ones(steps, BATCH, FEATURES, size, size)
    return lambda: train_step(model, inputs, seed)


def bench_memory(layout: str) -> dict:
    """Peaks at 5 and 10 steps, and what a step adds."""
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    figures = {}
    print(f"\nMiB at the peak of a training step, {layout}: T=5, T=10, a step more")
    for kind in ("port", "none", "gates", "flows"):
        five, ten = (peak_mib(prepare_training, kind, layout, n) for n in (5, 10))
        figures[kind] = {"5": five, "10": ten, "step": (ten - five) / 5}
        name = "(a) published port" if kind == "port" else f'ours, recompute="{kind}"'
        print(f"  {name:<32} {five:8.0f} {ten:8.0f} {(ten - five) / 5:8.1f}")
    return {"format": layout, "mode": "memory", "mebibytes": figures}


def main() -> None:
    """Run both formats."""
    parser = add_arguments(argparse.ArgumentParser(description=__doc__), "traj_gru")
    parser.add_argument("--compile", action="store_true", help="also (c)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine(), os.environ.get("GLIBC_TUNABLES", ""))
    records = []
    for layout in reversed(FORMATS):
        records.append(bench_memory(layout))
        records += bench(layout, options)
    write(options.json, records)


if __name__ == "__main__":
    main()
