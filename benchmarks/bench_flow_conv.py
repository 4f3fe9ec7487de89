"""flow_conv against what a user would write instead, on the CPU in float32.

The other sides, at the sizes of the HKO-7 network: (a) the code path of the published
PyTorch port, L calls of wrap, concatenation and a 1x1 convolution; (b) all links in one
grid_sample; (c) torch.compile of (a); (d) torchvision's deform_conv2d, where installed,
which can express the operator for an odd number of links. Every side's values and
gradients are first compared with those of float64. The share of the matrix product's
rate is that of one thread, measured between the sides, times the threads.

Part of the other sides' time is page faults on large temporaries. To see how much, run
again with GLIBC_TUNABLES=glibc.malloc.mmap_threshold=4294967296:\
glibc.malloc.trim_threshold=8589934592 in the environment.
"""

import importlib.util
import os

import torch
from bench_flow_warp import smooth_flow
from measure import Side, arguments, machine, medians, print_table, write
from sgemm import share_of_sgemm, single_threaded_sgemm
from torch import Tensor
from torch.nn.functional import conv2d

from ports.warp import mix_deformed, mix_in_one, mix_warps
from trajgru_ext import flow_conv

# batch, channels, height and width, links
SIZES = [(3, 64, 96, 13), (3, 192, 32, 13), (3, 192, 16, 9)]
SCALE = -1.0
SGEMM = "sgemm, one thread"


def ours(input: Tensor, flows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The fused operator."""
    return flow_conv(input, flows, weight, bias, SCALE)


def port(input: Tensor, flows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The published path."""
    kernel = weight[:, :, None, None]
    return mix_warps(input, SCALE * flows, lambda images: conv2d(images, kernel, bias))


def batched(input: Tensor, flows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """All links of a sample in one grid_sample."""
    return mix_in_one(input, SCALE * flows, weight, bias)


def deformed(input: Tensor, flows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A deformable convolution."""
    return mix_deformed(input, SCALE * flows, weight, bias)


def exact(leaves: list[Tensor], seed: Tensor) -> list[Tensor]:
    """The values and gradients in float64, by (a)."""
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    output = port(*doubles)
    return [output.detach(), *torch.autograd.grad(output, doubles, seed.double())]


def check(name: str, got: list[Tensor], wanted: list[Tensor]) -> None:
    """Stop where a side is wrong; grid_sample's positions cost it some digits."""
    for one, other in zip(got, wanted, strict=True):
        error = (one.double() - other).norm() / other.norm()
        if not error < 1e-4:
            raise SystemExit(f"{name} is wrong: relative error {error}")


def bench(size: tuple[int, int, int, int], last: bool, rounds: int) -> list[dict]:
    """Forward, and forward with backward, at one size and memory format."""
    batch, channels, side, links = size
    layout = torch.channels_last if last else torch.contiguous_format
    outputs = 3 * channels
    input = torch.randn(batch, channels, side, side).contiguous(memory_format=layout)
    flows = smooth_flow(batch * links, side, side)
    # Away from whole coordinates, where grid_sample's round-off picks the cell.
    flows = flows.floor() + (flows - flows.floor()).clamp(0.01, 0.99)
    flows = flows.view(batch, 2 * links, side, side)
    weight = torch.randn(outputs, links * channels) / (links * channels) ** 0.5
    leaves = [t.requires_grad_() for t in (input, flows, weight, torch.randn(outputs))]
    seed = torch.randn(batch, outputs, side, side).contiguous(memory_format=layout)
    wanted = exact(leaves, seed)

    sides = {"ours": ours, "(a) published port": port, "(b) one grid_sample": batched}
    sides["(c) torch.compile of (a)"] = torch.compile(port)
    if importlib.util.find_spec("torchvision"):
        sides["(d) deform_conv2d"] = deformed
    forward: dict[str, Side] = {}
    training: dict[str, Side] = {}
    for name, function in sides.items():

        def infer(function=function):
            with torch.no_grad():
                return function(*leaves)

        def train(function=function):
            return torch.autograd.grad(function(*leaves), leaves, seed)

        check(name, [infer(), *train()], wanted)
        forward[name], training[name] = infer, train

    flops = 2 * batch * side * side * links * channels * outputs
    records = []
    for mode, chosen, work in (
        ("forward", forward, flops),
        ("forward+backward", training, 3 * flops),
    ):
        times = medians({**chosen, SGEMM: single_threaded_sgemm()}, rounds)
        share = share_of_sgemm(times.pop(SGEMM), work, times["ours"])
        layout_name = "channels last" if last else "contiguous"
        print_table(f"{size} {layout_name}, {mode}", times, "ours")
        print(f"  ours at {share:.0%} of sgemm")
        record = {"size": size, "format": layout_name, "mode": mode}
        record |= {"milliseconds": times, "share_of_sgemm": share}
        ratios = {name: ms / times["ours"] for name, ms in times.items()}
        records.append(record | {"times_ours": ratios})
    return records


def main() -> None:
    """Run all sizes and formats."""
    options = arguments(__doc__, "flow_conv")
    print(machine(), os.environ.get("GLIBC_TUNABLES", ""))
    torch.manual_seed(0)
    records = []
    for size in SIZES:
        for last in (True, False):
            records += bench(size, last, options.rounds)
    write(options.json, records)


if __name__ == "__main__":
    main()
