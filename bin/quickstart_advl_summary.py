"""The table and picture of `bin/quickstart --advl`, from what its runs left on disk:

    python bin/quickstart_advl_summary.py FOLDER
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from quickstart_advl import CONTROLS, MAPS, RECIPE, ROWS

from vldistill.terminal import Table, show

LABELS = {"baseline": "no distillation", "vision": "vision", "text": "text", "both": "vision + text",
          "confidence": "+ confidence", "words": "+ selected words", "two_step": "+ two-step",
          "untrained_words": "+ words, untrained teachers", "untrained_two_step": "+ two-step, untrained teachers"}
PAPER = {"baseline": 30.85, "vision": 34.24, "text": 35.96, "both": 36.78, "confidence": 37.21, "words": 38.28, "two_step": 40.43}
"""ADVL, Table 1: VL-BERT on VCR Q->A, 100 questions of each type, accuracy in percent."""
COLOURS = {"learned": "#dd8452", "anchored": "#4c72b0", "paper": "#9a9a9a"}


def accuracies(folder: Path, name: str) -> list[float]:
    """Test accuracy in percent of each seed, in order."""
    runs = sorted((folder / "runs" / RECIPE / name).glob("seed*"), key=lambda run: int(run.name.removeprefix("seed")))
    return [100 * json.loads((run / "eval/test/metrics.json").read_text(encoding="utf-8"))["accuracy"] for run in runs]


def spread(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def gains(values: list[float], baseline: list[float]) -> list[float]:
    """Points above the baseline of the same seed."""
    return [value - other for value, other in zip(values, baseline, strict=True)]


def shown(values: list[float], sign: str = "") -> str:
    mean, deviation = spread(values)
    return f"{mean:{sign}.1f}" + (f" ± {deviation:.1f}" if len(values) > 1 else "")


def main(folder: Path) -> None:
    baseline = accuracies(folder, "baseline")
    table = Table("", title=f"Toy world, 100 questions of each of 5 types: test accuracy %, {len(baseline)} seed(s)",
                  caption="gain: points above no distillation, by seed. paper: VL-BERT on VCR, 100 of each of 7 types.")
    table.figures("map learned", "gain", "map anchored", "gain", "paper", "gain")
    measured: dict[str, dict[str, list[float]]] = {kind: {} for kind in MAPS}
    for row in ROWS:
        cells = [shown(baseline), ""] * len(MAPS)
        if ROWS[row]:
            values = [accuracies(folder, f"{row}_{kind}") for kind in MAPS]
            cells = [cell for one in values for cell in (shown(one), shown(gains(one, baseline), "+"))]
            for kind, one in zip(MAPS, values, strict=True):
                measured[kind][row] = gains(one, baseline)
        paper = f"{PAPER[row] - PAPER['baseline']:+.2f}" if ROWS[row] else ""
        table.add_row(LABELS[row], *cells, f"{PAPER[row]:.2f}", paper)
    table.add_section()
    for name in CONTROLS:
        control = accuracies(folder, name)
        measured["anchored"][name] = gains(control, baseline)
        table.add_row(LABELS[name], "", "", shown(control), shown(measured["anchored"][name], "+"), "-", "")
    show(table)
    picture = folder / "quickstart-advl.png"
    draw(measured, len(baseline), picture)
    print(f"picture: {picture.resolve()}")


def draw(measured: dict[str, dict[str, list[float]]], seeds: int, picture: Path) -> None:
    """Bars of the gains, a group for each row; of the untrained teachers one, hatched."""
    rows = [row for row in ROWS if ROWS[row]]
    figure, axes = plt.subplots(figsize=(10, 4.6), layout="constrained")
    width, bars = 0.27, {"capsize": 2, "error_kw": {"linewidth": 1}}
    for offset, kind in enumerate(MAPS):
        means, deviations = zip(*(spread(measured[kind][row]) for row in rows), strict=True)
        axes.bar([place + (offset - 1) * width for place in range(len(rows))], means, width, color=COLOURS[kind],
                 yerr=deviations if seeds > 1 else None, label=f"toy world, map {kind}", **bars)
    axes.bar([place + width for place in range(len(rows))], [PAPER[row] - PAPER["baseline"] for row in rows], width,
             color=COLOURS["paper"], label="paper, VCR")
    means, deviations = zip(*(spread(measured["anchored"][name]) for name in CONTROLS), strict=True)
    axes.bar([len(rows) + place for place in range(len(CONTROLS))], means, width, color=COLOURS["anchored"], hatch="///",
             edgecolor="white", yerr=deviations if seeds > 1 else None, **bars)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(rows) + len(CONTROLS)), [LABELS[row] for row in (*rows, *CONTROLS)], rotation=18, ha="right")
    axes.set(ylabel="points above no distillation",
             title=f"ADVL's Table 1 in miniature, 100 of each type, {seeds} seed(s)")
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False, loc="upper right")
    figure.savefig(picture, dpi=150)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
