"""What a CUDA graph should gain on GPUs that nobody here has: a model, no measurement.

`python benchmarks/paper_graphs.py` takes a step's kernels from `benchmarks/paper.py`
and gives them to the GPU one by one, as PyTorch does, or as a graph. One by one, a step
takes as long as the host needs to launch its kernels, or as the GPU needs to run them,
whichever is longer; in a graph, as the GPU needs, with shorter gaps between kernels.

Assumed is, beside what `paper.py` assumes, how long the host takes to launch a kernel
by way of PyTorch's operators, and how long the gap between two kernels of a graph is.
"""

import argparse
from collections.abc import Iterator

import paper

HOST = 6e-6  # seconds of the host for a kernel, PyTorch's way to it included: assumed
GAP = 1.3e-6  # seconds between two kernels of a graph: assumed
LAYERS = {
    "TrajGRU, 64 to 64 at 96 x 96, 13 links": paper.Layer("traj_gru", 64, 64, 96, 13),
    "TrajGRU, 64 to 64 at 32 x 32, 13 links": paper.Layer("traj_gru", 64, 64, 32, 13),
    "TrajGRU, 192 to 192 at 16 x 16, 9 links": paper.Layer("traj_gru", 192, 192, 16, 9),
    "ConvLSTM, 64 to 64 at 96 x 96": paper.Layer("conv_lstm", 64, 64, 96),
    "ConvLSTM, 64 to 64 at 32 x 32": paper.Layer("conv_lstm", 64, 64, 32),
}
HEADER = ["device", "precision", "kernels", "host", "GPU", "graph", "gain"]


def launches(works: paper.Pass) -> float:
    """The kernels of a pass."""
    return sum(one.launches for one in works)


def graph_seconds(works: paper.Pass, device: paper.Device, precision: str) -> float:
    """A pass as part of a graph."""
    one_by_one = paper.seconds(works, device, precision)
    return one_by_one - launches(works) * (paper.LAUNCH - GAP)


def rows(layer: paper.Layer) -> Iterator[list[str]]:
    """A step of training: its kernels, microseconds of each way, and their ratio."""
    for name, device in paper.DEVICES.items():
        for precision in paper.PRECISIONS:
            forward, backward = paper.ours(layer, device, precision)
            works = forward + backward
            host = launches(works) * HOST
            gpu = paper.seconds(works, device, precision)
            graph = graph_seconds(works, device, precision)
            times = [f"{1e6 * one:.0f}" for one in (host, gpu, graph)]
            gain = f"{max(host, gpu) / graph:.1f}"
            yield [name, precision, f"{launches(works):.0f}", *times, gain]


def main() -> None:
    """Print the assumptions, and a table a layer."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(paper.NOTICE)
    print(
        f"assumed: {1e6 * HOST:g} us of the host a kernel, {1e6 * paper.LAUNCH:g} us "
        f"between two kernels, {1e6 * GAP:g} us within a graph"
    )
    for title, layer in LAYERS.items():
        print(f"\n{title}: us a step of training, batch {layer.batch}\n")
        for row in [HEADER, ["---"] * len(HEADER), *rows(layer)]:
            print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
