"""`vldistill analyze`: what a run attends to, as a page or a picture beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vldistill.artifacts import RUN_STAGES, find_run, read_manifest, write_bytes
from vldistill.commands.output import console, last_line, plan_table
from vldistill.data.artifact import DataArtifact
from vldistill.data.records import Record
from vldistill.errors import InputError
from vldistill.evaluation.evaluate import load_data
from vldistill.recipe import load_recipe
from vldistill.schema import Recipe

PAGE, PICTURE = ".html", ".png"


@dataclass(frozen=True)
class Subject:
    """What is analysed. records: of the split, to draw from."""

    folder: Path
    recipe: Recipe
    data: DataArtifact
    split: str
    records: list[Record]


def analyze_command(
    run: str, *, words: bool, data: Path | None, split: str, samples: int, out: Path | None, dry_run: bool, overwrite: bool
) -> None:
    """Writes one view of a run; the last line of standard output is JSON."""
    view = next((name for name, wanted in {"words": words}.items() if wanted), None)
    if view is None:
        raise InputError("nothing to show", hint=f"say what: {', '.join(f'--{name}' for name in VIEWS)}")
    if out is not None:
        _check_out(out, overwrite)
    subject = _open(run, data, split)
    check, draw = VIEWS[view]
    check(subject)
    target = out or subject.folder / "figures" / f"{view}{PAGE}"
    if dry_run:
        shown = f"{min(samples, len(subject.records)):,} of {len(subject.records):,} records"
        console.print(plan_table(f"analyze {run}", {"data": f"{subject.data.folder}, {split}: {shown}", "writes": str(target)}))
        return
    content, summary = draw(subject, samples, target.suffix)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(target, content)
    console.print(f"wrote {target}", highlight=False, markup=False, soft_wrap=True)
    last_line({"figure": str(target), **summary})


def _check_out(out: Path, overwrite: bool) -> None:
    if out.suffix not in (PAGE, PICTURE):
        raise InputError(f"ends neither in {PAGE} nor in {PICTURE}", where=str(out), hint="choose another name")
    if out.exists() and not (overwrite and out.is_file()):
        raise InputError("already exists", where=str(out), hint="pass --overwrite, or another name")


def _open(run: str, data: Path | None, split: str) -> Subject:
    folder = find_run(Path(run))
    if not folder.exists():
        raise InputError("no such run", where=run, hint="name a folder that `vldistill distill` made")
    read_manifest(folder, RUN_STAGES, make_it="vldistill distill, with --overwrite")
    recipe, artifact = load_recipe(str(folder / "recipe.yaml")), load_data(data, run)
    # A recipe's types and part are of the data that it names.
    kept: dict[str, Any] = {"types": recipe.data.types, "part": recipe.data.part} if data is None else {}
    return Subject(folder, recipe, artifact, split, artifact.records(split, **kept))


def _check_words(subject: Subject) -> None:
    from vldistill.evaluation.words import check_selects_words

    check_selects_words(subject.recipe, subject.folder)


def _draw_words(subject: Subject, samples: int, suffix: str) -> tuple[bytes, dict[str, Any]]:
    from vldistill.evaluation.words import view_words

    view = view_words(subject.folder, subject.recipe, subject.data, subject.records, subject.split, samples)
    summary = {"samples": len(view.samples), "from_cache": view.stored}
    if suffix == PICTURE:
        from vldistill.evaluation.words_figure import words_figure

        return words_figure(view), summary
    from vldistill.evaluation.words_page import words_page

    return words_page(view).encode(), summary


VIEWS = {"words": (_check_words, _draw_words)}
"""By option: a check that refuses a run which has no such view, and what draws it (its bytes, and a summary for scripts)."""
