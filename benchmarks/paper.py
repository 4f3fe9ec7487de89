"""What a time step should take on GPUs that nobody here has: a model, no measurement.

`python benchmarks/paper.py` counts what a step of a layer reads and writes, multiplies
and launches: ours from the list of its kernels in paper_kernels.py, whose launches the
tests compare with those counted on the emulated device; the published PyTorch port, run
eagerly, from the operators that PyTorch is given; and what no implementation can do
without. From that, and what GPUs are sold as, follow times. A step is one of many: what
is done for all at once, such as the convolution of the inputs, has its share of bytes
and multiplications, and none of launches.

Assumed is, and nowhere published: what share of the peak rates is reached, how long a
launch takes, and that the second-level cache is twice as fast as the memory.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from paper_kernels import (
    CACHE,
    DEVICES,
    LAUNCH,
    LAYERS,
    MEMORY,
    OURS,
    PRECISIONS,
    PRODUCTS,
    Device,
    Layer,
    Pass,
    Work,
    chunks,
    fused,
    fused_step,
    is_fused,
    ours,
    traj_gru,
    updates_gates,
)
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ports.precipitation_nowcasting import ConvLSTM, TrajGRU

NOTICE = "Nothing here is a measurement: a model on paper, of kernels no GPU has run."


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
    """Device, precision, microseconds of `flow_conv` in chunks and in one kernel, the
    latter with the update of the gates apart and in it, at which share of the peak of
    products it would be as fast as the chunks, and what is taken."""
    for name, device in DEVICES.items():
        for precision in PRECISIONS:
            parts = chunks(layer, device, precision)
            forward, _ = traj_gru(layer, parts)
            chunked = [one for one in forward if one.name in ("gather", "product")]
            whole = fused(layer, device)
            update = [one for one in forward if one.name == "gru_step"]
            ways = [chunked, [whole], [whole, *update], [fused_step(layer, device)]]
            times = [seconds(works, device, precision) for works in ways]
            taken = "one kernel" if is_fused(layer, device, precision) else "chunks"
            if updates_gates(layer, device, precision):
                taken = "one kernel, gates in it"
            rate = getattr(device, precision) * 1e12
            even = 2 * whole.multiplications / rate / (times[0] - LAUNCH)
            cells = [f"{1e6 * one:.0f}" for one in times]
            yield [name, precision, *cells, f"{even:.0%}", taken]


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
            header = ["device", "precision", "in chunks", "in one kernel"]
            header += ["and gates apart", "gates in it", "even at", "taken"]
            for row in [header, ["---"] * len(header), *flow_conv_rows(layer)]:
                print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
