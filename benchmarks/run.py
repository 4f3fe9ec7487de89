"""Runs all benchmarks, and makes one report of them: tables and two plots.

Each benchmark writes `results/<name>.json`, with the machine and its rates; from all of
these come `results/README.md`, the plots in `docs/pictures`, the table of whole models
in the README, that of all benchmarks in `docs/performance.md` and those of trained
networks in `docs/models_compared.md`. On a machine with a GPU that the kernels were
built for, the benchmarks run there (not yet done).
"""

import argparse
import functools
import json
import math
import operator
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import compare_table
import matplotlib as mpl
from results_folder import results_folder

from trajgru_ext.check import why_not

mpl.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
ROOT = HERE.parent
NAMES = sorted(p.stem.removeprefix("bench_") for p in HERE.glob("bench_*.py"))
# Of operators that only the CPU has, or of networks that are trained there.
ON_CPU_ALONE = {"compare", "conv"}
# Of radar frames, which are no part of the repository, and what makes them quick.
ON_RADAR = {
    "compare": ["--rounds", "1", "--steps", "2", "--seeds", "1", "--starts", "1"],
    "skill": ["--starts", "2"],
}
MODES = ("forward", "forward+backward", "training step")
# What a record holds beside the words that say what was measured.
FIGURES = ("milliseconds", "times_ours", "mebibytes", "errors", "of_sgemm")
SHOWN = (0, 2, 5)  # of the lead times of forecasts
BEGIN, END = "<!-- from benchmarks/run.py -->\n", "<!-- end -->\n"
README, PERFORMANCE = "README.md", "docs/performance.md"
COMPARED = "docs/models_compared.md"

Record = dict[str, Any]


@functools.cache
def gpu_to_use() -> bool:
    """Whether the benchmarks run on a GPU."""
    return not why_not("cuda")


def run(name: str, results: Path, options: argparse.Namespace) -> None:
    """Run one benchmark in a process of its own."""
    command = [sys.executable, HERE / f"bench_{name}.py"]
    command += ["--json", results / f"{name}.json"]
    if name in ON_RADAR:
        command += options.radar + (ON_RADAR[name] if options.quick else [])
    elif options.quick:
        command += ["--rounds", "1"]
    device = "cuda" if gpu_to_use() else "cpu"
    environment = os.environ | {"BENCH_DEVICE": device}
    subprocess.run([*map(str, command)], check=True, env=environment)


def what(record: Record) -> str:
    """The words of a record."""
    said = (
        v for k, v in record.items() if k not in FIGURES and not isinstance(v, float)
    )
    lists = ("×".join(map(str, v)) if isinstance(v, list) else str(v) for v in said)
    return ", ".join(lists)


def flat(figures: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Figures that may be grouped, by one name each."""
    found: dict[str, float] = {}
    for name, value in figures.items():
        title = f"{prefix}{name}"
        found |= flat(value, f"{title} ") if isinstance(value, dict) else {title: value}
    return found


def markdown(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table."""
    lines = [list(columns)]
    lines += [["---"] * len(lines[0]), *map(list, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines) + "\n"


def tables(records: list[Record]) -> Iterator[str]:
    """Our milliseconds, how many times as long the others take, our share of sgemm.

    Then memory.
    """
    timed = [r for r in records if "times_ours" in r]
    sides = list(
        dict.fromkeys(s for r in timed for s in r["times_ours"] if s != "ours")
    )
    if timed:
        shared = any("share_of_sgemm" in r for r in timed)
        columns = ["", "ours, ms", *(f"{side}, times" for side in sides)]
        rows = []
        for r in timed:
            row = [what(r), f"{r['milliseconds']['ours']:.3g}"]
            others = r["times_ours"]
            row += [f"{others[s]:.2f}" if s in others else "" for s in sides]
            share = r.get("share_of_sgemm", math.nan)
            rows.append([*row, f"{share:.0%}"] if shared else row)
        yield markdown([*columns, "share of sgemm"] if shared else columns, rows)
    weighed = [(what(r), flat(r["mebibytes"])) for r in records if "mebibytes" in r]
    names = list(dict.fromkeys(name for _, figures in weighed for name in figures))
    if weighed:
        yield markdown(
            ["MiB of a training step", *names],
            (
                [title, *(f"{of[n]:.0f}" if n in of else "" for n in names)]
                for title, of in weighed
            ),
        )


def skill_tables(records: list[Record]) -> Iterator[str]:
    """CSI of each side at some lead times, and how long each takes."""
    those = [r for r in records if "skill" in r]
    sides = list(dict.fromkeys(side for r in those for side in r["skill"]))
    rows, slow = [], []
    for r in those:
        title = f"{r['event']}, {r['starts']} starts, {r['pixels']}"
        for k, threshold in enumerate(r["thresholds_mm_h"]):
            row = [f"{title}, {threshold:g} mm/h"]
            for side in sides:
                scores = r["skill"].get(side)
                csi = [scores["csi"][m][k] for m in SHOWN] if scores else []
                row.append(" / ".join(f"{one:.3f}" for one in csi))
            rows.append(row)
        each = [r["seconds"].get(side, {}) for side in sides]
        words = [", ".join(f"{k} {v:.2f}" for k, v in one.items()) for one in each]
        size = "×".join(map(str, r["size"]))
        slow.append([f"{r['event']}, {size}", *words])
    for kind, size in dict.fromkeys((r["pixels"], tuple(r["size"])) for r in those):
        of = [r for r in those if (r["pixels"], tuple(r["size"])) == (kind, size)]
        if len(of) == 1:
            continue
        for k, threshold in enumerate(of[0]["thresholds_mm_h"]):
            row = [f"mean of {len(of)} events, {kind}, {threshold:g} mm/h"]
            for side in sides:
                csi = [r["skill"][side]["csi"] for r in of if side in r["skill"]]
                means = [sum(one[m][k] for one in csi) / len(csi) for m in SHOWN]
                row.append(" / ".join(f"{one:.3f}" for one in means))
            rows.append(row)
    if those:
        minutes = " / ".join(f"+{those[0]['minutes'][m]}" for m in SHOWN)
        yield markdown([f"CSI, {minutes} min", *sides], rows)
        yield markdown(["seconds", *sides], slow[::2])
    yield from (ahead_table(r) for r in records if "csi_ahead" in r)


def ahead_table(record: Record) -> str:
    """By how much the network is ahead of the best of all others, by lead time."""
    rows = []
    for k, threshold in enumerate(record["thresholds_mm_h"]):
        kinds = [("CSI", "csi", (k,))]
        for s, scale in enumerate(record["fss_km"]):
            kinds.append((f"FSS {scale} km", "fss", (k, s)))
        for title, score, place in kinds:
            mean, least, low, high = (
                [reduce(operator.getitem, place, lead) for lead in of]
                for of in (
                    record[f"{score}_ahead"],
                    record[f"{score}_ahead_least"],
                    *record[f"{score}_ahead_interval"],
                )
            )
            cells = [
                f"{mean[m]:+.3f} ({low[m]:+.3f} to {high[m]:+.3f}; {least[m]:+.3f})"
                for m in range(len(mean))
            ]
            rows.append([f"{threshold:g} mm/h, {title}", *cells])
    title = f"{record['events']} events, {record['pixels']}"
    return markdown([title, *(f"+{m} min" for m in record["minutes"])], rows)


def compare_tables(one: dict[str, Any]) -> str:
    """Of networks that were trained alike."""
    return "".join(
        f"{text}\n\n{markdown(columns, rows)}"
        for text, columns, rows in compare_table.tables(one)
    )


def ratios(records: list[Record], mode: str) -> list[float]:
    """How many times ours the first other side takes, in each case."""
    found = []
    for record in records:
        if record.get("mode") == mode and "times_ours" in record:
            others = [v for side, v in record["times_ours"].items() if side != "ours"]
            found += others[:1]
    return found


def mean(values: list[float]) -> float:
    """The geometric mean."""
    return math.exp(sum(map(math.log, values)) / len(values))


def summary(reports: dict[str, list[Record]]) -> str:
    """For each benchmark the mean ratio, and the least and largest."""
    rows = []
    for name, records in reports.items():
        found = [ratios(records, mode) for mode in MODES]
        each = [
            f"{mean(r):.1f} ({min(r):.1f} to {max(r):.1f})" if r else "" for r in found
        ]
        if any(each):
            inference, training, step = each
            rows.append([f"`{name}`", inference, training or step])
    return markdown(["", "inference", "training"], rows)


def whole_models(reports: dict[str, list[Record]]) -> str:
    """For each model the ratios, and a training step's memory as a share."""
    found: dict[str, dict[str, str]] = {}
    for kind in ("network", "model"):
        for record in reports.get(f"{kind}s", []):
            row = found.setdefault(record[kind], {})
            if mebibytes := record.get("mebibytes"):
                other = next(v for side, v in mebibytes.items() if "ours" not in side)
                share = mebibytes['ours, recompute="none"'] / other
                row["memory"] = f"{share:.0%}"
            elif each := ratios([record], record["mode"]):
                row[record["mode"]] = f"{each[0]:.1f}"
    columns = ("forward", "training step", "memory")
    rows = ([name, *(row.get(c, "") for c in columns)] for name, row in found.items())
    return markdown(["", "inference", "training", "memory in training"], rows)


def plot_ratios(reports: dict[str, list[Record]], file: Path) -> None:
    """A bar a benchmark and mode, a dot a case."""
    bars = []
    for name, records in reports.items():
        for mode in MODES:
            if found := ratios(records, mode):
                bars.append((f"{name}, {mode}", found))
    figure, axes = plt.subplots(figsize=(7, 0.3 * len(bars) + 0.8))
    for k, (_, found) in enumerate(bars):
        axes.barh(k, mean(found), color="tab:blue", alpha=0.5)
        axes.plot(found, [k] * len(found), ".", color="tab:blue")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(bars)), [title for title, _ in bars])
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.invert_yaxis()
    axes.set_xlabel("time of the published or eager PyTorch code / ours")
    figure.savefig(file, dpi=110, bbox_inches="tight")
    plt.close(figure)


def plot_scaling(records: list[Record], file: Path) -> None:
    """Time and memory against T and L."""
    figure, grid = plt.subplots(2, 2, figsize=(8, 5), sharex="col", squeeze=False)
    for column, along in enumerate(("T", "L")):
        those = [r for r in records if r["along"] == along]
        for row, kind in enumerate(("milliseconds", "mebibytes")):
            for side in those[0][kind]:
                points = [r[kind][side] for r in those]
                grid[row][column].plot(
                    [r[along] for r in those], points, ".-", label=side
                )
            grid[row][column].set_ylim(bottom=0)
            grid[row][0].set_ylabel(kind)
        grid[1][column].set_xlabel({"T": "steps T", "L": "links L"}[along])
    grid[0][0].legend()
    figure.savefig(file, dpi=110, bbox_inches="tight")
    plt.close(figure)


def report(results: Path, plots: Path) -> dict[str, str]:
    """Write the tables and plots of what is in the folder; the tables of documents."""
    files = sorted(results.glob("*.json"))
    loaded = {file.stem: json.loads(file.read_text()) for file in files}
    reports = {name: one["records"] for name, one in loaded.items()}
    text = "# Benchmarks\n\nMade by `python benchmarks/run.py`. Times are medians of "
    text += (
        "interleaved rounds; `times` is how many times as long as ours a side takes.\n"
    )
    for name, one in loaded.items():
        doc = (HERE / f"bench_{name}.py").read_text().split('"""')[1].strip()
        facts = ", ".join(
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
            for k, v in one["machine"].items()
        )
        text += f"\n## {name}\n\n{doc}\n\n{facts}.\n\n" + "".join(
            [
                *tables(one["records"]),
                *skill_tables(one["records"]),
                compare_tables(one),
            ]
        )
    (results / "README.md").write_text(text.rstrip() + "\n")
    plot_ratios(reports, plots / "ratios.png")
    if "scaling" in reports:
        plot_scaling(reports["scaling"], plots / "scaling.png")
    made = {README: whole_models(reports), PERFORMANCE: summary(reports)}
    if "compare" in loaded:
        made[COMPARED] = compare_tables(loaded["compare"])
    return made


def put(table: str, document: Path) -> None:
    """Replace the table between the marks of a document."""
    between = f"({re.escape(BEGIN)}).*?({re.escape(END)})"
    text, marks = re.subn(
        between, rf"\g<1>{table}\g<2>", document.read_text(), flags=re.DOTALL
    )
    if marks != 1:
        raise SystemExit(f"{document} must have one {BEGIN.strip()}, not {marks}")
    document.write_text(text)


def main() -> None:
    """Run what is asked for; report what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=NAMES, help="these alone")
    parser.add_argument("--quick", action="store_true", help="one round of each")
    parser.add_argument(
        "--no-run", action="store_true", help="report what was measured"
    )
    parser.add_argument("--results", type=Path, default=results_folder(gpu_to_use()))
    parser.add_argument(
        "--radar",
        nargs="+",
        help="of bench_skill.py, and of bench_compare.py, which tests on the first: "
        "folders of frames, an .npz",
    )
    parser.add_argument(
        "--gpu", action="store_true", help="fail where there is none to measure"
    )
    options = parser.parse_args()
    if options.gpu and not gpu_to_use():
        raise SystemExit(f"no GPU to measure: {why_not('cuda')}")
    options.results.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in [] if options.no_run else options.only or NAMES:
        if gpu_to_use() and name in ON_CPU_ALONE:
            print(f"bench_{name}.py runs on the CPU alone: left out", flush=True)
            continue
        if name in ON_RADAR and not options.radar:
            print(f"bench_{name}.py wants radar frames, --radar: left out", flush=True)
            continue
        try:
            run(name, options.results, options)
        except subprocess.CalledProcessError as error:
            print(f"bench_{name}.py failed: {error}", flush=True)
            failed.append(name)
    kept = options.results == HERE / "results"
    plots = ROOT / "docs" / "pictures" if kept else options.results
    for document, table in report(options.results, plots).items():
        print(table)
        if kept:
            put(table, ROOT / document)
    if gpu_to_use():
        print((options.results / "README.md").read_text())
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
