"""The benchmarks' report, of the figures that are kept."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import public_models
import pytest
import run
import torch

from ports import mim

KEPT = Path(run.__file__).parent / "results"


def test_report(tmp_path):
    for file in KEPT.glob("*.json"):
        shutil.copy(file, tmp_path)
    scaling = [
        {
            "along": along,
            along: n,
            "milliseconds": {"ours": n},
            "mebibytes": {"ours": 2 * n},
        }
        for along in "TL"
        for n in (1, 2)
    ]
    report = {"machine": {"cores": 2, "copy, GB/s": 12.345}, "records": scaling}
    (tmp_path / "scaling.json").write_text(json.dumps(report))
    tables = run.report(tmp_path, tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "cores 2, copy, GB/s 12.35." in text
    assert "| T, 2 | 4 |" in text
    for file in KEPT.glob("*.json"):
        assert f"## {file.stem}\n" in text
        for record in json.loads(file.read_text())["records"]:
            for ratio in record.get("times_ours", {"ours": 1}).values():
                assert ratio == 1 or f"| {ratio:.2f} |" in text
    assert "| `flow_warp` | " in tables[run.PERFORMANCE]
    assert re.search(r"^\| HKO-7( \| \d+\.\d){2} \| \d+% \|$", tables[run.README], re.M)
    for document, table in tables.items():
        assert (run.ROOT / document).read_text().count(run.BEGIN) == 1
        copied = tmp_path / "copied.md"
        copied.write_text(f"before\n{run.BEGIN}old\n{run.END}after\n")
        run.put(table, copied)
        assert copied.read_text() == f"before\n{run.BEGIN}{table}{run.END}after\n"
    for name in ("ratios.png", "scaling.png"):
        assert (tmp_path / name).stat().st_size > 10_000


def test_means():
    records = [
        {"mode": "forward", "times_ours": {"ours": 1.0, "a": a, "b": 9.0}}
        for a in (1, 4)
    ]
    assert run.ratios([*records, {"mode": "memory"}], "forward") == [1, 4]
    assert run.mean([1.0, 4.0]) == 2


def test_models(tmp_path):
    """Whole models at small sizes: every side is right, and the report has its row."""
    names = "ConvLSTM", "MIM", "Robust Video Matting"
    command = [sys.executable, Path(run.__file__).parent / "bench_models.py"]
    command += ["--small", "--no-memory", "--rounds", "1", "--threads", "1"]
    command += ["--json", tmp_path / "models.json", "--models", *names]
    subprocess.run([*map(str, command)], check=True, stdout=subprocess.DEVNULL)
    records = json.loads((tmp_path / "models.json").read_text())["records"]
    assert [(r["model"], r["mode"]) for r in records] == [
        (name, mode) for name in names for mode in ("forward", "training step")
    ]
    for record in records:
        first, *others = record["times_ours"].items()
        times = [v for side, v in others if not side.startswith("ours")]
        assert first == ("best other", min(times))
    tables = run.report(tmp_path, tmp_path)
    assert "| `models` | " in tables[run.PERFORMANCE]
    text = (tmp_path / "README.md").read_text()
    for name in names:
        assert f"| {name}, training step | " in text
        assert f"| {name} | " in tables[run.README]


def test_classes_of_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openstl.modules", None)
    monkeypatch.delitem(sys.modules, "openstl.modules")
    for folder in ("modules", "models"):
        (tmp_path / "openstl" / folder).mkdir(parents=True)
    for _, end, _ in public_models.OPENSTL.values():
        file = tmp_path / "openstl" / "modules" / f"{end}_modules.py"
        file.write_text(f"class Cell_{end}: pass\n")
    with pytest.raises(SystemExit, match=r"mim_model.py is not there"):
        public_models.published(tmp_path, "MIM")
    code = "from openstl.modules import Cell_mim, Cell_predrnn\n"
    code += "from ports.mim import MIM_Model as Ported\n"
    code += "class MIM_Model(Ported): parts = Cell_mim, Cell_predrnn\n"
    (tmp_path / "openstl" / "models" / "mim_model.py").write_text(code)
    model, arguments = public_models.model_and_arguments("MIM", True, tmp_path)
    assert [one.__name__ for one in model.parts] == ["Cell_mim", "Cell_predrnn"]
    port, same = public_models.model_and_arguments("MIM", True)
    assert type(port) is mim.MIM_Model
    pairs = zip(public_models.tensors(same), arguments, strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
