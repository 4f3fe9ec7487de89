"""Every benchmark runs, at small sizes.

That of whole models has a test of its own (test_benchmark_report.py).
"""

import importlib
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import compare_table
import measure
import numpy as np
import peak_memory
import pytest
import run
import torch
from torch.utils._pytree import tree_map

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
    "compare": lambda _: {
        "STEPS": 2,
        "SEEDS": 2,
        "MOVIES": 4,
        "TESTS": 1,
        "MOVIES_AHEAD": 2,
    },
    "compile": lambda _: {},
    "conv": conv,
    "conv_rnn": lambda _: {"SIZES": {"4 to 4, 8 x 8": (4, 4, 8)}, "STEPS": 2},
    "flow_conv": lambda _: {"SIZES": [(1, 4, 12, 2)]},
    "flow_warp": lambda _: {"SIZES": [(1, 4, 24, 24)]},
    "gates": lambda _: {"FEATURES": 4, "SIZE": (1, 4, 6, 6)},
    "half": lambda _: {
        "SIZES": [(2, 4, 8)],
        "FLOW_SIZE": (2, 4, 8),
        "STEPS": 2,
        "LINKS": 2,
    },
    "networks": networks,
    "overhead": lambda _: {"SIZE": 6},
    "scaling": lambda _: {
        "VALUES": {"T": [2], "L": [1]},
        "FIXED": {"T": 2, "L": 1},
        "SIZE": 12,
    },
    "traj_gru": lambda _: {"STEPS": 2, "SIZE": 12},
}


def thin_networks(module: Any) -> dict[str, object]:
    layers = ("down", "up", "channels", "back", "features")
    thin = tree_map(
        lambda size: {64: 4, 192: 8}.get(size, size),
        {name: getattr(module.HKO7, name) for name in layers},
    )
    small = module.HKO7._replace(**thin, links=[2, 1, 1], frames=2, ahead=1)
    # Of one pixel the port's flows have no gradient: 2 are the least.
    small = small._replace(image=60, sizes=[12, 4, 2])
    return {"HKO7": small, "NETWORKS": {"HKO-7": small}}


# Of fewer channels: kernels are slow where they are emulated.
THIN = {
    "networks": thin_networks,
    "traj_gru": lambda _: {
        "BATCH": 1,
        "CHANNELS": 2,
        "FEATURES": 4,
        "LINKS": 2,
        "SIZE": 6,
        "STEPS": 2,
    },
}


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


def peak_in_this_process(prepare, *arguments):
    found = peak_memory._measure(prepare, arguments)
    assert found > 0
    return found


def test_all_are_tried():
    assert {*SMALL, "models", "skill"} == set(run.NAMES)


@pytest.mark.parametrize("on", ["cpu", "emulated"])
@pytest.mark.parametrize("name", SMALL)
def test_benchmark(name, on, monkeypatch, request, tmp_path):
    """On a device, too, as on a GPU."""
    if on == "emulated":
        if name in run.ON_CPU_ALONE:
            pytest.skip("it runs on the CPU alone")
        request.getfixturevalue("emulated_devices")
    module = importlib.import_module(f"bench_{name}")
    small_sizes = SMALL if on == "cpu" else SMALL | THIN
    for constant, value in small_sizes[name](module).items():
        monkeypatch.setattr(module, constant, value)
    if hasattr(module, "peak_mib"):
        here = step_in_this_process if on == "cpu" else peak_in_this_process
        monkeypatch.setattr(module, "peak_mib", here)
    if name == "traj_gru":
        size = module.SIZE
        for function, small in (
            (module.layer_and_inputs, (2, 2, size)),
            (module.prepare_training, (2, size)),
        ):
            monkeypatch.setattr(function, "__defaults__", small)
    monkeypatch.setattr(measure, "ALLOWED", [True, False])  # as where nothing is set
    results = tmp_path / "results.json"
    options = ["--rounds", "1", "--threads", "1", "--json", str(results)]
    monkeypatch.setattr(sys, "argv", [f"bench_{name}.py", *options])
    with torch.device(on):
        module.main()
    records = json.loads(results.read_text())["records"]
    assert records
    for record in records:
        assert min(record.get("times_ours", {"ours": 1}).values()) > 0
        rounded = "convolutions tf32, products ieee"
        assert record.get("float32") == (rounded if on == "emulated" else None)
    (tmp_path / "results.json").rename(tmp_path / f"{name}.json")
    run.report(tmp_path, tmp_path)
    assert f"## {name}\n" in (tmp_path / "README.md").read_text()


def prepare_known_peak():
    """5 MiB beyond what there is; before it there was more."""
    kept, mebibyte = torch.empty(3 << 20, dtype=torch.uint8), 1 << 20
    torch.empty(9 * mebibyte, dtype=torch.uint8)

    def run():
        first = torch.empty(4 * mebibyte, dtype=torch.uint8)
        del first
        both = [torch.empty(n * mebibyte, dtype=torch.uint8) for n in (2, 3)]
        return kept, both.pop()

    return run


@pytest.mark.usefixtures("emulated_devices")
def test_a_device_s_peak_is_measured():
    with torch.device("emulated"):
        assert peak_memory._measure(prepare_known_peak, ()) == 5


@pytest.mark.usefixtures("emulated_devices")
def test_a_device_is_busy_before_what_is_timed(monkeypatch):
    """For longer than the host takes to launch it, which is seen in a run before."""
    done = []
    device = torch.get_device_module("emulated")
    monkeypatch.setattr(device, "_sleep", lambda cycles: done.append(cycles / 2e9))
    monkeypatch.setattr(measure, "ALLOWED", [True, False])

    def slow():
        assert torch.backends.cudnn.allow_tf32
        done.append("slow")
        time.sleep(0.01)

    with torch.device("emulated"):
        assert measure.medians({"slow": slow}, 3) == {"slow": 1.0}  # its clock's
    assert not torch.backends.cudnn.allow_tf32
    launched = ["slow", "slow"] + ["busy", "slow"] * 3
    assert ["busy" if one != "slow" else one for one in done] == launched
    assert min(one for one in done if one != "slow") > 0.01


def test_a_device_is_not_kept_busy_for_ever_longer(emulated_devices, monkeypatch):
    """As where a side waits for the device, or launches more than its queue holds."""
    module, slept = torch.get_device_module("emulated"), [0.01]
    monkeypatch.setattr(module, "_sleep", lambda cycles: slept.append(cycles / 2e9))
    with torch.device("emulated"):
        measure.medians({"waits": lambda: time.sleep(slept[-1])}, 4)
        assert len(slept) == 5
        assert max(slept) < 2 * min(slept[1:])
        slept[:] = [0.2]
        measure.medians({"waits": lambda: time.sleep(slept[-1])}, 2)
        assert max(slept[1:]) <= measure.MOST_BUSY


@pytest.mark.parametrize("broken", [{"flow_conv"}, set(run.NAMES)], ids=["one", "all"])
def test_a_gpu_s_figures_have_a_folder_of_their_own(
    broken, monkeypatch, tmp_path, capsys
):
    """What is the CPU's is left out; what fails does not keep the rest from running."""
    tried = []

    def runs(command, env, **_):
        name = Path(command[1]).stem.removeprefix("bench_")
        tried.append(name)
        assert env["BENCH_DEVICE"] == "cuda"
        if name in broken:
            raise subprocess.CalledProcessError(1, command)
        ratios = {"milliseconds": {"ours": 1.0}, "times_ours": {"ours": 1, "a": 2.0}}
        sizes = {"T": 1, "L": 1, "mebibytes": {"ours": 1.0}}
        along = [{"along": k, **sizes} for k in "TL"] if name == "scaling" else [{}]
        of = {"network": "HKO-7", "model": "MIM", "mode": "training step"}
        records = [{**of, **ratios, **one} for one in along]
        results = Path(command[command.index("--json") + 1])
        results.write_text(json.dumps({"machine": {}, "records": records}))

    def untouched(*_):
        raise AssertionError("a GPU's figures are in no document")

    monkeypatch.setattr(run, "gpu_to_use", lambda: True)
    monkeypatch.setattr(run, "put", untouched)
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr("results_folder.HERE", tmp_path)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(subprocess, "run", runs)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    for name in run.NAMES:
        (tmp_path / f"bench_{name}.py").write_text('"""A benchmark."""')
    with pytest.raises(SystemExit, match=f"failed: .*{min(broken)}"):
        run.main()
    assert tried == [
        one for one in run.NAMES if one not in run.ON_CPU_ALONE | {"skill"}
    ]
    said = capsys.readouterr().out
    assert "bench_conv.py runs on the CPU alone: left out" in said
    assert "# Benchmarks\n" in said  # the report, for the file that is sent in
    results = tmp_path / "results-nvidia-h200"
    assert {one.stem for one in results.glob("*.json")} == {*tried} - broken
    assert (results / "README.md").exists()


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


@pytest.fixture
def compare(monkeypatch):
    """The comparison of trained networks, of one step and small frames."""
    module = importlib.import_module("bench_compare")
    sizes = SMALL["compare"](module) | {"STEPS": 1, "SEEDS": 1, "CROPS": 6}
    for name, value in sizes.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(module, "peak_mib", step_in_this_process)
    return module


def test_compared_networks_are_equal():
    """In their numbers of parameters, which are those of the networks as trained."""
    module = importlib.import_module("bench_compare")
    counts = []
    for kind in module.NAMES:
        training = module.in_training(kind, 0, 1, 2, module.HKO7)
        counts.append(sum(one.numel() for one in training.net.parameters()))
        assert counts[-1] == module.parameters(kind, module.equal_widths(kind))
    assert max(counts) <= (1 + module.MARGIN) * min(counts)
    assert module.MARGIN <= 0.03
    nearer = module.parameters("conv_gru", module.FEATURES)
    assert nearer > (1 + module.MARGIN) * min(counts), "equal widths would do"


def test_compared_networks_see_the_same_batches(compare, monkeypatch):
    """For a seed all the same ones, in the same order; for another others."""
    seen = []
    monkeypatch.setattr(
        compare.Training,
        "_step",
        lambda _, net, past, *rest: seen.append(past.clone()) or past.sum(),
    )
    task = compare.digits()
    for kind, seed in [*((kind, 0) for kind in compare.NAMES), ("traj_gru", 1)]:
        compare.trained(task, kind, seed, 1)
    assert all(torch.equal(seen[0], one) for one in seen[1:3])
    assert not torch.equal(seen[0], seen[3])


def test_a_comparison_scores_forecasts(compare):
    """What is scored is the forecast: the perfect one scores best, a dry one worst."""
    task = compare.digits()
    came = {case.past.data_ptr(): case.came for case in task.cases}
    perfect = compare.scored(task, lambda past: came[past.data_ptr()])
    assert perfect["mse"] == 0
    assert perfect["csi"] == perfect["csi_last"] == [1.0] * 3
    dry = compare.scored(task, lambda past: torch.zeros_like(came[past.data_ptr()]))
    assert dry["mse"] > 0
    assert dry["csi"] == [0.0] * 3


def test_comparison_on_rain(compare, radar_frames, monkeypatch, tmp_path):
    """What is tested is not trained on, nor what was within a day of it."""
    (given,) = compare.recordings([radar_frames], [])
    with pytest.raises(SystemExit, match="of another day"):
        compare.rain([radar_frames, radar_frames], 1)
    parts = {"other": given[1].between(*given[1].times[[0, 16]])}
    parts["tested"] = given[1].between(*given[1].times[[20, 39]])
    monkeypatch.setattr(
        compare, "recordings", lambda paths, _: [(p.name, parts[p.name]) for p in paths]
    )
    with pytest.raises(SystemExit, match="of another day"):
        compare.rain([Path("tested"), Path("other")], 1)
    days = np.timedelta64(3, "D")
    parts["other"] = replace(parts["other"], times=parts["other"].times + days)
    results = tmp_path / "compare.json"
    options = ["tested", "other", "--starts", "1", "--rounds", "1", "--threads", "1"]
    options += ["--steps", "1", "--seeds", "1", "--json", str(results)]
    monkeypatch.setattr(sys, "argv", ["bench_compare.py", *options])
    compare.main()
    records = json.loads(results.read_text())["records"]
    assert [one["data"] for one in records] == ["digits", "rain"]
    assert records[1]["trained_on"] == ["other"]
    table = run.report(tmp_path, tmp_path)[run.COMPARED]
    assert "| rain, TrajGRU | 210,040 | " in table
    assert "rain, extrapolation" in table


def test_intervals_of_a_comparison():
    """Student's, of three seeds: 4.303 times the mean's standard error."""
    assert compare_table.figure([1.0, 2.0, 3.0]) == "2.000 ± 2.484"
    assert compare_table.figure([1.0]) == "1.000"


def test_a_comparison_scores_what_all_forecasts_know(compare, radar_frames):
    """Where the past is unknown, what is carried on from there is for none."""
    (_, series), *_ = compare.recordings([radar_frames], [])

    class Part:
        archive, times, shape = series.archive, series.times, (40, 64, 64)

        def __init__(self, unknown):
            self.unknown = unknown

        def __getitem__(self, part):
            frames = series[part][:, 200:264, 200:264].clone()
            frames[:, 20:40, 20:40] = self.unknown
            return frames

    (whole,), (holed,) = (compare.rain_cases(Part(x), 6, 1) for x in (0.5, torch.nan))
    assert holed.mask.sum() < whole.mask.sum()
    for make in compare.BASELINES.values():
        made = make(holed.past, 6, series.archive.zr)
        assert not made[holed.mask].isnan().any()


def test_differences_are_of_pairs_of_one_seed():
    """The first side less the second, and an interval of these."""
    trainings = {
        "traj_gru": [{"csi": [0.5]}, {"csi": [0.7]}],
        "conv_gru": [{"csi": [0.4]}, {"csi": [0.5]}],
    }
    record = {"trainings": trainings, "untrained": {"persistence": {"csi": [0.1]}}}
    rows = dict(compare_table.sides(record, lambda one: one["csi"], [3]))
    assert rows["persistence"] == ["0.100"]
    assert rows["TrajGRU less ConvGRU"] == ["+0.150 ± 0.635"]
