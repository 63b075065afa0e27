"""`vldistill prepare regions import | compute`: region features in a store of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vldistill.commands.options import DryRun, Faults, Overwrite, SkipBroken, all_faults, numbers
from vldistill.commands.output import show_plan
from vldistill.errors import InputError

if TYPE_CHECKING:
    from vldistill.data.prepare_regions import Target

_SUFFIXES = {".tsv", ".pt", ".pth", ".zip", ".mdb"}
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where to write, instead of artifacts/regions/NAME.")]
Images = Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Only the first N images.")]


def import_(
    raw: Annotated[Path, typer.Option("--raw", metavar="PATH", help="Feature files.", show_default=False)],
    out: Out = None,
    format: Annotated[str | None, typer.Option("--format", metavar="NAME", help="uniter-lmdb, npz, tsv, oscar, vl-bert.")] = None,
    threshold: Annotated[float, typer.Option("--threshold", metavar="X", help="Least confidence of a box.")] = 0.2,
    boxes: Annotated[str, typer.Option("--boxes", metavar="N,N", help="Fewest and most boxes of an image.")] = "10,100",
    limit: Images = None,
    skip_broken: SkipBroken = "0%",
    faults: Faults = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Import published region features."""
    from vldistill.data.prepare_regions import BoxRule, import_regions

    bounds = numbers("--boxes", boxes)
    if len(bounds) != 2:
        raise InputError(f"--boxes {boxes} is not two numbers", hint="--boxes 10,100")

    made = partial(import_regions, raw, kind=format, rule=BoxRule(threshold, *bounds))
    _prepare(raw, out, limit, skip_broken, faults, dry_run, overwrite, made)


def compute(
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="A data artifact.", show_default=False)],
    out: Out = None,
    grid: Annotated[int | None, typer.Option("--grid", min=1, metavar="N", help="N x N cells, not the data's boxes.")] = None,
    weights: Annotated[str | None, typer.Option("--weights", metavar="FILE", help="Weights file; timm's by default.")] = None,
    network: Annotated[str, typer.Option("--network", metavar="NAME", help="timm, or vlbert: with masks of objects.")] = "timm",
    limit: Images = None,
    skip_broken: SkipBroken = "0%",
    faults: Faults = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Compute features of a data artifact's images with a ResNet-101."""
    from vldistill.data.prepare_regions import extract_regions

    made = partial(extract_regions, data, weights=weights, grid=grid, network=network)
    _prepare(data, out, limit, skip_broken, faults, dry_run, overwrite, made)


def _prepare(
    source: Path,
    out: Path | None,
    limit: int | None,
    skip_broken: str,
    faults: Path | None,
    dry_run: bool,
    overwrite: bool,
    make: Callable[[Target], dict[str, Any]],
) -> None:
    from vldistill.commands.prepare.tables import ANEW, render_regions
    from vldistill.data.inputs import parse_share
    from vldistill.data.prepare_regions import Target
    from vldistill.places import check_writable
    from vldistill.terminal import say, show
    from vldistill.versions import differences, tell

    place, skip = out or Path("artifacts/regions") / _store_name(source.resolve()), parse_share(skip_broken)
    if not dry_run:
        check_writable(place, faults)
    with all_faults(faults) as problems, _counting("images") as progress:
        manifest = make(Target(place, limit, overwrite, dry_run, progress, problems, skip))
    if manifest.get("unchanged"):
        say(f"up to date: {place}, made from the same input")
        tell(differences(manifest), place, ANEW)
    elif dry_run:
        show_plan("prepare regions", {"reads": source, **manifest["options"], "writes": place})
    else:
        show(render_regions(manifest))
        say(f"wrote {place}\n")


def _store_name(source: Path) -> str:
    """What a store is called after its source. Only a file's known suffix is cut: a folder may be called `v1.1`."""
    if source.name == "data.mdb":  # every LMDB is called so
        source = source.parent
    known = source.is_file() and source.suffix.lower() in _SUFFIXES
    # No dot before it, which would hide the store.
    name = (source.stem if known else source.name).lstrip(".")
    if not name:
        raise InputError("gives the store no name", where=str(source), hint="name it with --out")
    return name


@contextmanager
def _counting(what: str) -> Iterator[Callable[[int], None] | None]:
    """A running count of what has no known total, on a terminal."""
    from vldistill.terminal import console

    if not console.is_terminal:
        yield None
        return
    with console.status(f"0 {what}") as status:
        yield lambda count: status.update(f"{count:,} {what}") if count % 100 == 0 else None
