"""The quickstart's table and picture, from what its runs left on disk: python bin/quickstart_summary.py FOLDER"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from vldistill.terminal import Table, show

METHODS = {
    "hard": ("hard labels", "#c44e52", 5.0),
    "soft": ("soft labels", "#dd8452", 2.0),
    "soft_attention": ("soft labels + cross-modal attention", "#4c72b0", 2.0),
}
"""What the table and the legend call each run, its colour, and its line's width (the two at chance lie on each other)."""


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def curve(run: Path) -> tuple[list[int], list[float]]:
    """Validation accuracy by optimiser step."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if row["split"] == "val"]
    return [row["step"] for row in rows], [row["accuracy"] for row in rows]


def main(folder: Path) -> None:
    teacher = folder / "runs/quickstart_teacher/default/seed0"
    teacher_test = read_json(teacher / "eval/test/metrics.json")["accuracy"]
    teacher_val = read_json(teacher / "manifest.json")["best"]["accuracy"]
    runs = {name: sorted((folder / "runs/quickstart_dide" / name).glob("seed*")) for name in METHODS}

    table = Table("trained with", title="Toy world, comparing two images: test accuracy (chance 50 %)")
    table.figures("accuracy %", "of teacher's", "seeds", "s/run")
    table.add_row("teacher, hard labels", f"{100 * teacher_test:.1f}", "100.0 %", "1",
                  f"{read_json(teacher / 'manifest.json')['wall_s']:.0f}")
    table.add_section()
    for name, (label, *_) in METHODS.items():
        scores = [100 * read_json(run / "eval/test/metrics.json")["accuracy"] for run in runs[name]]
        seconds = statistics.mean(read_json(run / "manifest.json")["wall_s"] for run in runs[name])
        shown = f"{statistics.mean(scores):.1f}" + (f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else "")
        table.add_row(f"student, {label}", shown, f"{statistics.mean(scores) / teacher_test:.1f} %", str(len(scores)),
                      f"{seconds:.0f}")
    show(table)
    bench = read_json(folder / "bench.json")
    cached = next(row for row in bench["rows"] if row["variant"] == "dual, images cached")
    print(f"cached images: {cached['speedup']:.1f}x the speed of stock ViLT at this size (FLOP limit {cached['limit']:.1f}x), "
          f"batch {cached['batch']}, {bench['device']}")

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for name, (label, colour, width) in METHODS.items():
        for index, run in enumerate(runs[name]):
            axes.plot(*curve(run), color=colour, marker="o", markersize=4, linewidth=width, alpha=0.8,
                      label=label if index == 0 else None)
    axes.axhline(teacher_val, color="black", linestyle="--", linewidth=1.2, label="fusion teacher")
    axes.axhline(0.5, color="grey", linestyle=":", linewidth=1.2, label="chance")
    axes.set(xlabel="optimiser steps", ylabel="validation accuracy", ylim=(0.4, 1.02), title="Dual encoders of equal budget")
    axes.grid(alpha=0.25)
    # To the right, between the lines at chance and the one that climbs, there is nothing.
    axes.legend(loc="center right", bbox_to_anchor=(1.0, 0.34), fontsize=9, frameon=False)
    figure.savefig(folder / "quickstart.png", dpi=150)
    print(f"picture: {(folder / 'quickstart.png').resolve()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
