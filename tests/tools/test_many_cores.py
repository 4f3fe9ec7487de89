"""How a loop's speed-up is computed from the times of its items."""

import many_cores
import pytest
from many_cores import SPEEDUPS, better, fewer, longest_first, loop_name, worse


@pytest.mark.parametrize(
    "items, threads, last",
    [
        ([1.0] * 4, 4, 1),
        ([1.0] * 5, 4, 2),
        ([1.0], 64, 1),
        ([], 4, 0),
        ([2, 1, 1, 3, 1], 2, 4),  # 3 and 1, 2 and 1 and 1
        ([1, 1, 1, 1, 4], 2, 4),  # the long one first, in whatever order they come
    ],
)
def test_longest_first(items, threads, last):
    assert longest_first(items, threads) == last


@pytest.mark.parametrize(
    "symbol, name",
    [
        (
            "_ZN2at8internal15invoke_parallelIZNS_12parallel_forIZN11trajgru_ext12_GLOBAL__"
            "N_111CpuFlowWarp3runIfEEvRNS3_16FlowWarpBackwardIT_NS_10OpMathTypeIS8_E4type"
            "EEEEUlllE0_EEvlllRKS8_EUlllE_EEvlllSG_._omp_fn.0",
            "CpuFlowWarp::FlowWarpBackward 2",
        ),
        (
            "_ZN2at8internal15invoke_parallelIZNS_12parallel_forIZN11trajgru_ext13CpuGate"
            "Device3runINS3_7GruStepINS3_10GateDtypesIffEEEEEEvRKT_bEUlllE_EEvlllSC_EUlllE"
            "_EEvlllSC_._omp_fn.0",
            "CpuGateDevice::GruStep",
        ),
    ],
)
def test_loop_name(symbol, name):
    assert loop_name(symbol) == name


def test_worse():
    before = {"case": "a", "pass": "b", "loop": "c", "items": "12", "share": "0.5"}
    before |= dict.fromkeys(SPEEDUPS, "10.0")
    table = {("a", "b", "c"): before}
    assert not worse(before, table)
    assert not worse(before | {"items": "24", "cut 16": "8.1"}, table)
    assert worse(before | {"items": "11"}, table)
    assert worse(before | {"best 64": "7.9"}, table)
    assert worse(before | {"loop": "another"}, table)
    assert not worse(before | {"loop": "another", "share": "0.01"}, table)
    (row,) = better([before | {"cut 4": "3.9"}], [before | {"best 4": "9.0"}])
    assert row == before


def test_fewer_items():
    row = {"case": "a", "pass": "b", "loop": "c", "items": "12"}
    table = {("a", "b", "c"): row, ("a", "b", many_cores.TORCHS): row}
    assert not fewer(row, table)
    assert not fewer(row | {"items": "13"}, table)
    assert not fewer(row | {"loop": "another", "items": "1"}, table)
    assert fewer(row | {"items": "11"}, table)
    assert not fewer(row | {"loop": many_cores.TORCHS, "items": "11"}, table)


def test_the_table_has_what_is_measured():
    with many_cores.TABLE.open() as file:
        header, *rows = file.read().splitlines()
    assert header == ",".join(many_cores.COLUMNS)
    assert len(rows) > len(dict(many_cores.cases()))
