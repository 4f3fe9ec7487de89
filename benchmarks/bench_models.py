"""Published models under `accelerate` against what else a user would run.

Plain renderings (`ports/`) in float32 on the CPU, with random parameters and inputs;
with --openstl the classes of a checkout in place of those of OpenSTL. Four layers of
128 features at 16 x 16, batch 4, 10 frames to 10, are OpenSTL's models for Moving
MNIST; `public_models.py` says the sizes of the others. Sides: the model under
`accelerate`, contiguous and channels last; in eager PyTorch, in both formats; with
--compile, torch.compile of the contiguous one. "best other" is the fastest of those
that are not ours.

Forward is inference, without gradients and in evaluation mode; a training step is
forward, the model's own loss and backward. Every side's results and gradients are first
compared with those of the port in float64. Every side is a copy made before the first
run, so that models that keep something from call to call (MIM's blocks, the vectors of
spectral norms) begin alike. The first step is that of a model in training with what
goes before it: `accelerate`, or compilation without caches. Memory is the peak of a
training step beyond what there was before it, in a process of its own.
"""

import argparse
import copy
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measure import (
    Side,
    add_arguments,
    machine,
    medians_of_models,
    print_table,
    write,
)
from peak_memory import peak_mib
from public_models import (
    CASES,
    OPENSTL,
    Arguments,
    change,
    channels_last,
    infer,
    model_and_arguments,
    train_step,
)
from torch import Tensor, nn

from trajgru_ext import accelerate

# The error of Winograd's convolution, of the sum of absolute products (conv_algorithm).
ROUNDING = 4e-6
EAGER, COMPILED = "eager, contiguous", "torch.compile"
Results = list[Tensor]


def results(model: nn.Module, arguments: Arguments) -> Results:
    """What both modes give, from a training step on."""
    outputs, gradients = train_step(model.train(), arguments)
    return [*outputs, *gradients.values(), *infer(model.eval(), arguments)]


def exact(
    name: str,
    model: nn.Module,
    arguments: Arguments,
    options: argparse.Namespace,
    off: float = 0.0,
) -> Results:
    """The results of the port in float64, its parameters at random off by so much."""
    port, _ = model_and_arguments(name, options.small, past=options.past)
    port.load_state_dict(model.state_dict())
    port.double()
    with torch.no_grad():
        for parameter in port.parameters():
            parameter.mul_(1 + off * torch.randn_like(parameter))
    return results(port, change(arguments, Tensor.double))


def error(got: Results, wanted: Results) -> float:
    """The largest relative error of a tensor."""
    pairs = zip(got, wanted, strict=True)
    return max(((a.double() - b).norm() / b.norm()).item() for a, b in pairs)


def check(errors: dict[str, float], moved: float) -> None:
    """Stop where a side is wrong; ours may be no further off than the port.

    A sum that rounding takes across the kink of a ReLU has another slope there: ours
    may also be off by what the model in float64 moves where its parameters are off by
    ROUNDING.
    """
    print(f"  largest errors against float64: {errors}; moved by rounding: {moved}")
    for side, off in errors.items():
        ours = side.startswith("ours")
        bound = max(1e-3, errors[EAGER], moved) if ours else 0.02
        if not off <= bound:
            raise SystemExit(f"{side} is wrong, by {off}")


def prepare_sides(
    name: str, options: argparse.Namespace
) -> tuple[dict[str, tuple[nn.Module, Arguments]], dict[str, float], dict[str, float]]:
    """Every side's model and arguments, its error, checked, and a first step's ms."""
    where = options.small, options.openstl, options.past
    model, given = model_and_arguments(name, *where)
    of_images = CASES[name].of_images
    last = change(given, channels_last) if of_images else given
    wanted = exact(name, model, given, options)
    sides = {"ours": given, EAGER: given, "eager, channels last": last}
    sides |= {COMPILED: given} if options.compile else {}
    sides |= {"ours, channels last": last}
    made, errors, first = {}, {}, {}
    for side, arguments in sides.items():
        one = copy.deepcopy(model)
        if side.endswith("channels last"):
            one = one.to(memory_format=torch.channels_last)
        start = time.perf_counter()
        if side.startswith("ours"):
            replaced = accelerate(one)
        elif side == COMPILED:
            torch.compiler.reset()
            one.compile()
        outputs, gradients = train_step(one.train(), arguments)
        if torch.get_default_device().type != "cpu":
            torch.accelerator.synchronize()
        first[side] = 1e3 * (time.perf_counter() - start)
        got = [*outputs, *gradients.values(), *infer(one.eval(), arguments)]
        errors[side] = error(got, wanted)
        made[side] = one, arguments
    print(f"\n{name}: {replaced}")
    check(errors, error(exact(name, model, given, options, ROUNDING), wanted))
    return made, errors, first


def bench(name: str, options: argparse.Namespace) -> list[dict]:
    """The first step, inference, and a training step."""
    sides, errors, first = prepare_sides(name, options)
    records = []

    def record(mode: str, times: dict[str, float]) -> None:
        print_table(f"{name}, {mode}", times, "ours")
        others = {s: ms for s, ms in times.items() if not s.startswith("ours")}
        ratios = {"best other": min(others.values()) / times["ours"]}
        ratios |= {side: ms / times["ours"] for side, ms in times.items()}
        figures = {"milliseconds": times, "times_ours": ratios, "errors": errors}
        records.append({"model": name, "mode": mode} | figures)

    def forward(model: nn.Module, arguments: Arguments) -> Side:
        return lambda: infer(model, arguments)

    def train(model: nn.Module, arguments: Arguments) -> Side:
        return lambda: train_step(model, arguments)

    if options.compile:
        record("first step", {side: first[side] for side in ("ours", COMPILED)})
    for mode, make in (("forward", forward), ("training step", train)):
        for model, _ in sides.values():
            model.train(mode != "forward")
        runs = {side: make(*pair) for side, pair in sides.items()}
        record(mode, medians_of_models(runs, options.rounds))
    return records


def prepare_training(
    name: str, recompute: str | None, small: bool, checkout: Path | None
) -> Callable[[], object]:
    """For peak_mib: a training step that is about to run."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    for size in (True, small):
        model, arguments = model_and_arguments(name, size, checkout)
        if recompute is not None:
            accelerate(model, recompute=recompute)
        model.train()
        if size != small:
            train_step(model, arguments)
    return lambda: train_step(model, arguments)


def bench_memory(name: str, options: argparse.Namespace) -> dict:
    """The peaks of a training step."""
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    print(f"\n{name}: MiB at the peak of a training step")
    peaks = {}
    for recompute in (None, "none", "gates"):
        side = EAGER if recompute is None else f'ours, recompute="{recompute}"'
        where = options.small, options.openstl
        peaks[side] = peak_mib(prepare_training, name, recompute, *where)
        share = peaks[side] / max(peaks[EAGER], 1e-3)
        print(f"  {side:<32} {peaks[side]:8.0f}   {share:4.0%} of the eager model's")
    return {"model": name, "mode": "memory", "mebibytes": peaks}


def main() -> None:
    """Run every model, or those that are named."""
    parser = add_arguments(argparse.ArgumentParser(description=__doc__), "models")
    parser.set_defaults(rounds=5)
    parser.add_argument("--models", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument(
        "--openstl", type=Path, help=f"a checkout of OpenSTL: its {', '.join(OPENSTL)}"
    )
    parser.add_argument(
        "--past",
        type=int,
        default=10,
        help="frames that OpenSTL's models see, and as many follow: a step takes as "
        "long with fewer, and the whole less",
    )
    parser.add_argument("--compile", action="store_true", help="takes minutes a model")
    parser.add_argument("--small", action="store_true", help="sizes to try it with")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    records: list[dict] = []
    with torch._inductor.config.patch(force_disable_caches=True):
        if options.compile:
            # What the first of all compilations prepares.
            torch.compile(torch.sin)(torch.ones(2))
        for name in options.models:
            records += [bench_memory(name, options)] if options.memory else []
            records += bench(name, options)
            write(options.json, records)


if __name__ == "__main__":
    main()
