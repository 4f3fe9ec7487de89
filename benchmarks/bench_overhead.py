"""What a call costs: every operator and layer at a step that has little to compute.

8 channels at 16 x 16, batch 1, contiguous and in float32, one step of what goes over
time, against the usual lines in eager PyTorch; blocks have 16 channels and batch 2.
Forward is inference, without gradients; forward+backward also has the gradients to all
tensors and parameters. Every side's values and gradients are compared with those of
float64 before they are timed. The script prints microseconds.
"""

import copy
from collections.abc import Callable, Iterator

import torch
from bench_blocks import (
    LEVELS,
    OPERATORS,
    UsualEESP,
    UsualPooling,
    UsualPyramid,
    UsualSE,
    UsualSK,
)
from bench_cells import CELLS
from bench_conv_rnn import NETS
from bench_gates import UPDATES, tuple_of
from measure import Side, arguments, machine, medians, write
from ported_layers import PortedTrajGRU
from torch import Tensor, nn
from torch.nn.functional import conv2d
from training import Ours

import trajgru_ext
from ports.updates import blend, memory
from ports.warp import mix_warps, warp
from trajgru_ext.nn import (
    EESP,
    DilatedPyramid,
    SelectiveKernelConv,
    SpatialPyramidPooling,
    SqueezeExcitation,
    TrajGRU,
)

BATCH, CHANNELS, SIZE, LINKS, BLOCK_CHANNELS = 1, 8, 16, 5, 16
TOLERANCE = 5e-3
Function = Callable[..., Tensor | tuple[Tensor, ...]]
# What is measured: its name, ours, the usual lines, and the tensors for both.
What = tuple[str, Function, Function, list[Tensor]]


def image(channels: int = CHANNELS, batch: int = BATCH) -> Tensor:
    """Of the step."""
    return torch.randn(batch, channels, SIZE, SIZE)


def flows(links: int) -> Tensor:
    """Into the middle of cells, where no round-off picks another one."""
    whole = torch.randint(-2, 3, (BATCH, 2 * links, SIZE, SIZE)).float()
    return whole + 0.5 + 0.1 * torch.randn_like(whole).clamp(-3, 3)


def by_links(input: Tensor, flows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """flow_conv as published."""
    kernel = weight[:, :, None, None]
    return mix_warps(input, flows, lambda images: conv2d(images, kernel, bias))


def reset(x_gates: Tensor, h_gates: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """u and r h."""
    r, u = torch.sigmoid(x_gates + h_gates).chunk(2, 1)
    return u, r * h


def new_memory(x_gates: Tensor, h_gates: Tensor, c: Tensor) -> Tensor:
    """An LSTM's c."""
    i, f, g = (x_gates + h_gates).chunk(3, 1)
    return memory(i, f, g, c)


def operators() -> Iterator[What]:
    """The operators."""
    yield "flow_warp", trajgru_ext.flow_warp, warp, [image(), flows(1)]
    weight = torch.randn(CHANNELS, LINKS * CHANNELS) / 8
    mixed = [image(), flows(LINKS), weight, torch.randn(CHANNELS)]
    yield "flow_conv", trajgru_ext.flow_conv, by_links, mixed
    kernel = torch.randn(CHANNELS, CHANNELS, 3, 3) / 8
    yield (
        "conv2d",
        lambda *given: trajgru_ext.conv2d(*given, padding=1),
        lambda *given: conv2d(*given, padding=1),
        [image(), kernel, torch.randn(CHANNELS)],
    )
    for name, (gates, parts, ours, usual, _) in UPDATES.items():
        given = [*(image(gates * CHANNELS) for _ in range(parts)), image()]
        yield name, ours, usual, given
    two = [image(2 * CHANNELS), image(2 * CHANNELS), image()]
    yield "gru_reset", trajgru_ext.gru_reset, reset, two
    yield (
        "gru_output",
        lambda u, n, h: trajgru_ext.gru_output(u, n, h, update="keep"),
        lambda u, n, h: blend(u, h, torch.tanh(n)),
        [image(), image(), image()],
    )
    three = [image(3 * CHANNELS), image(3 * CHANNELS), image()]
    yield "lstm_memory", trajgru_ext.lstm_memory, new_memory, three
    for name, (ours, usual, shapes) in OPERATORS.items():
        small = [
            torch.rand(4 * CHANNELS)
            if shape is None
            else image()
            if len(shape) == 3
            else torch.randn(BATCH, *shape[:-1], CHANNELS)
            for shape in shapes
        ]
        yield name, ours, usual, small


def layers() -> Iterator[What]:
    """Layers over time and cells, one step, and blocks."""
    steps = image()[None]
    for name, (kind, options, ported, _) in NETS.items():
        layer = kind(CHANNELS, CHANNELS, 3, **options)
        yield name, Ours(layer), ported(layer), [steps]
    layer = TrajGRU(CHANNELS, CHANNELS, LINKS, zero_flows=False)
    yield "TrajGRU", Ours(layer), PortedTrajGRU(layer), [steps]
    for name, (kind, options, ported, _) in CELLS.items():
        cell = kind(CHANNELS, CHANNELS, kernel_size=3, **options)
        yield name, FirstStep(cell), ported(cell), [steps]
    for block, usual in (
        (SqueezeExcitation(BLOCK_CHANNELS), UsualSE),
        (SelectiveKernelConv(BLOCK_CHANNELS), UsualSK),
        (EESP(BLOCK_CHANNELS, BLOCK_CHANNELS), UsualEESP),
        (DilatedPyramid(BLOCK_CHANNELS, BLOCK_CHANNELS), UsualPyramid),
        (SpatialPyramidPooling(LEVELS), UsualPooling),
    ):
        # A batch norm of one pixel has to have two images.
        given = [image(BLOCK_CHANNELS, 2 * BATCH)]
        yield type(block).__name__, block, usual(block), given


class FirstStep(nn.Module):
    """A cell's first call."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, inputs: Tensor) -> Tensor:
        state = self.cell(inputs[0])
        return (state[0] if isinstance(state, tuple) else state)[None]


def derivatives(
    function: Function, given: list[Tensor], seeds: list[Tensor]
) -> list[Tensor]:
    """The results, and the gradients to the tensors and a module's parameters."""
    own = function.parameters() if isinstance(function, nn.Module) else ()
    outputs = tuple_of(function(*given))
    grads = torch.autograd.grad(outputs, [*given, *own], seeds)
    return [*(one.detach() for one in outputs), *grads]


def check(name: str, got: list[Tensor], wanted: list[Tensor]) -> None:
    """Stop where a side is wrong.

    What vanishes, as the gradient to a scale before a batch norm, is all round-off; a
    sum that rounding takes across the kink of a leaky relu has another slope there.
    """
    least = 1e-3 * max(one.norm() for one in wanted)
    for one, other in zip(got, wanted, strict=True):
        error = (one.double() - other).norm() / other.norm().clamp(min=least)
        if not error < TOLERANCE:
            raise SystemExit(f"{name} is wrong: relative error {error}")


def bench(
    name: str, ours: Function, usual: Function, given: list[Tensor], rounds: int
) -> list[dict]:
    """Both passes of one operator or layer."""
    exact = copy.deepcopy(usual).double() if isinstance(usual, nn.Module) else usual
    seeds = [torch.randn_like(one) for one in tuple_of(ours(*given))]
    wanted = derivatives(
        exact,
        [one.double().requires_grad_() for one in given],
        [seed.double() for seed in seeds],
    )
    forward: dict[str, Side] = {}
    training: dict[str, Side] = {}
    for side, function in (("ours", ours), ("eager PyTorch", usual)):
        leaves = [one.clone().requires_grad_() for one in given]

        def infer(function: Function = function) -> object:
            with torch.no_grad():
                return function(*given)

        def train(
            function: Function = function, leaves: list[Tensor] = leaves
        ) -> list[Tensor]:
            return derivatives(function, leaves, seeds)

        check(f"{name}, {side}", train(), wanted)
        check(f"{name}, {side}", [*tuple_of(infer())], wanted[: len(seeds)])
        forward[side], training[side] = infer, train
    records = []
    for mode, sides in (("forward", forward), ("forward+backward", training)):
        times = medians(sides, rounds)
        ratios = {side: ms / times["ours"] for side, ms in times.items()}
        each = ", ".join(f"{side} {1e3 * ms:7.1f} us" for side, ms in times.items())
        print(f"{name:<32} {mode:<17} {each}, {ratios['eager PyTorch']:5.2f} times")
        record = {"what": name, "mode": mode, "milliseconds": times}
        records.append(record | {"times_ours": ratios})
    return records


def main() -> None:
    """Run all operators and layers."""
    options = arguments(__doc__, "overhead")
    print(machine())
    torch.manual_seed(0)
    records = []
    for makers in operators, layers:
        for what in makers():
            records += bench(*what, options.rounds)
    write(options.json, records)


if __name__ == "__main__":
    main()
