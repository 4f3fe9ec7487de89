"""ConvLSTM and ConvGRU layers over ten steps against what a user would run instead.

Batch 4, kernels of 3, float32 on the CPU: 64 to 64 channels at 64 x 64, and 1 to 16 at
128 x 128. The other sides: (a) the published modules' code path; (b) with --compile,
torch.compile of (a), whose first calls are timed; OpenVINO and onnxruntime on (a),
exported, where installed (`pip install trajgru_ext[bench]`). Every side's values and
gradients are first compared with those of float64.

"convolutions" are those of the layer alone, all inputs' at once and the state's step by
step, with their gradients: their share of our time is printed, and their rate against
one thread's matrix products times the threads. Memory, at 64 to 64, is the peak of a
training step beyond what there was before it, in a process of its own.
"""

import argparse
import os
import time
from collections.abc import Callable

import torch
from measure import Side, add_arguments, machine, medians, print_table, write
from peak_memory import peak_mib
from ported_layers import PortedConvGRU, PortedConvLSTM, PortedGatedConvs
from runtimes import runtime_sides
from sgemm import share_of_sgemm, single_threaded_sgemm
from torch import Tensor, nn
from torch.nn.functional import conv2d
from training import Ours, train_step

from trajgru_ext.nn import ConvGRU, ConvLSTM

BATCH, KERNEL, STEPS = 4, 3, 10
SIZES = {"64 to 64, 64 x 64": (64, 64, 64), "1 to 16, 128 x 128": (1, 16, 128)}
FORMATS = {
    "contiguous": torch.contiguous_format,
    "channels last": torch.channels_last,
}
SGEMM, CONVOLUTIONS = "sgemm, one thread", "convolutions"

# Ours, its options, the published code path, and how many slices its gates have.
NETS = {
    "ConvLSTM": (ConvLSTM, {}, PortedConvLSTM, 4),
    "ConvGRU, reset before": (
        ConvGRU,
        {"reset": "before", "update": "replace"},
        PortedConvGRU,
        3,
    ),
    "ConvGRU, reset after": (
        ConvGRU,
        {"activation": "leaky_relu"},
        PortedGatedConvs,
        3,
    ),
}


def net_and_inputs(
    name: str, size: str, layout: str, **options: object
) -> tuple[nn.Module, Tensor]:
    """Our layer and a sequence for it."""
    torch.manual_seed(0)
    kind, own, _, _ = NETS[name]
    channels, features, side = SIZES[size]
    net = kind(channels, features, KERNEL, **own, **options)
    net = net.to(memory_format=FORMATS[layout])
    images = torch.randn(STEPS * BATCH, channels, side, side)
    images = images.contiguous(memory_format=FORMATS[layout])
    return net, images.unflatten(0, (STEPS, BATCH)).requires_grad_()


class Convolutions(nn.Module):
    """What is convolved, and nothing else; the state is the same at every step."""

    def __init__(self, size: str, gates: int, layout: str) -> None:
        super().__init__()
        channels, features, side = SIZES[size]

        def image(*shape: int) -> nn.Parameter:
            values = torch.randn(shape).contiguous(memory_format=FORMATS[layout])
            return nn.Parameter(values)

        self.x = image(gates * features, channels, KERNEL, KERNEL)
        self.h = image(gates * features, features, KERNEL, KERNEL)
        self.state = image(BATCH, features, side, side)

    def forward(self, inputs: Tensor) -> Tensor:
        of_x = conv2d(inputs.flatten(0, 1), self.x, padding=KERNEL // 2)
        # A state of 0 needs none.
        for_h = [
            conv2d(self.state, self.h, padding=KERNEL // 2) for _ in range(STEPS - 1)
        ]
        return of_x, torch.stack(for_h)


def check(net: str, name: str, got: list[Tensor], wanted: list[Tensor]) -> None:
    """Stop where a side is wrong.

    A sum that rounding takes across the kink of a leaky relu has another slope there.
    """
    kinked = NETS[net][1].get("activation") == "leaky_relu"
    for one, other in zip(got, wanted, strict=True):
        error = (one.double() - other).norm() / other.norm()
        if not error < (5e-3 if kinked else 2e-5):
            raise SystemExit(f"{name} is wrong: relative error {error}")


def operations(size: str, gates: int) -> int:
    """Multiplications and additions of the convolutions in a forward pass."""
    channels, features, side = SIZES[size]
    pixels = BATCH * side * side
    inputs = STEPS * channels + (STEPS - 1) * features
    return 2 * pixels * KERNEL**2 * gates * features * inputs


def convolution_sides(size: str, gates: int, layout: str, inputs: Tensor) -> list[Side]:
    """The convolutions forward, and with their gradients."""
    model = Convolutions(size, gates, layout)
    with torch.no_grad():
        seeds = [torch.ones_like(one) for one in model(inputs)]

    def infer() -> object:
        with torch.no_grad():
            return model(inputs)

    def train() -> object:
        return torch.autograd.grad(model(inputs), [inputs, *model.parameters()], seeds)

    return [infer, train]


def bench(name: str, size: str, layout: str, options: argparse.Namespace) -> list[dict]:
    """Forward, and forward with backward, of one layer in one memory format."""
    _, _, port, gates = NETS[name]
    net, inputs = net_and_inputs(name, size, layout)
    models = {"ours": Ours(net), "(a) published": port(net)}
    if options.compile:
        models["(b) torch.compile of (a)"] = torch.compile(models["(a) published"])
    seed = torch.randn_like(models["ours"](inputs))
    exact, doubles = net_and_inputs(name, size, layout)
    exact = port(exact.double())
    wanted = train_step(
        exact, doubles.detach().double().requires_grad_(), seed.double()
    )

    compiled: dict[str, float] = {}
    forward: dict[str, Side] = {}
    training: dict[str, Side] = {}
    for side, model in models.items():

        def infer(model=model):
            with torch.no_grad():
                return model(inputs)

        def train(model=model):
            return train_step(model, inputs, seed)

        start = time.perf_counter()
        check(name, side, [infer(), *train()[1:]], wanted)
        if side.startswith("(b)"):
            seconds = time.perf_counter() - start
            print(f"\n{side}: first calls {seconds:.0f} s")
            compiled["seconds_to_compile"] = seconds
        forward[side], training[side] = infer, train

    def train_again() -> list[Tensor]:
        net.recompute = "gates"
        try:
            return train_step(models["ours"], inputs, seed)
        finally:
            net.recompute = "none"

    side = 'ours, recompute="gates"'
    check(name, side, train_again(), wanted)
    training[side] = train_again
    for side, run in runtime_sides(models["(a) published"], (inputs,)).items():
        check(name, side, list(run()), wanted[:1])
        forward[side] = run
    convolutions = convolution_sides(size, gates, layout, inputs)

    records = []
    modes = ((1, "forward", forward), (3, "forward+backward", training))
    for (passes, mode, sides), alone in zip(modes, convolutions, strict=True):
        every = {**sides, CONVOLUTIONS: alone, SGEMM: single_threaded_sgemm()}
        times = medians(every, options.rounds)
        product = times.pop(SGEMM)
        work = passes * operations(size, gates)
        print_table(f"{name}, {size}, T={STEPS}, {layout}, {mode}", times, "ours")
        figures = {
            "convolutions_of_ours": times[CONVOLUTIONS] / times["ours"],
            "convolutions_of_sgemm": share_of_sgemm(product, work, times[CONVOLUTIONS]),
            "ours_of_sgemm": share_of_sgemm(product, work, times["ours"]),
        }
        for what, share in figures.items():
            print(f"  {what.replace('_', ' ')}: {share:.0%}")
        ratios = {side: ms / times["ours"] for side, ms in times.items()}
        record = {"net": name, "size": size, "format": layout, "mode": mode}
        record |= {"milliseconds": times, "times_ours": ratios}
        records.append(record | figures | compiled)
    return records


def prepare_training(name: str, size: str, layout: str, kind: str) -> Callable:
    """For peak_mib: a training step that is about to run."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    recompute = "none" if kind == "port" else kind
    net, inputs = net_and_inputs(name, size, layout, recompute=recompute)
    model = NETS[name][2](net) if kind == "port" else Ours(net)
    few = inputs[:2, :, :, :8, :8].detach().requires_grad_()
    train_step(model, few, torch.ones_like(model(few)))
    seed = torch.ones(STEPS, BATCH, SIZES[size][1], *inputs.shape[-2:])
    return lambda: train_step(model, inputs, seed)


def bench_memory(name: str, size: str, layout: str) -> dict:
    """The peak of a training step."""
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    figures = {}
    print(f"\nMiB at the peak of a training step, {name}, {size}, {layout}")
    for kind in ("port", "none", "gates"):
        figures[kind] = peak_mib(prepare_training, name, size, layout, kind)
        side = "(a) published" if kind == "port" else f'ours, recompute="{kind}"'
        print(
            f"  {side:<32} {figures[kind]:8.0f}  {figures[kind] / figures['port']:.0%}"
        )
    record = {"net": name, "size": size, "format": layout, "mode": "memory"}
    return record | {"mebibytes": figures}


def main() -> None:
    """Run every layer, size and format."""
    parser = add_arguments(argparse.ArgumentParser(description=__doc__), "conv_rnn")
    parser.add_argument("--compile", action="store_true", help="also (b), minutes each")
    parser.add_argument("--only", default="", help="those whose title has this in it")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    records = []
    for name in NETS:
        for size in SIZES:
            for layout in reversed(FORMATS):
                if options.only not in f"{name}, {size}, {layout}":
                    continue
                if SIZES[size][0] > 1:
                    records.append(bench_memory(name, size, layout))
                records += bench(name, size, layout, options)
    write(options.json, records)


if __name__ == "__main__":
    main()
