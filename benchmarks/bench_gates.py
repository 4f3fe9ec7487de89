"""The gate updates of ConvLSTM and ConvGRU against PyTorch.

Sides: the fused operator; (a) the published cells' lines in eager PyTorch; (b)
`torch.compile` of (a); OpenVINO and onnxruntime on (a), where installed; (c) as the
floor, copying what the operator must read and write.
All in float32 and checked against float64 before they are timed. Gates [4, 256, 64, 64]
and a state of 64 channels; for the GRU, whose gates are three, [4, 192, 64, 64].
"""

import torch
from measure import Side, arguments, machine, medians, print_table, write
from runtimes import runtime_sides
from torch import Tensor, nn

from ports.updates import gru_reset_after, lstm
from trajgru_ext import gru_gates, lstm_gates

FEATURES = 64
SIZE = (4, FEATURES, 64, 64)
FORMATS = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}


def lstm_sum(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """ndrplz/ConvLSTM_pytorch: one convolution of [x, h], split i, f, o, g."""
    i, f, o, g = gates.chunk(4, dim=1)
    return lstm(i, f, g, o, c)


def lstm_parts(x_gates: Tensor, h_gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The same from a convolution each of x and h."""
    return lstm_sum(x_gates + h_gates, c)


# Name: gates, how many tensors of them, ours, eager's, elements of the state read and
# written beside the gates.
UPDATES = {
    "lstm_gates, one tensor of gates": (
        4,
        1,
        lambda gates, c: lstm_gates(gates, None, c),
        lstm_sum,
        3,
    ),
    "lstm_gates, x and h": (4, 2, lstm_gates, lstm_parts, 3),
    "gru_gates, x and h": (
        3,
        2,
        lambda x, s, h: gru_gates(x, s, h, activation="leaky_relu"),
        gru_reset_after,
        2,
    ),
}


class Lines(nn.Module):
    """A function as a module, for export."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.function(*tensors)


def tuple_of(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def check(name: str, got: list[Tensor], wanted: list[Tensor]) -> None:
    """Stop where a side's result is wrong."""
    for got_one, wanted_one in zip(got, wanted, strict=True):
        error = (got_one.double() - wanted_one).abs().max().item()
        if not error < 2e-6 * max(1.0, wanted_one.abs().max().item()):
            raise SystemExit(f"{name} is wrong: off by {error}")


def bench(update: str, layout: str, rounds: int) -> list[dict]:
    """Forward, and forward with backward, of one update in one memory format."""
    gates, parts, ours, eager, others = UPDATES[update]
    batch, features, height, width = SIZE

    def image(count: int) -> Tensor:
        values = torch.randn(batch, count * features, height, width)
        return values.contiguous(memory_format=FORMATS[layout])

    tensors = [*(image(gates) for _ in range(parts)), image(1)]
    seeds = [image(1) for _ in tuple_of(ours(*tensors))]
    sides = {"ours": ours, "(a) eager": eager}
    sides["(b) torch.compile of (a)"] = torch.compile(eager)

    def derivatives(function, leaves, seeds):
        outputs = tuple_of(function(*leaves))
        return outputs, torch.autograd.grad(outputs, leaves, seeds)

    exact = [tensor.double().requires_grad_() for tensor in tensors]
    outputs, gradients = derivatives(eager, exact, [seed.double() for seed in seeds])
    wanted = [*outputs, *gradients]
    forward: dict[str, Side] = {}
    training: dict[str, Side] = {}
    for name, function in sides.items():
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]

        def train(function=function, leaves=leaves):
            return derivatives(function, leaves, seeds)

        def infer(function=function):
            with torch.no_grad():
                return function(*tensors)

        forward[name], training[name] = infer, train
        outputs, gradients = train()
        check(name, [*outputs, *gradients], wanted)
        check(name, tuple_of(infer()), wanted[: len(outputs)])

    for name, run in runtime_sides(Lines(eager), tuple(tensors)).items():
        check(name, run(), wanted[: len(seeds)])
        forward[name] = run

    # A copy reads and writes: half of what is to be moved.
    moved = torch.randn((gates * parts + others) * tensors[-1].numel() // 2)
    target = torch.empty_like(moved)
    forward["(c) copy of as many bytes"] = lambda: target.copy_(moved)
    records = []
    for mode, chosen in (("forward", forward), ("forward+backward", training)):
        times = medians(chosen, rounds)
        print_table(f"{update}, {layout}, {mode}", times, "ours")
        ratios = {name: ms / times["ours"] for name, ms in times.items()}
        record = {"update": update, "format": layout, "mode": mode, "size": SIZE}
        records.append(record | {"milliseconds": times, "times_ours": ratios})
    return records


def main() -> None:
    """Run all updates and formats."""
    options = arguments(__doc__, "gates")
    print(machine())
    torch.manual_seed(0)
    records = []
    for update in UPDATES:
        for layout in FORMATS:
            records += bench(update, layout, options.rounds)
    write(options.json, records)


if __name__ == "__main__":
    main()
