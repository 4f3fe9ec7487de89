"""Plots of scores by lead time, and of reliability."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from trajgru_ext.nowcasting.verification import Verification

SHOWN = ("csi", "far", "fss")


def plot(found: Mapping[str, Verification], path: Path) -> None:
    """Write a PNG: scores by lead time, with intervals; reliability of ensembles."""
    scores = {name: one.compute() for name, one in found.items()}
    intervals = {name: one.intervals() for name, one in found.items()}
    ensembles = {name: one for name, one in scores.items() if "crps" in one}
    thresholds = next(iter(found.values())).thresholds
    rows = len(SHOWN) + bool(ensembles)
    size = (3 * len(thresholds), 2.6 * rows)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, len(thresholds), squeeze=False)
    for n, (row, score) in enumerate(zip(panels, SHOWN, strict=False)):
        for k, (panel, threshold) in enumerate(zip(row, thresholds, strict=True)):
            at = (slice(None), k, 2) if score == "fss" else (slice(None), k)
            for name, values in scores.items():
                line = values[score][at]
                leads = range(1, len(line) + 1)
                [drawn] = panel.plot(leads, line, label=name)
                if score in intervals[name]:
                    low, high = (end[at].numpy() for end in intervals[name][score])
                    panel.fill_between(
                        leads, low, high, alpha=0.2, color=drawn.get_color()
                    )
            panel.set(ylim=(0, 1), title="" if n else f"{threshold:g} mm/h")
        row[0].set_ylabel(score.upper() + (" of 16 pixels" if score == "fss" else ""))
    for k, panel in enumerate(panels[-1] if ensembles else []):
        for name, values in ensembles.items():
            probability = values["reliability_probability"][k]
            panel.plot(
                probability, values["reliability_frequency"][k], marker="o", label=name
            )
        panel.plot([0, 1], [0, 1], color="#999999", linewidth=1)
        panel.set(xlim=(0, 1), ylim=(0, 1), xlabel="forecast probability")
    if ensembles:
        panels[-1][0].set_ylabel("how often it came")
    panels[0][0].legend(fontsize=8)
    figure.supxlabel("frames ahead", fontsize=10)
    figure.savefig(path, dpi=90)
