"""What an operator or a step of a sequence gives a GPU to do."""

import cuda_launches
import pytest
import torch
from emulation import device

from trajgru_ext import check, flow_conv

# Bytes of the second-level cache and multiprocessors (NVIDIA's white papers).
DEVICES = {
    "T4": (4 << 20, 40),
    "RTX 3090": (6 << 20, 82),
    "RTX 4090": (72 << 20, 128),
    "A100": (40 << 20, 108),
    "H100": (50 << 20, 132),
    "B200": (126 << 20, 148),
    "RTX 5090": (96 << 20, 170),
}
TILE = 128


def test_nothing_is_more_than_in_the_table():
    assert cuda_launches.more_than_in_the_table(list(cuda_launches.measure())) == []


# Beside convolutions, and the products of flow_conv, which stand for one.
MOST = {
    ("conv_lstm", "forward"): 1,
    ("conv_gru", "forward"): 1,
    ("traj_gru", "forward"): 4,
    ("traj_gru", "backward"): 8,
}


@pytest.mark.parametrize(("sequence", "which"), MOST, ids=str)
def test_a_step_is_a_few_kernels(sequence, which):
    rows = [
        row
        for row in cuda_launches.read_table()
        if (row["sequence"], row["pass"]) == (sequence, which)
    ]
    assert len(rows) == len(cuda_launches.FORMATS)
    for row in rows:
        assert float(cuda_launches.beside_products(row)) <= MOST[sequence, which]


def test_the_document_has_the_table():
    table = cuda_launches.markdown(cuda_launches.read_table())
    assert cuda_launches.between() == table


def chunk_rows(row_bytes, outputs, limits):
    device.load()
    return torch.ops.emulated.chunk_rows(row_bytes, outputs, [*limits, TILE])


@pytest.mark.parametrize("limits", DEVICES.values(), ids=DEVICES)
@pytest.mark.parametrize(
    ("columns", "outputs"), [(13 * 64, 192), (13 * 192, 576), (9 * 192, 576), (5, 1)]
)
@pytest.mark.parametrize("element", [2, 4, 8])
def test_chunks_fill_whole_waves_and_a_third_of_the_cache(
    limits, columns, outputs, element
):
    cache, multiprocessors = limits
    rows = chunk_rows(columns * element, outputs, limits)
    across = -(-outputs // TILE)
    wave = multiprocessors // across
    assert rows % TILE == 0
    assert rows // TILE % wave == 0
    one_more = rows + wave * TILE
    assert rows == wave * TILE or rows * columns * element <= cache / 3
    assert one_more * columns * element > cache / 3


@pytest.mark.parametrize("limits", DEVICES.values(), ids=DEVICES)
def test_the_check_takes_flow_conv_in_tiles_and_in_chunks(limits):
    """On any of them, and in every dtype that has tiles."""

    def in_tiles(sizes, element):
        letters = [sizes[letter] for letter in "BHWCLO"]
        letters[3] *= element
        return torch.ops.emulated.tiles_pay(letters, limits[1])

    device.load()
    assert in_tiles(check.TILES, 2)
    assert in_tiles(check.TILES, 4)
    # TrajGRU's outputs are its gates.
    assert check.TILES["O"] == 3 * check.TILES["F"]
    sizes = check.CHUNKS
    assert not in_tiles(sizes, 4)
    row_bytes = 4 * sizes["L"] * sizes["C"]
    pixels = sizes["B"] * sizes["H"] * sizes["W"]
    assert chunk_rows(row_bytes, sizes["O"], limits) < pixels


def test_chunks_of_extreme_sizes():
    assert chunk_rows(0, 0, DEVICES["T4"]) > 0
    # More outputs than multiprocessors have tiles: a row of tiles at least.
    assert chunk_rows(1 << 40, 1 << 20, DEVICES["T4"]) == TILE


def flow_conv_counts(with_bias, layout=torch.channels_last):
    """Of a forward and a backward pass, in several chunks."""
    device.load()
    image = torch.randn(2, 8, 12, 20).to(device.NAME, memory_format=layout)
    flows = torch.randn(2, 6, 12, 20).to(device.NAME, memory_format=layout)
    weight = torch.randn(5, 24).to(device.NAME)
    bias = torch.randn(5).to(device.NAME) if with_bias else None
    leaves = [one for one in (image, flows, weight, bias) if one is not None]
    for one in leaves:
        one.requires_grad_()
    found = []
    cuda_launches.counts()
    output = flow_conv(image, flows, weight, bias)
    found.append(cuda_launches.counts())
    grad = torch.ones_like(output)
    cuda_launches.counts()
    torch.autograd.grad(output, leaves, grad)
    found.append(cuda_launches.counts())
    return [{k: often for k, often in one.items() if k != "bytes"} for one in found]


@pytest.mark.parametrize("with_bias", [True, False])
def test_flow_conv_does_nothing_that_is_not_needed(with_bias):
    forward, backward = flow_conv_counts(with_bias)
    chunks = forward["kernels"]
    assert chunks > 1
    assert forward == {"kernels": chunks, "products": chunks}
    # Zeroed are the sums of the gradient to the input, to which threads add.
    sums = {"others": 1} if with_bias else {}
    assert backward == {"kernels": chunks, "products": 2 * chunks, "fills": 1} | sums
