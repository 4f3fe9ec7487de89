"""Whole networks: `accelerate` against the published port's, in plain PyTorch.

The HKO-7 port's network, 5 frames of 480 x 480 to 20, batch 1, and that of Moving
MNIST++ with 13 links, 10 frames of 64 x 64 to 10, batch 4; float32 on the CPU. Forward
is inference, a training step forward, mean squared error and backward. The results and
all gradients of both are first compared with those of the port in float64: ours must
not be further off, and the port, whose positions from -1 to 1 are rounded, may be by
2 %. Memory is the peak of a training step beyond what there was before it, in a process
of its own.
"""

import argparse
import copy
import os
from collections.abc import Callable

import torch
from measure import Side, add_arguments, machine, medians, print_table, write
from peak_memory import peak_mib
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ports.precipitation_nowcasting import HKO7, MOVING_MNIST, Sizes, network
from trajgru_ext import accelerate

NETWORKS = {"HKO-7": HKO7, "Moving MNIST++, L=13": MOVING_MNIST}
PORT = "published port"


def model_and_frames(what: Sizes) -> tuple[nn.Module, Tensor, Tensor]:
    """The network, frames, and what follows."""
    torch.manual_seed(0)
    model = network(what)
    frames = torch.rand(what.frames + what.ahead, what.batch, 1, what.image, what.image)
    return model, frames[: what.frames], frames[what.frames :]


def train_step(model: nn.Module, frames: Tensor, ahead: Tensor) -> list[Tensor]:
    """The forecast and the gradients to all parameters that have one."""
    forecast = model(frames)
    parameters = list(model.parameters())
    loss = mse_loss(forecast, ahead)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [forecast.detach(), *(g for g in found if g is not None)]


def error(got: list[Tensor], exact: list[Tensor]) -> float:
    """The largest relative error of the forecast and the gradients."""
    pairs = zip(got, exact, strict=True)
    return max(((a.double() - b).norm() / b.norm()).item() for a, b in pairs)


def check(fast: nn.Module, model: nn.Module, frames: Tensor, ahead: Tensor) -> dict:
    """Both sides' errors; stop where ours is not right."""
    results = {"ours": train_step(fast, frames, ahead)}
    results[PORT] = train_step(model, frames, ahead)
    exact = train_step(copy.deepcopy(model).double(), frames.double(), ahead.double())
    errors = {side: error(got, exact) for side, got in results.items()}
    print(f"  largest errors against float64: {errors}")
    if not errors["ours"] <= max(1e-3, errors[PORT]) or not errors[PORT] < 0.02:
        raise SystemExit(f"wrong, by {errors}")
    return errors


def bench(name: str, what: Sizes, options: argparse.Namespace) -> list[dict]:
    """Forward and a training step."""
    model, frames, ahead = model_and_frames(what)
    fast, _, _ = model_and_frames(what)
    fast.load_state_dict(model.state_dict())
    print(f"\n{name}: {accelerate(fast)}")
    errors = check(fast, model, frames, ahead)

    def infer(model: nn.Module) -> Side:
        return lambda: torch.no_grad()(model)(frames)

    def train(model: nn.Module) -> Side:
        return lambda: train_step(model, frames, ahead)

    records = []
    for mode, sides in (
        ("forward", {"ours": infer(fast), PORT: infer(model)}),
        ("training step", {"ours": train(fast), PORT: train(model)}),
    ):
        times = medians(sides, options.rounds)
        print_table(f"{name}, {mode}", times, "ours")
        ratios = {side: ms / times["ours"] for side, ms in times.items()}
        record = {"network": name, "mode": mode, "milliseconds": times}
        records.append(record | {"times_ours": ratios, "errors": errors})
    return records


def prepare_training(name: str, recompute: str | None) -> Callable[[], object]:
    """For peak_mib: a training step that is about to run."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    small = HKO7._replace(image=30, sizes=[6, 2, 1], frames=2, ahead=2)
    for what in (small, NETWORKS[name]):
        model, frames, ahead = model_and_frames(what)
        if recompute is not None:
            accelerate(model, recompute=recompute)
        if what is small:
            train_step(model, frames, ahead)
    return lambda: train_step(model, frames, ahead)


def bench_memory(name: str) -> dict:
    """The peaks of a training step."""
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    print(f"\n{name}: MiB at the peak of a training step")
    peaks = {}
    for recompute in (None, "none", "gates", "flows"):
        side = PORT if recompute is None else f'ours, recompute="{recompute}"'
        peaks[side] = peak_mib(prepare_training, name, recompute)
        share = peaks[side] / peaks[PORT]
        print(f"  {side:<32} {peaks[side]:8.0f}   {share:4.0%} of the port's")
    return {"network": name, "mode": "memory", "mebibytes": peaks}


def main() -> None:
    """Run both networks."""
    parser = add_arguments(argparse.ArgumentParser(description=__doc__), "networks")
    parser.add_argument("--only", choices=list(NETWORKS), help="one of the networks")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    records = []
    for name, what in NETWORKS.items():
        if options.only in (None, name):
            records.append(bench_memory(name))
            records += bench(name, what, options)
            write(options.json, records)


if __name__ == "__main__":
    main()
