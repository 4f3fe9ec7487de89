"""flow_warp against what a user would write instead, on the CPU in float32.

The other sides: (a) the wrap published with the PyTorch port of TrajGRU, which builds a
pixel grid, normalises it and calls grid_sample; (b) grid_sample alone, its grid ready;
(c) torch.compile of (a); (d) a copy of the image, the least that memory allows.
Every side's values and gradients are first compared with those of the formula in
float64, in plain torch operators.
"""

import torch
from measure import Side, arguments, machine, medians, print_table, write
from torch import Tensor

from ports.warp import positions, sample, warp
from trajgru_ext import flow_warp
from trajgru_ext.ops._corners import Corners

SIZES = [(3, 64, 96, 96), (1, 8, 480, 480)]
FORMATS = {
    "channels last": torch.channels_last,
    "contiguous": torch.contiguous_format,
}
# Pixels; what a trained flow generator gives is smooth and of this order.
FLOW_PIXELS = 3.0


def smooth_flow(batch: int, height: int, width: int) -> Tensor:
    """Random displacements that vary over some ten pixels."""
    coarse = torch.randn(batch, 2, max(2, height // 12), max(2, width // 12))
    resize = torch.nn.functional.interpolate
    return FLOW_PIXELS * resize(coarse, (height, width), mode="bicubic")


def check(
    name: str, got: list[Tensor], wanted: list[Tensor], scale: list[float]
) -> None:
    """Stop where a side's result is wrong; the grid's round-off is allowed for."""
    for got_one, wanted_one, size in zip(got, wanted, scale, strict=True):
        error = (got_one.double() - wanted_one).abs().max().item()
        if not error < 2e-6 * wanted_one.shape[-1] * size:
            raise SystemExit(f"{name} is wrong: off by {error}")


def bench(size: tuple[int, int, int, int], layout: str, rounds: int) -> list[dict]:
    """Forward, and forward with backward, at one size and memory format."""
    input = torch.randn(size).contiguous(memory_format=FORMATS[layout])
    # Away from whole coordinates, where grid_sample's round-off picks the cell.
    flow = smooth_flow(size[0], *size[2:])
    flow = flow.floor() + (flow - flow.floor()).clamp(0.01, 0.99)
    grid = positions(flow)
    seed = torch.randn(size).contiguous(memory_format=FORMATS[layout])
    compiled = torch.compile(warp)
    sides = {
        "ours": (flow_warp, flow),
        "(a) published wrap": (warp, flow),
        "(b) grid_sample, grid ready": (sample, grid),
        "(c) torch.compile of (a)": (compiled, flow),
    }
    exact = input.double().contiguous(), flow.double()
    corners = Corners(*exact, 1.0)
    wanted = [corners.blend(exact[0], corners.weights())]
    grad = seed.double().contiguous()
    wanted += corners.image_grad(grad), corners.flow_grad(grad, exact[0])

    forward: dict[str, Side] = {}
    training: dict[str, Side] = {}
    for name, (function, where) in sides.items():
        leaves = [input.clone().requires_grad_(), where.clone().requires_grad_()]

        def train(function=function, leaves=leaves):
            return torch.autograd.grad(function(*leaves), leaves, seed)

        def infer(function=function, where=where):
            with torch.no_grad():
                return function(input, where)

        forward[name], training[name] = infer, train
        gradients = list(train())
        if where is grid:  # d grid / d flow, and the grid's channels are last
            gradients[1] = gradients[1].permute(0, 3, 1, 2) * torch.tensor(
                [2 / (size[3] - 1), 2 / (size[2] - 1)]
            ).view(1, 2, 1, 1)
        check(name, [infer(), *gradients], wanted, [1, 4, size[1]])

    target = torch.empty_like(input)
    forward["(d) copy"] = lambda: target.copy_(input)
    records = []
    for mode, chosen in (("forward", forward), ("forward+backward", training)):
        times = medians(chosen, rounds)
        print_table(f"{size} {layout}, {mode}", times, "ours")
        ratios = {name: ms / times["ours"] for name, ms in times.items()}
        record = {"size": size, "format": layout, "mode": mode}
        records.append(record | {"milliseconds": times, "times_ours": ratios})
    return records


def main() -> None:
    """Run all sizes and formats."""
    options = arguments(__doc__, "flow_warp")
    print(machine())
    torch.manual_seed(0)
    records = []
    for size in SIZES:
        for layout in FORMATS:
            records += bench(size, layout, options.rounds)
    write(options.json, records)


if __name__ == "__main__":
    main()
