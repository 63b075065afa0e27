"""`vldistill prepare toy`: a procedural world of coloured shapes, written in the official layouts and read as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vldistill.commands.options import DryRun, Overwrite
from vldistill.commands.output import show_plan, split_list
from vldistill.data.sources.rows import nearest
from vldistill.errors import InputError


def toy(
    raw: Annotated[Path, typer.Option("--raw", metavar="DIR", help="Where the raw files go.")] = Path("artifacts/raw"),
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the artifacts go.")] = Path("artifacts/data"),
    datasets: Annotated[str, typer.Option("--datasets", metavar="A,B", help="Only these, as vqa,nlvr2.")] = "",
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Seed of the world.")] = 0,
    scale: Annotated[float, typer.Option("--scale", metavar="X", help="Size of the world.")] = 1.0,
    min_count: Annotated[int, typer.Option("--min-count", min=1, metavar="N", help="vqa: least occurrences of an answer.")] = 9,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a small world of coloured shapes, and read it."""
    from vldistill.commands.prepare.tables import tell_made
    from vldistill.data.prepare_toy import prepare_toy
    from vldistill.data.toy.layouts import DATASETS
    from vldistill.places import check_writable

    chosen = tuple(_toy_dataset(given) for given in split_list(datasets)) or DATASETS
    if dry_run:
        names = f"{{{','.join(chosen)}}}"
        show_plan("prepare toy", {"writes raw files": raw / "toy" / names, "writes artifacts": out / f"toy-{names}"})
        return
    check_writable(out, raw)
    manifests = prepare_toy(out, raw, seed=seed, scale=scale, overwrite=overwrite, datasets=chosen, min_answer_count=min_count)
    for name, manifest in zip(chosen, manifests, strict=True):
        tell_made(manifest, out / f"toy-{name}", dry_run=False)


def _toy_dataset(given: str) -> str:
    from vldistill.data.toy.layouts import SIZES

    name = given.replace("-", "_").lower()
    if name not in SIZES:
        raise InputError(f"the toy world has no dataset {given!r}", hint=nearest(name, SIZES))
    return name
