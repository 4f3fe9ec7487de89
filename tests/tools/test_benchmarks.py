"""Every benchmark runs, at small sizes.

That of whole models has a test of its own (test_benchmark_report.py).
"""

import importlib
import json
import sys
from typing import Any

import pytest
import run
import torch

from trajgru_ext.nn import SqueezeExcitation


def conv(module: Any) -> dict[str, object]:
    plain = module.Size(1, 8, 8, 6, (3, 3))
    wide = module.Size(1, 64, 64, 8, (3, 3))
    half = plain._replace(dtype=torch.bfloat16)
    return {"SIZES": [plain, wide, half, plain._replace(stride=2, groups=2)]}


def networks(module: Any) -> dict[str, object]:
    small = module.HKO7._replace(image=60, sizes=[12, 4, 2], frames=2, ahead=2)
    return {"NETWORKS": {"HKO-7": small}}


def blocks(module: Any) -> dict[str, object]:
    ours, usual, _ = module.OPERATORS["se_scale"]
    block = (lambda: SqueezeExcitation(32), module.UsualSE, (32, 6, 6), True)
    return {
        "OPERATORS": {"se_scale": (ours, usual, [(16, 6, 6), (16,)])},
        "BLOCKS": {"SqueezeExcitation": block},
    }


# What takes the place of a benchmark's sizes.
SMALL = {
    "blocks": blocks,
    "cells": lambda _: {"STEPS": 2, "SIZES": [(1, 4, 6, 3)]},
    "compile": lambda _: {},
    "conv": conv,
    "conv_rnn": lambda _: {"SIZES": {"4 to 4, 8 x 8": (4, 4, 8)}, "STEPS": 2},
    "flow_conv": lambda _: {"SIZES": [(1, 4, 12, 2)]},
    "flow_warp": lambda _: {"SIZES": [(1, 4, 24, 24)]},
    "gates": lambda _: {"FEATURES": 4, "SIZE": (1, 4, 6, 6)},
    "networks": networks,
    "scaling": lambda _: {
        "VALUES": {"T": [2], "L": [1]},
        "FIXED": {"T": 2, "L": 1},
        "SIZE": 12,
    },
    "traj_gru": lambda _: {"STEPS": 2, "SIZE": 12},
}


# Of networks and layers that are large: kernels are slow where they are emulated.
WHOLE = {"networks", "traj_gru"}


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    """Nothing is compiled, and memory is that of a step in this process."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("sgemm.COPIED", 1 << 20)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def step_in_this_process(prepare, *arguments):
    assert prepare(*arguments)()
    return 1.0


def test_all_are_tried():
    assert {*SMALL, "models", "skill"} == set(run.NAMES)


@pytest.mark.parametrize("on", ["cpu", "emulated"])
@pytest.mark.parametrize("name", SMALL)
def test_benchmark(name, on, monkeypatch, request, tmp_path):
    """On a device, too, as on a GPU."""
    if on == "emulated":
        if name in run.ON_CPU_ALONE | WHOLE:
            pytest.skip("its operators are the CPU's, or those of the others")
        request.getfixturevalue("emulated_devices")
    module = importlib.import_module(f"bench_{name}")
    for constant, value in SMALL[name](module).items():
        monkeypatch.setattr(module, constant, value)
    if hasattr(module, "peak_mib"):
        monkeypatch.setattr(module, "peak_mib", step_in_this_process)
    if name == "traj_gru":
        for function, small in (
            (module.layer_and_inputs, (2, 2, 12)),
            (module.prepare_training, (2, 12)),
        ):
            monkeypatch.setattr(function, "__defaults__", small)
    results = tmp_path / "results.json"
    options = ["--rounds", "1", "--threads", "1", "--json", str(results)]
    monkeypatch.setattr(sys, "argv", [f"bench_{name}.py", *options])
    with torch.device(on):
        module.main()
    records = json.loads(results.read_text())["records"]
    assert records
    for record in records:
        assert min(record.get("times_ours", {"ours": 1}).values()) > 0
    (tmp_path / "results.json").rename(tmp_path / f"{name}.json")
    run.report(tmp_path, tmp_path)
    assert f"## {name}\n" in (tmp_path / "README.md").read_text()


def test_skill(radar_frames, monkeypatch, tmp_path):
    module = importlib.import_module("bench_skill")
    results = tmp_path / "skill.json"
    options = [str(radar_frames), "--starts", "1", "--threads", "1"]
    monkeypatch.setattr(
        sys, "argv", ["bench_skill.py", *options, "--json", str(results)]
    )
    module.main()
    assert json.loads(results.read_text())["records"]
    run.report(tmp_path, tmp_path)
    assert "## skill\n" in (tmp_path / "README.md").read_text()
