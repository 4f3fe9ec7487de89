"""What a time step should take on GPUs that nobody here has: a model, no measurement.

`python benchmarks/paper.py` counts what a step of a layer reads and writes, multiplies
and launches: ours from the list of its kernels below, whose launches the tests compare
with those counted on the emulated device; the published PyTorch port, run eagerly, from
the operators that PyTorch is given; and what no implementation can do without. From
that, and what GPUs are sold as, follow times. A step is one of many: what is done for
all at once, such as the convolution of the inputs, has its share of bytes and
multiplications, and none of launches.

Assumed is, and nowhere published: what share of the peak rates is reached, how long a
launch takes, and that the second-level cache is twice as fast as the memory.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ports.precipitation_nowcasting import ConvLSTM, TrajGRU

NOTICE = "Nothing here is a measurement: a model on paper, of kernels no GPU has run."


class Device(NamedTuple):
    """As sold: TFLOP/s without sparsity, GB/s, MB of second-level cache."""

    float32: float
    tf32: float
    bfloat16: float  # products summed up in float32
    memory: float
    cache: float
    multiprocessors: int
    source: str


DEVICES = {
    "RTX 4090": Device(
        *(82.6, 82.6, 165.2, 1008, 72, 128),
        "NVIDIA Ada GPU Architecture (white paper V2), appendix A",
    ),
    "A100": Device(
        *(19.5, 156, 312, 2039, 40, 108),
        "NVIDIA A100 datasheet, SXM 80 GB; A100 Tensor Core GPU Architecture",
    ),
    "H100": Device(
        *(66.9, 494.7, 989.4, 3350, 50, 132),
        "NVIDIA H100 Tensor Core GPU Architecture (V1.04), SXM5; H100 datasheet",
    ),
}
PRODUCTS, MEMORY = 0.7, 0.8  # shares of the peak rates that are reached: assumed
CACHE = 2.0  # rates of the second-level cache and of the memory: assumed
LAUNCH = 3e-6  # seconds from the end of a kernel to the next one's work: assumed
PRECISIONS = {"float32": 4, "tf32": 4, "bfloat16": 2}  # bytes of an element
TILE = 128  # as csrc/cuda/runtime.h
# Of flow_conv in one kernel, as csrc/cuda/fused_tiles.h: what a block computes.
TILE_WIDTH, TILE_HEIGHT, TILE_OUTPUTS, SLICE_BYTES = 16, 8, 192, 32


class Layer(NamedTuple):
    """A layer of a network, and its images."""

    kind: str
    channels: int
    features: int
    size: int
    links: int = 0
    batch: int = 3

    @property
    def pixels(self) -> int:
        """Of all samples."""
        return self.batch * self.size**2


LAYERS = {
    "HKO-7, 8 to 64 at 96 x 96, 13 links": Layer("traj_gru", 8, 64, 96, 13),
    "HKO-7, 192 to 192 at 32 x 32, 13 links": Layer("traj_gru", 192, 192, 32, 13),
    "HKO-7, 192 to 192 at 16 x 16, 9 links": Layer("traj_gru", 192, 192, 16, 9),
    "ConvLSTM, 64 to 64 at 96 x 96": Layer("conv_lstm", 64, 64, 96),
}
HIDDEN = 32  # channels of the layer before a TrajGRU's flows


@dataclass
class Work:
    """What one kernel does, or several alike.

    Elements, in the precision's size, that are read or written in memory, and in the
    cache; numbers of float32, which stay so; multiplications; launches.
    """

    name: str
    elements: float = 0
    cached: float = 0
    floats: float = 0
    cached_floats: float = 0
    multiplications: float = 0
    float32: bool = False  # multiplies so in any precision
    launches: float = 1

    def seconds(self, device: Device, precision: str) -> float:
        """How long it takes, whichever of its parts takes longest."""
        rate = getattr(device, "float32" if self.float32 else precision) * 1e12
        size = PRECISIONS[precision]
        memory = self.elements * size + self.floats * 4
        cache = self.cached * size + self.cached_floats * 4
        bandwidth = device.memory * 1e9 * MEMORY
        return self.launches * LAUNCH + max(
            2 * self.multiplications / (rate * PRODUCTS),
            memory / bandwidth,
            cache / (bandwidth * CACHE),
        )


Pass = list[Work]


def conv(
    name: str, layer: Layer, inputs: int, outputs: int, taps: int, **more: Any
) -> Work:
    """A convolution, or one of its gradients: each image and the weights once."""
    weights = inputs * outputs * taps**2
    elements = layer.pixels * (inputs + outputs) + weights
    whole = more.pop("whole", False)
    kind = "floats" if more.get("float32") else "elements"
    return Work(
        name,
        **{kind: elements},
        multiplications=layer.pixels * weights,
        launches=0 if whole else 1,
        **more,
    )


def chunks(layer: Layer, device: Device, precision: str) -> int:
    """Of a `flow_conv`, by the rule of csrc/cuda/chunk_rows.h."""
    row = max(layer.links * layer.features, 1) * PRECISIONS[precision]
    across = -(-3 * layer.features // TILE)
    wave = max(device.multiprocessors // across, 1)
    cached = int(device.cache * 2**20) // 3 // (row * TILE)
    return -(-layer.pixels // (max(wave, cached // wave * wave) * TILE))


def tiles(layer: Layer) -> int:
    """Blocks of `flow_conv` in one kernel, that have all outputs."""
    down, across = -(-layer.size // TILE_HEIGHT), -(-layer.size // TILE_WIDTH)
    return layer.batch * down * across


def is_fused(layer: Layer, device: Device, precision: str) -> bool:
    """Whether `flow_conv` is one kernel forward, by csrc/cuda/fused_tiles.h."""
    return (
        precision != "float32"
        and layer.links > 0
        and layer.features * PRECISIONS[precision] % SLICE_BYTES == 0
        and 3 * layer.features <= TILE_OUTPUTS
        and 3 * layer.features % 4 == 0
        and tiles(layer) >= device.multiprocessors
    )


def fused(layer: Layer, device: Device) -> Work:
    """`flow_conv` in one kernel: where outputs are more, blocks gather again.

    A multiprocessor has one block at a time, and the last have fewer to do: the others
    wait for them, by which all of it takes as much longer.
    """
    n, f, links = layer.pixels, layer.features, layer.links
    again = -(-3 * f // TILE_OUTPUTS)
    blocks = tiles(layer) * again
    rounds = -(-blocks // device.multiprocessors)
    waits = rounds * device.multiprocessors / blocks
    multiplied = blocks * TILE_WIDTH * TILE_HEIGHT * TILE_OUTPUTS * links * f
    weights = TILE_OUTPUTS * links * f
    return Work(
        "flow_conv in one kernel",
        elements=4 * n * f + 3 * f * links * f,
        cached=waits * (again * 4 * n * links * f + blocks * weights),
        floats=n * 2 * links,
        multiplications=waits * multiplied,
    )


def traj_gru(layer: Layer, parts: int) -> tuple[Pass, Pass]:
    """Ours, forward and backward, the gates being saved; parts: chunks."""
    n, f, c, links = layer.pixels, layer.features, layer.channels, layer.links
    warped, mix = n * links * f, n * links * f * 3 * f
    ret = 3 * f * links * f  # weights
    corners = 4 * warped
    forward = [
        conv("i2h of all steps", layer, c, 3 * f, 3, whole=True),
        conv("i2f_conv1 of all steps", layer, c, HIDDEN, 5, whole=True),
        conv("h2f_conv1", layer, f, HIDDEN, 5),
        Work("conv_sum: hidden", elements=3 * n * HIDDEN),
        conv("flows_conv", layer, HIDDEN, 2 * links, 5, float32=True),
        Work("conv_sum: flows", floats=2 * n * 2 * links),
        Work(
            *("gather", n * f, corners + warped, n * 2 * links),
            launches=parts,
        ),
        Work(
            *("product", n * 3 * f + parts * ret, warped),
            multiplications=mix,
            launches=parts,
        ),
        Work("gru_step", elements=n * 12 * f),
    ]
    backward = [
        Work("sum of gradients to the state", elements=3 * n * f),
        Work("gru_step_backward", elements=n * 13 * f),
        Work(
            *("product: warped", n * 3 * f + parts * ret, warped),
            multiplications=mix,
            launches=parts,
        ),
        Work(
            # The gradient to what was warped is read twice, and the values left there.
            *("pull back", 2 * n * f, corners + 3 * warped, n * 4 * links),
            cached_floats=2 * corners,  # atomic additions read and write
            launches=parts,
        ),
        Work(
            *("product: weight", n * 3 * f + 2 * ret, warped),
            multiplications=mix,
            launches=parts,
        ),
        conv("flows_conv: hidden", layer, 2 * links, HIDDEN, 5, float32=True),
        Work("slope of the activation", elements=3 * n * HIDDEN),
        conv("h2f_conv1: state", layer, HIDDEN, f, 5),
        Work("sum with it", elements=3 * n * f),
        conv("flows_conv: weight", layer, 2 * links, HIDDEN, 5, float32=True),
        conv("h2f_conv1: weight", layer, HIDDEN, f, 5),
        conv("i2h: weight", layer, 3 * f, c, 3),
        conv("i2h: inputs", layer, 3 * f, c, 3),
        conv("i2f_conv1: weight", layer, HIDDEN, c, 5),
        conv("i2f_conv1: inputs", layer, HIDDEN, c, 5),
        Work("sums of biases", elements=n * (6 * f + 2 * HIDDEN + 2 * links)),
    ]
    for one in backward[9:]:
        one.launches = 0
    return forward, backward


def conv_lstm(layer: Layer, _: int) -> tuple[Pass, Pass]:
    """Ours, forward and backward, the gates being saved."""
    n, f, c = layer.pixels, layer.features, layer.channels
    forward = [
        conv("x of all steps", layer, c, 4 * f, 3, whole=True),
        conv("h", layer, f, 4 * f, 3),
        Work("lstm_step", elements=n * 15 * f),
    ]
    backward = [
        Work("sum of gradients to the state", elements=3 * n * f),
        Work("lstm_step_backward", elements=n * 13 * f),
        conv("h: state", layer, 4 * f, f, 3),
        conv("h: weight", layer, 4 * f, f, 3, whole=True),
        conv("x: weight", layer, 4 * f, c, 3, whole=True),
        conv("x: inputs", layer, 4 * f, c, 3, whole=True),
        Work("sums of biases", elements=n * 4 * f, launches=0),
    ]
    return forward, backward


def ours(layer: Layer, device: Device, precision: str) -> tuple[Pass, Pass]:
    """Ours on a GPU."""
    forward, backward = OURS[layer.kind](layer, chunks(layer, device, precision))
    if is_fused(layer, device, precision):
        names = [one.name for one in forward]
        at = names.index("gather")
        forward[at : at + 2] = [fused(layer, device)]
    return forward, backward


OURS: dict[str, Callable[[Layer, int], tuple[Pass, Pass]]] = {
    "traj_gru": traj_gru,
    "conv_lstm": conv_lstm,
}


def limit(layer: Layer, works: Pass, backward: bool) -> Pass:
    """What there is to multiply, and states, gates and inputs once: one kernel."""
    n, f, c = layer.pixels, layer.features, layer.channels
    gates = 4 * f  # r, u, n and the state's part of n; i, f, g and o
    states = 2 * f if layer.kind == "traj_gru" else 4 * f  # old and new
    elements = n * (c + states + gates) * (2 if backward else 1)
    multiplied = [one for one in works if one.multiplications]
    return [
        Work(
            "all",
            elements=elements,
            multiplications=sum(
                one.multiplications for one in multiplied if one.float32 == float32
            ),
            float32=float32,
            launches=0,
        )
        for float32 in (False, True)
    ]


@dataclass
class Count(TorchDispatchMode):
    """The work that PyTorch's operators give a device: but for views, a kernel each."""

    works: Pass = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.is_view or func.namespace != "aten" or "empty" in func.__name__:
            return found
        tensors = [
            one for one in tree_leaves((args, kwargs, found)) if isinstance(one, Tensor)
        ]
        count = flop_registry.get(func.overloadpacket)
        flops = count(*args, **(kwargs or {}), out_val=found) if count else 0
        elements = sum(one.numel() for one in tensors)
        self.works.append(Work(str(func), elements=elements, multiplications=flops / 2))
        return found


def port(layer: Layer, steps: int) -> tuple[Pass, Pass]:
    """All that the port does in so many steps, forward and backward."""
    sizes = (layer.batch, layer.size, layer.size)
    with torch.device("meta"):
        inputs = torch.randn(
            steps, layer.batch, layer.channels, layer.size, layer.size
        ).requires_grad_()
        module: nn.Module
        if layer.kind == "traj_gru":
            module = TrajGRU(layer.channels, layer.features, sizes, L=layer.links)
            state: Any = None
        else:
            module = ConvLSTM(layer.channels, layer.features, sizes, 3)
            empty = torch.zeros(layer.batch, layer.features, layer.size, layer.size)
            state = (empty, empty)
        with Count() as forward:
            outputs, _ = module(inputs, state, steps)
        grad, wanted = torch.ones_like(outputs), [inputs, *used(module, outputs)]
        with Count() as backward:
            torch.autograd.grad(outputs, wanted, grad)
    return forward.works, backward.works


def used(module: nn.Module, outputs: Tensor) -> list[nn.Parameter]:
    """The parameters that the outputs depend on."""
    parameters = list(module.parameters())
    grads = torch.autograd.grad(
        outputs.sum(), parameters, retain_graph=True, allow_unused=True
    )
    return [
        one for one, grad in zip(parameters, grads, strict=True) if grad is not None
    ]


def port_step(layer: Layer) -> tuple[Pass, Pass]:
    """A step of the port, as what one more than two steps adds."""
    few, more = port(layer, 2), port(layer, 3)

    def difference(one: Pass, other: Pass) -> Pass:
        def total(works: Pass, name: str) -> float:
            return float(sum(getattr(work, name) for work in works))

        names = ("elements", "multiplications", "launches")
        values = {name: total(other, name) - total(one, name) for name in names}
        # Where multiplications and bytes are whose, a sum does not tell: those that
        # multiply are apart.
        return [Work("a step of the port", **values)]

    def split(works: Pass) -> tuple[Pass, Pass]:
        return (
            [one for one in works if one.multiplications],
            [one for one in works if not one.multiplications],
        )

    passes = []
    for k in range(2):
        parts = zip(split(few[k]), split(more[k]), strict=True)
        passes.append([work for pair in parts for work in difference(*pair)])
    return passes[0], passes[1]


def seconds(works: Pass, device: Device, precision: str) -> float:
    """One kernel after the other."""
    return sum(one.seconds(device, precision) for one in works)


def rows(layer: Layer) -> Iterator[list[str]]:
    """Device, precision, and microseconds forward and backward of the three."""
    eager = port_step(layer)
    for name, device in DEVICES.items():
        for precision in PRECISIONS:
            passes = ours(layer, device, precision)
            wanted = OURS[layer.kind](layer, 1)  # what there is to multiply
            cells = []
            for k in range(2):
                least = limit(layer, wanted[k], backward=k == 1)
                times = [
                    seconds(works, device, precision)
                    for works in (passes[k], eager[k], least)
                ]
                cells += [f"{1e6 * one:.0f}" for one in times]
            yield [name, precision, *cells]


def flow_conv_rows(layer: Layer) -> Iterator[list[str]]:
    """Device, precision, microseconds of `flow_conv` both ways, and which is taken."""
    for name, device in DEVICES.items():
        for precision in PRECISIONS:
            if precision == "float32":
                continue
            parts = chunks(layer, device, precision)
            forward, _ = traj_gru(layer, parts)
            chunked = [one for one in forward if one.name in ("gather", "product")]
            times = [
                seconds(works, device, precision)
                for works in (chunked, [fused(layer, device)])
            ]
            taken = "one kernel" if is_fused(layer, device, precision) else "chunks"
            yield [name, precision, *(f"{1e6 * one:.0f}" for one in times), taken]


SIDES = ["ours", "port", "limit"]
HEADER = ["device", "precision", *SIDES, *SIDES]


def main() -> None:
    """Print the sources, the assumptions, and a table a layer."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(NOTICE)
    for name, device in DEVICES.items():
        print(f"{name}: {device.source}")
    print(
        f"assumed: {PRODUCTS:.0%} of the peak of products, {MEMORY:.0%} of the "
        f"memory's rate, {CACHE:g} times that in the cache, "
        f"{1e6 * LAUNCH:g} us a launch"
    )
    for title, layer in LAYERS.items():
        print(f"\n{title}: us a step, batch {layer.batch}, forward | backward\n")
        table = [HEADER, ["---"] * len(HEADER), *rows(layer)]
        for row in table:
            print(f"| {' | '.join(row)} |")
        if layer.links:
            print("\nIts flow_conv, forward: us\n")
            header = ["device", "precision", "in chunks", "in one kernel", "taken"]
            for row in [header, ["---"] * len(header), *flow_conv_rows(layer)]:
                print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
