"""The benchmarks' report, of the figures that are kept."""

import json
import shutil
from pathlib import Path

import run

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
    summary = run.report(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "cores 2, copy, GB/s 12.35." in text
    assert "| T, 2 | 4 |" in text
    for file in KEPT.glob("*.json"):
        assert f"## {file.stem}\n" in text
        for record in json.loads(file.read_text())["records"]:
            for ratio in record.get("times_ours", {"ours": 1}).values():
                assert ratio == 1 or f"| {ratio:.2f} |" in text
    assert "| `flow_warp` | " in summary
    for name in ("ratios.png", "scaling.png"):
        assert (tmp_path / name).stat().st_size > 10_000


def test_means():
    records = [
        {"mode": "forward", "times_ours": {"ours": 1.0, "a": a, "b": 9.0}}
        for a in (1, 4)
    ]
    assert run.ratios([*records, {"mode": "memory"}], "forward") == [1, 4]
    assert run.mean([1.0, 4.0]) == 2
