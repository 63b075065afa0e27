"""`vldistill report`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vldistill.artifacts import write_files
from vldistill.commands.output import console, last_line, plan_table
from vldistill.errors import InputError

WIDEST = 120
"""Columns that a table takes, folded by the terminal where it has fewer."""
PAGE, MARKDOWN, LATEX, CSV = "report.html", "tables.md", "tables.tex", "tables.csv"


def report_command(
    sources: Sequence[Path], *, out: Path | None, title: str, samples: int, dry_run: bool, overwrite: bool
) -> None:
    """Prints the tables, and writes page and tables where `out` names a folder; the last line of standard output is JSON."""
    from vldistill.evaluation.report.build import build_report
    from vldistill.evaluation.report.tables import note_of, text_table, to_csv, to_latex, to_markdown

    written = [PAGE, MARKDOWN, LATEX, CSV]
    if out is not None:
        _check_out(out, written, overwrite)
    report = build_report(sources, title=title, samples=0 if out is None or dry_run else samples)
    if dry_run:
        groups = [group for task in report.tasks for group in task.groups]
        console.print(plan_table("report", {
            "runs": report.told, "groups": ", ".join(group.name for group in groups),
            "writes": ", ".join(str(out / name) for name in written) if out else "nothing: name a folder with --out"}))
        return
    tables = [(task.title, text_table(task.grid), task.grid) for task in report.tasks]
    wide = Console(width=max(console.width, WIDEST))
    for name, table, grid in tables:
        wide.print(_terminal(name, table))
        if grid.sources:
            console.print(f"  published: {'; '.join(grid.sources)}", style="dim", highlight=False, markup=False)
    if any(grid.rows for _, _, grid in tables):
        console.print(f"  {note_of(grid for _, _, grid in tables)}\n", style="dim", highlight=False, markup=False)
    _shifts(report.shifts)
    for problem in report.problems:
        console.print(f"  not counted: {problem}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    for remark in report.remarks:
        console.print(f"  note: {remark}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    summary = {"runs": sum(len(group.runs) for task in report.tasks for group in task.groups), "problems": len(report.problems)}
    if out is None:
        last_line(summary)
        return
    from vldistill.evaluation.report.page import report_page

    started = time.perf_counter()
    page = report_page(report)
    write_files({
        out / MARKDOWN: "\n".join(f"## {name}\n\n{to_markdown(table)}" for name, table, _ in tables),
        out / LATEX: "\n".join(f"% {name}\n{to_latex(table)}" for name, table, _ in tables),
        out / CSV: "".join(to_csv(grid, name, head=not place) for place, (name, _, grid) in enumerate(tables)),
        out / PAGE: page,
    })
    told = f"{len(page) / 1e6:.1f} MB, {time.perf_counter() - started:.1f} s"
    console.print(f"wrote {out / PAGE} ({told}), {MARKDOWN}, {LATEX}, {CSV}", highlight=False, markup=False, soft_wrap=True)
    last_line({"report": str(out / PAGE), **summary})


def _check_out(out: Path, written: list[str], overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise InputError("is a file, a folder was expected", where=str(out), hint="choose another name")
    if not overwrite and (there := next((out / name for name in written if (out / name).exists()), None)):
        raise InputError("already exists", where=str(there), hint="pass --overwrite, or another folder")


def _terminal(title: str, text) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name, numeric in zip(text.head, text.numeric, strict=True):
        table.add_column(Text(name), justify="right" if numeric else "left", overflow="fold",
                         style="dim" if name == "paper" else "")
    for row in text.rows:
        table.add_row(*map(Text, row))
    return table


def _shifts(shifts) -> None:
    if not shifts:
        return
    wide = Console(width=max(console.width, WIDEST))
    table = Table(title="attention of [CLS] on vision and text, before and after training", title_justify="left", box=None,
                  pad_edge=False)
    table.add_column("run")
    for name in ("vision", "text", "gap", "-> vision", "text", "gap"):
        table.add_column(name, justify="right")
    for shift in shifts:
        cells = [cell for found in (shift.before, shift.after)
                 for cell in (["–"] * 3 if found is None
                              else [f"{found.vision:.4f}", f"{found.text:.4f}", f"{found.gap:+.4f}"])]
        table.add_row(Text(shift.name), *cells)
    wide.print(table)
    wide.print()
