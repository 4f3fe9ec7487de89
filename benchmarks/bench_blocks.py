"""The convolutional blocks and their operators against PyTorch.

Sizes from the papers, batch 8: SE 256 x 56 x 56, SK 512 x 28 x 28 with two branches,
EESP 128 x 28 x 28 with four, a pyramid of 256 x 13 x 13 with levels 1 to 4. Sides:
ours; (a) the usual lines in eager PyTorch; (b) `torch.compile` of (a). Operators alone,
and whole blocks with their convolutions; EESP in evaluation, where its batch norm and
PReLU are part of the operator, forward only. All in float32, and every side's values
and gradients are checked against float64 before they are timed.
"""

import argparse
import copy
from collections.abc import Callable

import torch
from measure import Side, add_arguments, machine, medians, print_table, write
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, batch_norm, max_pool2d, prelu

from ports import blocks, espnetv2
from trajgru_ext import (
    channel_mean,
    hff_concat,
    se_scale,
    sk_select,
    spatial_pyramid_pool,
)
from trajgru_ext.nn import (
    EESP,
    DilatedPyramid,
    SelectiveKernelConv,
    SpatialPyramidPooling,
    SqueezeExcitation,
)

BATCH, LEVELS = 8, 4
FORMATS = {
    "contiguous": torch.contiguous_format,
    "channels last": torch.channels_last,
}
SE, SK, ESP, SPP = (256, 56, 56), (512, 28, 28), (32, 28, 28), (256, 13, 13)
ESP_BLOCK = (128, 28, 28)


def usual_fused(*tensors: Tensor) -> Tensor:
    """Fused branches, then the batch norm of inference and PReLU."""
    *branches, scale, shift, slope = tensors
    mean, variance = torch.zeros_like(scale), torch.ones_like(scale)
    sums = espnetv2.fused(branches)
    return prelu(batch_norm(sums, mean, variance, scale, shift, eps=0), slope)


# Name: ours, the usual lines, and the tensors' shapes, images first.
OPERATORS = {
    "channel_mean": (channel_mean, lambda x: x.mean((2, 3)), [SE]),
    "channel_mean of 2": (
        channel_mean,
        lambda one, two: (one + two).mean((2, 3)),
        [SK] * 2,
    ),
    "se_scale": (se_scale, blocks.scale, [SE, (256,)]),
    "sk_select": (
        lambda one, two, logits: sk_select([one, two], logits),
        lambda one, two, logits: blocks.select([one, two], logits),
        [SK, SK, (2, 512)],
    ),
    "hff_concat": (
        lambda *xs: hff_concat(xs),
        lambda *xs: espnetv2.fused(xs),
        [ESP] * 4,
    ),
    "hff_concat, batch norm, PReLU": (
        lambda *ts: hff_concat(ts[:4], 0, *ts[4:]),
        usual_fused,
        [ESP] * 4 + [None] * 3,
    ),
    "spatial_pyramid_pool, max": (
        lambda x: spatial_pyramid_pool(x, LEVELS, "max"),
        lambda x: blocks.spatial_pyramid(max_pool2d, x, LEVELS),
        [SPP],
    ),
    "spatial_pyramid_pool, mean": (
        lambda x: spatial_pyramid_pool(x, LEVELS, "mean"),
        lambda x: blocks.spatial_pyramid(avg_pool2d, x, LEVELS),
        [SPP],
    ),
}


class Usual(nn.Module):
    """A block in PyTorch's modules, which are those of ours."""

    def __init__(self, ours: nn.Module) -> None:
        super().__init__()
        self.ours = ours

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class UsualSE(Usual):
    def forward(self, x: Tensor) -> Tensor:
        return blocks.squeeze_excitation(self.ours, x)


class UsualSK(Usual):
    def forward(self, x: Tensor) -> Tensor:
        return blocks.selective_kernel(self.ours, x)


class UsualEESP(Usual):
    def forward(self, x: Tensor) -> Tensor:
        return espnetv2.eesp(self.ours, x)


class UsualPyramid(Usual):
    def forward(self, x: Tensor) -> Tensor:
        return espnetv2.dilated_pyramid(self.ours, x)


class UsualPooling(Usual):
    def forward(self, x: Tensor) -> Tensor:
        return blocks.spatial_pyramid(max_pool2d, x, LEVELS)


# Name: ours, its usual form, the image's size, and whether it is trained.
BLOCKS = {
    "SqueezeExcitation": (lambda: SqueezeExcitation(SE[0]), UsualSE, SE, True),
    "SelectiveKernelConv": (lambda: SelectiveKernelConv(SK[0]), UsualSK, SK, True),
    "EESP, training": (lambda: EESP(128, 128), UsualEESP, ESP_BLOCK, True),
    "EESP, evaluation": (lambda: EESP(128, 128), UsualEESP, ESP_BLOCK, False),
    "DilatedPyramid": (
        lambda: DilatedPyramid(128, 128),
        UsualPyramid,
        ESP_BLOCK,
        True,
    ),
    "SpatialPyramidPooling": (
        lambda: SpatialPyramidPooling(LEVELS),
        UsualPooling,
        SPP,
        True,
    ),
}


def sample(shape: tuple[int, ...] | None, layout: str) -> Tensor:
    """An image, logits, or (None) numbers for each channel of the result."""
    if shape is None:
        return torch.rand(4 * ESP[0])
    values = torch.randn(BATCH, *shape)
    return (
        values.contiguous(memory_format=FORMATS[layout]) if len(shape) == 3 else values
    )


def check(name: str, got: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    """Stop where a side is wrong.

    A gradient that vanishes, as of a scale before a batch norm, is all round-off: it
    counts as a thousandth of the largest at least.
    """
    least = 1e-3 * max(one.norm() for one in wanted)
    for one, other in zip(got, wanted, strict=True):
        error = (one.double() - other).norm() / other.norm().clamp(min=least)
        if not error < tolerance:
            raise SystemExit(f"{name} is wrong: relative error {error}")


def bench(
    title: str,
    sides: dict[str, Callable[..., Tensor]],
    exact: Callable[..., Tensor],
    tensors: list[Tensor],
    trained: bool,
    rounds: int,
) -> list[dict]:
    """Forward, and where trained forward with backward, of all sides."""
    seed = torch.randn_like(next(iter(sides.values()))(*tensors))
    # Where relu's kink or a batch norm of eight values is near, a whole block's
    # gradients in float32 are less sharp, whoever computes them.
    tolerance = 2e-3 if isinstance(exact, nn.Module) else 1e-4

    def derivatives(
        function: Callable[..., Tensor], given: list[Tensor], seed: Tensor
    ) -> list[Tensor]:
        parameters = getattr(function, "parameters", list)()
        leaves = [*given, *(p for p in parameters if p.requires_grad)]
        output = function(*given)
        return [output.detach(), *torch.autograd.grad(output, leaves, seed)]

    doubles = [t.double().requires_grad_() for t in tensors]
    wanted = derivatives(exact, doubles, seed.double())
    forward: dict[str, Side] = {}
    training: dict[str, Side] = {}
    for name, function in sides.items():
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]

        def train(function=function, leaves=leaves):
            return derivatives(function, leaves, seed)

        def infer(function=function):
            with torch.no_grad():
                return function(*tensors)

        check(name, [infer()], wanted[:1], tolerance)
        forward[name] = infer
        if trained:
            check(name, train(), wanted, tolerance)
            training[name] = train
    records = []
    for mode, chosen in (("forward", forward), ("forward+backward", training)):
        if not chosen:
            continue
        times = medians(chosen, rounds)
        print_table(f"{title}, {mode}", times, "ours")
        ratios = {name: ms / times["ours"] for name, ms in times.items()}
        record = {"milliseconds": times, "times_ours": ratios}
        records.append({"what": title, "mode": mode} | record)
    return records


def bench_operator(name: str, layout: str, rounds: int) -> list[dict]:
    """One operator in one memory format."""
    ours, usual, shapes = OPERATORS[name]
    tensors = [sample(shape, layout) for shape in shapes]
    sides = {"ours": ours, "(a) eager": usual}
    sides["(b) torch.compile of (a)"] = torch.compile(usual)
    trained = None not in shapes
    return bench(f"{name}, {layout}", sides, usual, tensors, trained, rounds)


def bench_block(name: str, layout: str, rounds: int) -> list[dict]:
    """One whole block in one memory format."""
    make, port, size, trained = BLOCKS[name]
    ours = make().train(trained).to(memory_format=FORMATS[layout])
    usual = port(ours).train(trained)
    exact = port(copy.deepcopy(ours).double()).train(trained)
    sides = {"ours": ours, "(a) eager": usual}
    sides["(b) torch.compile of (a)"] = torch.compile(usual)
    tensors = [sample(size, layout)]
    return bench(f"{name}, {layout}", sides, exact, tensors, trained, rounds)


def main() -> None:
    """Run all operators and blocks in both formats."""
    parser = add_arguments(argparse.ArgumentParser(description=__doc__), "blocks")
    parser.add_argument("--only", default="", help="those whose title has this in it")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    torch.manual_seed(0)
    records = []
    for run, names in ((bench_operator, OPERATORS), (bench_block, BLOCKS)):
        for name in names:
            for layout in FORMATS:
                if options.only in f"{name}, {layout}":
                    torch.compiler.reset()
                    records += run(name, layout, options.rounds)
    write(options.json, records)


if __name__ == "__main__":
    main()
