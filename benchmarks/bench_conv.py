"""The convolution of the sequence operators on the CPU against what a user would run.

Float32, forward and the gradients to the image and to the weight, at sizes of ConvLSTM,
ConvGRU and of TrajGRU's flows. The other sides: PyTorch in both memory formats; for the
forward pass OpenVINO and onnxruntime where installed (`trajgru_ext[bench]`). Every side
is first compared with float64. Ours takes weights that are packed already, as all steps
of a sequence but the first do; what packing takes is a line of its own. "of sgemm" is
the rate of the direct sum's multiplications and additions against that of one thread's
matrix products times the threads.
"""

from collections.abc import Callable

import torch
from measure import Side, arguments, machine, medians, print_table, write
from runtimes import runtime_sides
from sgemm import share_of_sgemm, single_threaded_sgemm
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.nn.grad import conv2d_input, conv2d_weight

import trajgru_ext  # noqa: F401  registers the operators

OPS = torch.ops.trajgru_ext
# Batch, channels in and out, height and width, taps.
SIZES = [
    (4, 16, 64, 64, 3),
    (4, 64, 256, 64, 3),
    (4, 128, 256, 64, 3),
    (3, 192, 576, 32, 3),
    (4, 128, 512, 32, 3),
    (3, 64, 32, 96, 5),
    (3, 32, 26, 96, 5),
]
FORMATS = {
    "PyTorch, contiguous": torch.contiguous_format,
    "PyTorch, channels last": torch.channels_last,
}
SGEMM = "sgemm, one thread"
# Of the norm; for float32 sums of some thousand terms.
TOLERANCE = 2e-5


def ours(images: Tensor, weight: Tensor, rotated: bool) -> Side:
    """A convolution with packed weights."""
    packed = OPS.winograd_weights([weight], rotated)
    outputs, taps = weight.shape[1 if rotated else 0], weight.shape[-1]
    room = images.new_empty(len(images), outputs, *images.shape[2:])
    room = room.contiguous(memory_format=torch.channels_last)

    def side() -> Tensor:
        OPS.winograd_conv([images], packed, None, taps, room)
        return room

    return side


def theirs(image: Tensor, weight: Tensor, seed: Tensor, which: int) -> Side:
    """PyTorch's gradient to the image (0) or to the weight (1)."""
    padding = [weight.shape[-1] // 2] * 2
    wanted = [which == 0, which == 1, False]

    def side() -> Tensor:
        return torch.ops.aten.convolution_backward(
            seed, image, weight, None, [1, 1], padding, [1, 1], False, [0, 0], 1, wanted
        )[which]

    return side


def sides_of(size: tuple[int, ...]) -> dict[str, tuple[dict[str, Callable], Tensor]]:
    """The sides of each pass, and what they should give."""
    batch, channels, outputs, length, taps = size
    torch.manual_seed(0)
    padding = taps // 2
    image = torch.randn(batch, channels, length, length)
    weight = torch.randn(outputs, channels, taps, taps)
    weight /= weight[0].numel() ** 0.5
    seed = torch.randn(batch, outputs, length, length)
    exact = [one.double() for one in (image, weight, seed)]
    found = {
        "forward": ({}, conv2d(exact[0], exact[1], padding=padding)),
        "gradient to the image": (
            {},
            conv2d_input(image.shape, exact[1], exact[2], padding=padding),
        ),
        "gradient to the weight": (
            {},
            conv2d_weight(exact[0], weight.shape, exact[2], padding=padding),
        ),
    }
    forward, to_image, to_weight = (sides for sides, _ in found.values())
    last, last_seed = (
        one.contiguous(memory_format=torch.channels_last) for one in (image, seed)
    )
    forward["ours"] = ours(last, weight, rotated=False)
    to_image["ours"] = ours(last_seed, weight, rotated=True)
    to_weight["ours"] = lambda: OPS.winograd_weights_grad(last_seed, last, taps)
    for name, layout in FORMATS.items():
        x, w, g = (
            one.contiguous(memory_format=layout) for one in (image, weight, seed)
        )
        forward[name] = lambda x=x, w=w: conv2d(x, w, padding=padding)
        to_image[name] = theirs(x, w, g, 0)
        to_weight[name] = theirs(x, w, g, 1)
    module = nn.Conv2d(channels, outputs, taps, padding=padding, bias=False)
    module.weight.data.copy_(weight)
    for name, run in runtime_sides(module, (image,)).items():
        forward[name] = lambda run=run: run()[0]
    forward["ours, packing"] = lambda: OPS.winograd_weights([weight], False)
    return found


def bench(size: tuple[int, ...], rounds: int) -> list[dict]:
    """All passes of one size."""
    batch, channels, outputs, length, taps = size
    work = 2 * batch * channels * outputs * length**2 * taps**2
    title = f"{batch} x {channels} to {outputs}, {length} x {length}, {taps} x {taps}"
    records = []
    for mode, (sides, wanted) in sides_of(size).items():
        errors = {}
        for name, side in sides.items():
            if name == "ours, packing":
                continue
            error = ((side().double() - wanted).norm() / wanted.norm()).item()
            if not error < TOLERANCE:
                raise SystemExit(f"{name} is wrong: relative error {error}")
            errors[name] = error
        times = medians({**sides, SGEMM: single_threaded_sgemm()}, rounds)
        product, packing = times.pop(SGEMM), times.pop("ours, packing", None)
        print_table(f"{title}, {mode}", times, "ours")
        best = min(ms for name, ms in times.items() if name != "ours")
        rates = {name: share_of_sgemm(product, work, ms) for name, ms in times.items()}
        print(f"  the best other side takes {best / times['ours']:.2f} x ours")
        record = {"size": size, "mode": mode, "milliseconds": times}
        record |= {
            "times_ours": {name: ms / times["ours"] for name, ms in times.items()}
        }
        record |= {"best_of_ours": best / times["ours"], "of_sgemm": rates}
        record |= {"errors": errors}
        if packing is not None:
            record |= {"packing_milliseconds": packing}
            print(f"  packing the weights: {packing:.3f} ms")
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
