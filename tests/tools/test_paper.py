"""benchmarks/paper.py: its counts are those of the operators; it says what it is."""

import cuda_launches
import paper
import paper_graphs
import paper_kernels
import pytest
import torch
from emulation import device

LAYERS = pytest.mark.parametrize("layer", paper.LAYERS.values(), ids=paper.LAYERS)


def total(works, name):
    return sum(getattr(one, name) for one in works)


def test_its_first_line_says_that_nothing_is_measured(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["paper.py"])
    small = [paper.Layer("traj_gru", 2, 3, 8, 2), paper.Layer("conv_lstm", 2, 3, 8)]
    monkeypatch.setattr(paper, "LAYERS", {one.kind: one for one in small})
    paper.main()
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("Nothing here is a measurement")
    for name, of in paper.DEVICES.items():
        assert f"{name}: {of.source}" in others
    rows = [line for line in others if line.startswith("| ")]
    by_layer = len(paper.DEVICES) * len(paper.PRECISIONS) + 2
    assert len(rows) == (len(small) + 1) * by_layer  # one for flow_conv alone


def test_graphs_gain_where_kernels_are_short(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["paper_graphs.py"])
    paper_graphs.main()
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == paper.NOTICE
    assert second.startswith("assumed: ")

    def gains(size):
        layer = paper.Layer("conv_lstm", 64, 64, size)
        return [float(row[-1]) for row in paper_graphs.rows(layer)]

    large, small = gains(96), gains(8)
    assert all(one <= other for one, other in zip(large, small, strict=True))
    assert min(large) >= 1
    assert max(small) > 2  # the host's time, over that of a graph


@pytest.mark.parametrize("kind", paper.OURS)
def test_launches_are_those_of_the_emulated_device(kind):
    table = [
        row
        for row in cuda_launches.read_table()
        if row["sequence"] == kind and row["layout"] == "channels last"
    ]
    counted = [sum(float(row[one]) for one in cuda_launches.KINDS) for row in table]
    if kind == "traj_gru":
        counted[1] -= 1  # there the flows are results, too, whose gradient is added
    layer = paper.Layer(kind, 16, 16, 6, links=2 if kind == "traj_gru" else 0)
    few = paper.DEVICES["H100"]._replace(multiprocessors=2)  # as there
    passes = paper.ours(layer, few, "float32")
    assert [total(works, "launches") for works in passes] == counted


@LAYERS
def test_multiplications_are_those_of_the_port(layer):
    for ours, port in zip(
        paper.OURS[layer.kind](layer, 1), paper.port_step(layer), strict=True
    ):
        assert total(ours, "multiplications") == total(port, "multiplications")


@LAYERS
@pytest.mark.parametrize("precision", paper.PRECISIONS)
def test_no_time_is_below_the_limit(layer, precision):
    for of in paper.DEVICES.values():
        wanted = paper.OURS[layer.kind](layer, 1)
        for k, works in enumerate(paper.ours(layer, of, precision)):
            least = paper.limit(layer, wanted[k], backward=k == 1)
            ours = paper.seconds(works, of, precision)
            assert paper.seconds(least, of, precision) < ours


@pytest.mark.usefixtures("emulated_devices")
@LAYERS
@pytest.mark.parametrize("precision", paper.PRECISIONS)
def test_chunks_are_those_of_the_operator(layer, precision):
    device.load()
    for of in paper.DEVICES.values():
        limits = [int(of.cache * 2**20), of.multiprocessors, paper_kernels.TILE]
        row = layer.links * layer.features * paper.PRECISIONS[precision]
        outputs = 3 * layer.features
        rows = torch.ops.emulated.chunk_rows(row, outputs, limits)
        wanted = -(-layer.pixels // rows) if layer.links else 1
        assert max(paper.chunks(layer, of, precision), 1) == wanted


TRAJ_GRUS = {title: one for title, one in paper.LAYERS.items() if one.links}


@pytest.mark.usefixtures("emulated_devices")
@pytest.mark.parametrize("layer", TRAJ_GRUS.values(), ids=TRAJ_GRUS)
@pytest.mark.parametrize("precision", paper.PRECISIONS)
def test_flow_conv_is_one_kernel_where_that_pays(layer, precision):
    """By the rule of the operator, and nowhere else by the model."""
    for of in paper.DEVICES.values():
        sizes = [layer.batch, layer.size, layer.size]
        sizes += [layer.features * paper.PRECISIONS[precision]]
        sizes += [layer.links, 3 * layer.features]
        taken = torch.ops.emulated.tiles_pay(sizes, of.multiprocessors)
        assert paper.is_fused(layer, of, precision) == taken
        names = [one.name for one in paper.ours(layer, of, precision)[0]]
        assert (names.count("gather"), names.count("product")) == (1 - taken, 1 - taken)
        chunked = paper.traj_gru(layer, paper.chunks(layer, of, precision))[0]
        both = [one for one in chunked if one.name in ("gather", "product")]
        one = paper.seconds([paper.fused(layer, of)], of, precision)
        assert taken == (one < paper.seconds(both, of, precision))
