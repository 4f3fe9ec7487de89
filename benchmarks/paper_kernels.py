"""What our kernels do in a step, and the GPUs that paper.py predicts times for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple


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
    "HKO-7, 64 to 64 at 96 x 96, 13 links": Layer("traj_gru", 64, 64, 96, 13),
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
        layer.links > 0
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


def fused_step(layer: Layer, device: Device) -> Work:
    """The same with the update of the gates, whose sums it has in registers.

    It reads the inputs' part and leaves gates, candidate and state.
    """
    work = fused(layer, device)
    n, f = layer.pixels, layer.features
    work.name = "flow_conv and gru_step in one kernel"
    work.elements += n * (12 - 2 * 3) * f  # three are neither written nor read
    return work


def updates_gates(layer: Layer, device: Device, precision: str) -> bool:
    """Whether that is taken, by csrc/cuda/flow_conv_fused.cu."""
    return is_fused(layer, device, precision) and layer.features % 16 == 0


def ours(layer: Layer, device: Device, precision: str) -> tuple[Pass, Pass]:
    """Ours on a GPU."""
    forward, backward = OURS[layer.kind](layer, chunks(layer, device, precision))
    if is_fused(layer, device, precision):
        names = [one.name for one in forward]
        at = names.index("gather")  # then the product, and gru_step
        if updates_gates(layer, device, precision):
            forward[at : at + 3] = [fused_step(layer, device)]
        else:
            forward[at : at + 2] = [fused(layer, device)]
    return forward, backward


OURS: dict[str, Callable[[Layer, int], tuple[Pass, Pass]]] = {
    "traj_gru": traj_gru,
    "conv_lstm": conv_lstm,
}
