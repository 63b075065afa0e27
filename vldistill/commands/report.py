"""`vldistill report`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from vldistill.commands.options import DryRun, Overwrite
from vldistill.commands.output import last_line, show_plan
from vldistill.errors import InputError
from vldistill.terminal import Table, say, show

PAGE, MARKDOWN, LATEX, CSV = "report.html", "tables.md", "tables.tex", "tables.csv"


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Runs, or folders that hold runs.", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder for the page and the tables.")] = None,
    title: Annotated[str, typer.Option("--title", metavar="TEXT", help="Title of the page.")] = "Distillation runs",
    samples: Annotated[int, typer.Option("--samples", min=0, metavar="N", help="Sample predictions of each data set.")] = 8,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Put finished runs beside each other and the papers."""
    from vldistill.evaluation.report.build import build_report
    from vldistill.evaluation.report.tables import note_of, text_table, to_csv, to_latex, to_markdown

    written = [PAGE, MARKDOWN, LATEX, CSV]
    if out is not None:
        _check_out(out, written, overwrite)
    contents = build_report(runs, title=title, samples=0 if out is None or dry_run else samples)
    if dry_run:
        groups = [group for task in contents.tasks for group in task.groups]
        show_plan(
            "report",
            {
                "runs": contents.summary,
                "groups": ", ".join(group.name for group in groups),
                "writes": ", ".join(str(out / name) for name in written) if out else "nothing: name a folder with --out",
            },
        )
        return
    tables = [(task.title, text_table(task.grid), task.grid) for task in contents.tasks]
    for name, table, grid in tables:
        show(_terminal(name, table))
        if grid.sources:
            say(f"  published: {'; '.join(grid.sources)}", style="dim")
    if any(grid.rows for _, _, grid in tables):
        say(f"  {note_of(grid for _, _, grid in tables)}\n", style="dim")
    _shifts(contents.shifts)
    for problem in contents.problems:
        say(f"  not counted: {problem}", style="yellow")
    for remark in contents.remarks:
        say(f"  note: {remark}", style="yellow")
    summary = {
        "runs": sum(len(group.runs) for task in contents.tasks for group in task.groups),
        "problems": len(contents.problems),
    }
    if out is None:
        last_line(summary)
        return
    from vldistill.artifacts import write_files
    from vldistill.evaluation.report.build import report_page

    started = time.perf_counter()
    page = report_page(contents)
    write_files(
        {
            out / MARKDOWN: "\n".join(f"## {name}\n\n{to_markdown(table)}" for name, table, _ in tables),
            out / LATEX: "\n".join(f"% {name}\n{to_latex(table)}" for name, table, _ in tables),
            out / CSV: "".join(to_csv(grid, name, head=not place) for place, (name, _, grid) in enumerate(tables)),
            out / PAGE: page,
        }
    )
    size = f"{len(page) / 1e6:.1f} MB, {time.perf_counter() - started:.1f} s"
    say(f"wrote {out / PAGE} ({size}), {MARKDOWN}, {LATEX}, {CSV}")
    last_line({"report": str(out / PAGE), **summary})


def _check_out(out: Path, written: list[str], overwrite: bool) -> None:
    from vldistill.places import check_writable

    if out.exists() and not out.is_dir():
        raise InputError("is a file, a folder was expected", where=str(out), hint="choose another name")
    check_writable(out)
    if not overwrite and (there := next((out / name for name in written if (out / name).exists()), None)):
        raise InputError("already exists", where=str(there), hint="pass --overwrite, or another folder")


def _terminal(title: str, text) -> Table:
    table = Table(title=title, box=None, pad_edge=False, header_style="bold")
    for name, numeric in zip(text.head, text.numeric, strict=True):
        (table.figures if numeric else table.words)(name, style="dim" if name == "paper" else "")
    for row in text.rows:
        table.add_row(*row)
    return table


def _shifts(shifts) -> None:
    if not shifts:
        return
    table = Table("run", title="attention of [CLS] on vision and text, before and after training", box=None, pad_edge=False)
    table.figures("vision", "text", "gap", "-> vision", "text", "gap")
    for shift in shifts:
        cells = [
            cell
            for one in (shift.before, shift.after)
            for cell in (["–"] * 3 if one is None else [f"{one.vision:.4f}", f"{one.text:.4f}", f"{one.gap:+.4f}"])
        ]
        table.add_row(shift.name, *cells)
    show(table)
    say()
