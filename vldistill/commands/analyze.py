"""`vldistill analyze`: what a run attends to, as a page or a picture beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vldistill.commands.options import DryRun, MaxPixels, OtherData, Overwrite
from vldistill.commands.output import last_line, show_plan
from vldistill.errors import InputError
from vldistill.terminal import say

if TYPE_CHECKING:
    from vldistill.data.artifact import DataArtifact
    from vldistill.data.records import Record
    from vldistill.recipe.schema.recipe import Recipe

PAGE, PICTURE = ".html", ".png"
QUERIES = ("cls", "all")


@dataclass(frozen=True)
class AnalysisRequest:
    """What to look at. before: a run to compare with. queries: whose attention, "cls" or "all". images, text: a sentence and its
    images, instead of the split's records. samples: records to read. max_pixels: of each of these images; None: MAX_PIXELS."""

    before: str | None
    queries: str
    images: list[Path]
    text: str | None
    samples: int
    max_pixels: int | None


@dataclass(frozen=True)
class AnalysisSubject:
    """What is analysed. data, records: of the split, to draw from."""

    folder: Path
    manifest: dict[str, Any]
    recipe: Recipe
    data: DataArtifact
    split: str
    records: list[Record]


@dataclass(frozen=True)
class Drawn:
    """page, picture: make it. summary: for scripts. table: figures to keep beside it, as JSON, or None."""

    page: Callable[[], str]
    picture: Callable[[], bytes]
    summary: dict[str, Any]
    table: dict[str, Any] | None = None


@dataclass(frozen=True)
class View:
    """draw: reads the models, and refuses one that has no such view. samples: records that are read by default. check: refuses a
    run before that. compares, sentence: whether it takes --before, and --image with --text."""

    draw: Callable[[AnalysisSubject, AnalysisRequest], Drawn]
    samples: int
    check: Callable[[AnalysisSubject], None] = lambda subject: None
    compares: bool = False
    sentence: bool = False


def analyze(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run folder.", show_default=False)],
    words: Annotated[bool, typer.Option("--words", help="ADVL: words shaded by their importance.")] = False,
    tokens: Annotated[bool, typer.Option("--tokens", help="Words shaded by the attention of [CLS].")] = False,
    modality: Annotated[bool, typer.Option("--modality", help="Attention on vision and on text, head by head.")] = False,
    attention: Annotated[bool, typer.Option("--attention", help="Words' attention over the image, and the teacher's.")] = False,
    before: Annotated[str | None, typer.Option("--before", metavar="RUN", help="tokens, modality: run to compare.")] = None,
    queries: Annotated[str, typer.Option("--queries", metavar="Q", help="modality: attention of cls, or all.")] = "cls",
    image: Annotated[list[Path] | None, typer.Option("--image", metavar="FILE", help="attention: an image of your own.")] = None,
    text: Annotated[str | None, typer.Option("--text", metavar="TEXT", help="attention: a sentence about it.")] = None,
    max_pixels: MaxPixels = None,
    data: OtherData = None,
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="Split to draw records from.")] = "val",
    samples: Annotated[
        int | None, typer.Option("--samples", min=1, metavar="N", help="Records to show (12; modality 256, attention 4).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="A .html or .png file, instead of RUN/figures/VIEW.*.")
    ] = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Show what a run attends to."""
    from vldistill.artifacts import json_text, sealed, write_files
    from vldistill.places import check_writable, refuse_links

    chosen = {"words": words, "tokens": tokens, "modality": modality, "attention": attention}
    names = [name for name, wanted in chosen.items() if wanted]
    if len(names) != 1:
        raise InputError(
            "several views at once" if names else "nothing to show", hint=f"say what: {', '.join(f'--{name}' for name in VIEWS)}"
        )
    name, view = names[0], VIEWS[names[0]]
    asked = AnalysisRequest(before, queries, image or [], text, samples or view.samples, max_pixels)
    _check_asked(name, view, asked)
    if out is not None:
        _check_out(out, overwrite)
    subject = _open(run, data, split)
    view.check(subject)
    refuse_links(subject.folder, "figures")
    target = out or subject.folder / "figures" / f"{name}{PAGE}"
    if dry_run:
        extent = (
            "one sentence" if asked.text else f"{min(asked.samples, len(subject.records)):,} of {len(subject.records):,} records"
        )
        show_plan(f"analyze {run}", {"data": f"{subject.data.folder}, {split}: {extent}", "writes": str(target)})
        return
    check_writable(target)
    drawn = view.draw(subject, asked)
    content = drawn.picture() if target.suffix == PICTURE else drawn.page().encode()
    files: dict[Path, Any] = {target: content}
    picture = target.with_suffix(PICTURE)
    if out is None and (drawn_beside := _beside(drawn)) is not None:
        files[picture] = drawn_beside
    # The table, and what tells whether the pictures are still what was drawn.
    if drawn.table is not None or out is None:
        digests = {path.name: hashlib.sha256(content).hexdigest() for path, content in files.items() if out is None}
        files[subject.folder / "figures" / f"{name}.json"] = json_text(sealed({**(drawn.table or {}), "files": digests}))
    write_files(files)
    if out is None and picture not in files:
        picture.unlink(missing_ok=True)  # of an earlier view
    say(f"wrote {target}")
    last_line({"figure": str(target), **drawn.summary})


def _beside(drawn: Drawn) -> bytes | None:
    """The picture, for `report`. One that would be too high is left out, since there is a page."""
    try:
        return drawn.picture()
    except InputError:
        return None


def _check_asked(name: str, view: View, asked: AnalysisRequest) -> None:
    if asked.before is not None and not view.compares:
        raise InputError(f"--before means nothing for --{name}", hint="leave it out")
    if (asked.images or asked.text) and not view.sentence:
        raise InputError(f"--image and --text mean nothing for --{name}", hint="leave them out")
    if asked.queries not in QUERIES:
        raise InputError(f"--queries {asked.queries}: no such queries", hint=f"one of {', '.join(QUERIES)}")
    if bool(asked.images) != bool(asked.text):
        raise InputError("--image and --text go together", hint="give both, or neither for records of the split")


def _check_out(out: Path, overwrite: bool) -> None:
    if out.suffix not in (PAGE, PICTURE):
        raise InputError(f"ends neither in {PAGE} nor in {PICTURE}", where=str(out), hint="choose another name")
    if out.exists() and not (overwrite and out.is_file()):
        raise InputError("already exists", where=str(out), hint="pass --overwrite, or another name")


def _open(run: str, data: Path | None, split: str) -> AnalysisSubject:
    from vldistill.artifacts import RUN_STAGES, find_run, read_manifest
    from vldistill.evaluation.evaluate import load_data
    from vldistill.recipe.load import load_recipe
    from vldistill.training.references import pinned

    folder = find_run(Path(run))
    if not folder.exists():
        raise InputError("no such run", where=run, hint="name a folder that `vldistill distill` made")
    manifest = read_manifest(folder, RUN_STAGES, make_it="vldistill distill, with --overwrite")
    recipe, artifact = pinned(load_recipe(str(folder / "recipe.yaml")), manifest.get("references", {})), load_data(data, run)
    # A recipe's types and part are of the data that it names.
    kept: dict[str, Any] = {"types": recipe.data.types, "part": recipe.data.part} if data is None else {}
    return AnalysisSubject(folder, manifest, recipe, artifact, split, artifact.records(split, **kept))


def _check_attention(subject: AnalysisSubject) -> None:
    from vldistill.training.references import check_teacher

    check_teacher(subject.recipe, subject.manifest, subject.folder)


def _check_words(subject: AnalysisSubject) -> None:
    from vldistill.evaluation.words import check_selects_words

    check_selects_words(subject.recipe, subject.folder)


def _words_drawn(view, summary: dict[str, Any]) -> Drawn:
    from vldistill.evaluation.figures import words_figure, words_page

    return Drawn(lambda: words_page(view), lambda: words_figure(view), summary)


def _draw_words(subject: AnalysisSubject, asked: AnalysisRequest) -> Drawn:
    from vldistill.evaluation.words import view_words

    view = view_words(subject.folder, subject.recipe, subject.data, subject.records, subject.split, asked.samples)
    return _words_drawn(view, {"samples": len(view.samples), "from_cache": view.stored})


def _draw_tokens(subject: AnalysisSubject, asked: AnalysisRequest) -> Drawn:
    from vldistill.evaluation.attention import view_tokens

    view = view_tokens(subject.folder, asked.before, subject.recipe, subject.data, subject.records, subject.split, asked.samples)
    return _words_drawn(view, {"samples": len(view.samples), "layer": view.layer})


def _draw_modality(subject: AnalysisSubject, asked: AnalysisRequest) -> Drawn:
    from vldistill.evaluation.attention import view_modality
    from vldistill.evaluation.figures import modality_figure, modality_page
    from vldistill.evaluation.words import drawn

    view = view_modality(
        str(subject.folder),
        asked.before,
        subject.data,
        drawn(subject.records, asked.samples),
        subject.split,
        first_only=asked.queries == "cls",
    )
    for name, measured in view.models:
        line = ", ".join(f"{key} {value:.4f}" for key, value in measured.averages.items())
        say(f"{name}: {line}" if view.before else line)
    gaps = {f"gap_{name}": round(measured.averages["gap"], 4) for name, measured in view.models}
    return Drawn(lambda: modality_page(view), lambda: modality_figure(view), {"records": view.records, **gaps}, view.to_json())


def _draw_attention(subject: AnalysisSubject, asked: AnalysisRequest) -> Drawn:
    from vldistill.data.images import named_images
    from vldistill.evaluation.cross_attention import view_cross
    from vldistill.evaluation.figures import cross_figures, cross_page
    from vldistill.evaluation.predict import one_pair
    from vldistill.evaluation.words import drawn

    if asked.text:
        records, images = [one_pair(asked.images, asked.text)], named_images(asked.max_pixels)
    else:
        records, images = drawn(subject.records, asked.samples), subject.data.images
    view = view_cross(str(subject.folder), subject.recipe, images, records)
    divergences = [sample.divergence for sample in view.samples if sample.divergence is not None]
    kl = {"kl": round(sum(divergences) / len(divergences), 4)} if divergences else {}
    return Drawn(lambda: cross_page(view), lambda: cross_figures(view), {"samples": len(view.samples), "layer": view.layer, **kl})


VIEWS = {
    "words": View(_draw_words, 12, _check_words),
    "tokens": View(_draw_tokens, 12, compares=True),
    "modality": View(_draw_modality, 256, compares=True),
    "attention": View(_draw_attention, 4, _check_attention, sentence=True),
}
"""By option."""
