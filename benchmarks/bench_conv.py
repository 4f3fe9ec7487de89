"""`conv2d` on the CPU against torch's and what else a user would run.

Float32 unless a size says otherwise, forward and the gradients to the image and to the
weight, at sizes of ConvLSTM, ConvGRU, of TrajGRU's flows and of RAFT's two halves of a
filter, and where it leaves the work to torch. The other sides: PyTorch in both memory
formats; for the forward pass OpenVINO and onnxruntime where installed
(`trajgru_ext[bench]`). Every side is first compared with float64. The weight is
unchanged from call to call, so that it is packed once, and read at every call to see
that; what packing takes is a line of its own. "of sgemm" is the rate of the direct
sum's multiplications and additions against that of one thread's matrix products times
the threads.
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from measure import Side, arguments, machine, medians, print_table, write
from runtimes import runtime_sides
from sgemm import share_of_sgemm, single_threaded_sgemm
from torch import Tensor, nn
from torch.nn import functional

from trajgru_ext import conv2d, packed_weights


class Size(NamedTuple):
    """Of a convolution that keeps the size of images with stride 1."""

    batch: int
    channels: int
    outputs: int
    side: int
    taps: tuple[int, int]
    stride: int = 1
    groups: int = 1
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        found = (
            f"{self.batch} x {self.channels} to {self.outputs}, {self.side} square, "
        )
        found += f"{self.taps[0]} x {self.taps[1]}"
        found += f", stride {self.stride}" if self.stride > 1 else ""
        found += f", {self.groups} groups" if self.groups > 1 else ""
        float32 = self.dtype == torch.float32
        return found if float32 else f"{found}, {str(self.dtype).split('.')[1]}"


SIZES = [
    Size(4, 16, 64, 64, (3, 3)),
    Size(4, 64, 256, 64, (3, 3)),
    Size(4, 128, 256, 64, (3, 3)),
    Size(3, 192, 576, 32, (3, 3)),
    Size(4, 128, 512, 32, (3, 3)),
    Size(3, 64, 32, 96, (5, 5)),
    Size(3, 32, 26, 96, (5, 5)),
    Size(4, 256, 512, 16, (5, 5)),
    Size(1, 384, 256, 64, (1, 5)),
    Size(1, 384, 256, 64, (5, 1)),
    Size(4, 256, 512, 16, (5, 5), dtype=torch.bfloat16),
    # torch's work.
    Size(1, 8, 32, 8, (3, 3)),
    Size(4, 64, 64, 32, (1, 1)),
    Size(4, 64, 128, 64, (3, 3), stride=2),
    Size(4, 64, 64, 64, (3, 3), groups=64),
]
FORMATS = {
    "contiguous": torch.contiguous_format,
    "channels last": torch.channels_last,
}
SGEMM, PACKING = "sgemm, one thread", "ours, packing"
# Of the norm; for sums of some thousand terms.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 1e-2}


def options_of(size: Size) -> dict[str, object]:
    """Those of the convolution."""
    padding = tuple(taps // 2 for taps in size.taps)
    return {"stride": size.stride, "padding": padding, "groups": size.groups}


def passes(size: Size) -> Iterator[tuple[str, dict[str, Side], Tensor]]:
    """Of each pass the sides, and what they should give."""
    torch.manual_seed(0)
    image = torch.randn(size.batch, size.channels, size.side, size.side)
    weight = torch.randn(size.outputs, size.channels // size.groups, *size.taps)
    weight /= weight[0].numel() ** 0.5
    image, weight = image.to(size.dtype), weight.to(size.dtype)
    options = options_of(size)
    seed = torch.randn_like(functional.conv2d(image, weight, **options))
    exact = [one.double() for one in (image, weight, seed)]

    def gradient(which: int, convolve: Callable[..., Tensor], *tensors: Tensor) -> Side:
        """One gradient alone; the graph is kept, so that the forward pass is not timed.

        which: 0 to the image, 1 to the weight.
        """
        image, weight, seed = tensors
        leaves = [
            one.detach().clone().requires_grad_(k == which)
            for k, one in enumerate((image, weight))
        ]
        with torch.enable_grad():
            output = convolve(*leaves, **options)
        wanted = leaves[which]
        return lambda: torch.autograd.grad(output, wanted, seed, retain_graph=True)[0]

    def in_both_formats(make: Callable[..., Side]) -> dict[str, Side]:
        found = {}
        for who, convolve in (("ours", conv2d), ("PyTorch", functional.conv2d)):
            for name, layout in FORMATS.items():
                x, w, g = (
                    one.contiguous(memory_format=layout)
                    for one in (image, weight, seed)
                )
                found[f"{who}, {name}"] = make(convolve, x, w, g)
        return found

    def forward(convolve: Callable[..., Tensor], *tensors: Tensor) -> Side:
        x, w, _ = tensors
        return lambda: convolve(x, w, **options)

    sides = in_both_formats(forward)
    if size.dtype == torch.float32:
        module = nn.Conv2d(
            size.channels, size.outputs, size.taps, bias=False, **options
        )
        module.weight.data.copy_(weight)
        for name, run in runtime_sides(module, (image,)).items():
            sides[name] = lambda run=run: run()[0]

    def packing() -> Tensor:
        with packed_weights(0):
            return conv2d(image, weight, **options)

    sides[PACKING] = packing
    yield "forward", sides, functional.conv2d(exact[0], exact[1], **options)
    for which, name in enumerate(("the image", "the weight")):
        sides = in_both_formats(functools.partial(gradient, which))
        wanted = gradient(which, functional.conv2d, *exact)()
        yield f"gradient to {name}", sides, wanted


def bench(size: Size, rounds: int) -> list[dict]:
    """All passes of one size."""
    taps = size.taps[0] * size.taps[1]
    pixels = size.batch * (size.side // size.stride) ** 2
    work = 2 * pixels * size.channels * size.outputs * taps // size.groups
    records = []
    for mode, sides, wanted in passes(size):
        errors = {}
        for name, side in sides.items():
            error = ((side().double() - wanted).norm() / wanted.norm()).item()
            if not error < TOLERANCE[size.dtype]:
                raise SystemExit(f"{name} is wrong: relative error {error}")
            errors[name] = error
        times = medians({**sides, SGEMM: single_threaded_sgemm()}, rounds)
        product, packing = times.pop(SGEMM), times.pop(PACKING, None)
        # The tables' columns: ours in its better format, and each format's own ratio.
        ours = min(ms for name, ms in times.items() if name.startswith("ours"))
        others = {n: ms for n, ms in times.items() if not n.startswith("ours")}
        print_table(f"{size}, {mode}", {"ours": ours, **times}, "ours")
        ratios = {"best other": min(others.values()) / ours}
        ratios |= {
            f"PyTorch, both {name}": times[f"PyTorch, {name}"] / times[f"ours, {name}"]
            for name in FORMATS
        }
        ratios |= {name: ms / ours for name, ms in others.items()}
        rates = {name: share_of_sgemm(product, work, ms) for name, ms in times.items()}
        print("  " + ", ".join(f"{k} {v:.2f}" for k, v in list(ratios.items())[:3]))
        record = {"size": str(size), "mode": mode}
        record |= {"milliseconds": {"ours": ours, **times}, "times_ours": ratios}
        record |= {"of_sgemm": rates, "errors": errors}
        if packing is not None:
            record |= {"with_packing_milliseconds": packing}
            print(f"  {PACKING} at every call: {packing:.3f} ms")
        records.append(record)
    return records


def main() -> None:
    """Run every size."""
    options = arguments(__doc__, "conv")
    print(machine())
    with torch.no_grad():
        records = [record for size in SIZES for record in bench(size, options.rounds)]
    write(options.json, records)


if __name__ == "__main__":
    main()
