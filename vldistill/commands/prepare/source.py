"""`vldistill prepare vcr`, `vqa`, ...: a command for each data set of the table, with the options that mean something for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from vldistill.commands.options import DryRun, Faults, LimitOption, MaxPixels, Overwrite, SkipBroken
from vldistill.commands.output import numbers, split_list
from vldistill.data.sources.table import SourceOptions, source_of
from vldistill.errors import InputError

_VARIANTS = {"lowshot", "seeds", "domain_shift", "statements"}


def source_command(name: str) -> Callable[..., None]:
    """What Typer makes the command of a data set of: a function whose parameters are those of `prepare_source`, less the variants
    where its tasks have none, and the fields of its own options."""
    source = source_of(name)
    hints = {field: get_args(hint) for field, hint in get_type_hints(source.options, include_extras=True).items()}
    lists = {field for field, (kind, _) in hints.items() if tuple in (get_origin(kind), *map(get_origin, get_args(kind)))}
    shared = [one for one in _shared() if source.variants or one.name not in _VARIANTS]
    own = [
        inspect.Parameter(
            field,
            inspect.Parameter.KEYWORD_ONLY,
            default="" if field in lists else getattr(source.options, field),
            annotation=Annotated[
                str if field in lists else kind, typer.Option(flag.name, metavar=flag.metavar, help=flag.help, min=flag.least)
            ],
        )
        for field, (kind, flag) in hints.items()
    ]

    def command(**given: Any) -> None:
        values = {field: given.pop(field) for field in hints}
        for field in lists:
            values[field] = split_list(values[field]) or getattr(source.options, field)
        prepare_source(name, source.options(**values), **given)

    command.__signature__ = inspect.Signature([*shared[:3], *own, *shared[3:]])  # type: ignore[attr-defined]
    return command


@cache
def _shared() -> list[inspect.Parameter]:
    """The options that every source has, and the variants."""
    parameters = inspect.signature(prepare_source, eval_str=True).parameters.values()
    return [one for one in parameters if one.kind is one.KEYWORD_ONLY]


def prepare_source(
    name: str,
    options: SourceOptions,
    *,
    raw: Annotated[Path | None, typer.Option("--raw", metavar="PATH", help="The raw files: a folder or an archive.")] = None,
    unpack: Annotated[Path | None, typer.Option("--unpack", metavar="DIR", help="Unpack archives of --raw here first.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Output, instead of artifacts/data/NAME.")] = None,
    limit: LimitOption = None,
    images: Annotated[str, typer.Option("--images", metavar="HOW", help="Check by: decode, header, none.")] = "decode",
    follow_links: Annotated[bool, typer.Option("--follow-links", help="Accept images that are links to elsewhere.")] = False,
    skip_broken: SkipBroken = "0%",
    faults: Faults = None,
    max_pixels: MaxPixels = None,
    lowshot: Annotated[str, typer.Option("--lowshot", metavar="N,N", help="Also draw low-shot sets of N per type.")] = "",
    seeds: Annotated[str | None, typer.Option("--seeds", metavar="K,K", help="Seeds of the draws; 0,1,2,3 by default.")] = None,
    domain_shift: Annotated[bool, typer.Option("--domain-shift", help="Also write domain-shifted val and test.")] = False,
    statements: Annotated[bool, typer.Option("--statements", help="Also write train as statements.")] = False,
    shards: Annotated[int | None, typer.Option("--shards", min=1, metavar="N", help="Also pack WebDataset tars of N.")] = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Reads, checks and writes a data set of the table."""
    if images not in ("decode", "header", "none"):
        raise InputError(f"--images {images} is not known", hint="decode, header or none")
    if raw is None:
        raise InputError("--raw is missing", hint=f"vldistill prepare {name.replace('_', '-')} --raw FOLDER")
    if seeds is not None and not lowshot:
        raise InputError("--seeds goes with --lowshot", hint="leave it out, or add --lowshot 100")
    from vldistill.commands.faults import all_faults
    from vldistill.commands.prepare.tables import tell_made
    from vldistill.commands.prepare.unpack import unpack_raw
    from vldistill.data.inputs import parse_share
    from vldistill.data.prepare import check_request
    from vldistill.data.unpack import is_archive
    from vldistill.data.variants import SEEDS, Variants
    from vldistill.places import check_writable

    draws = SEEDS if seeds is None else numbers("--seeds", seeds)
    variants = Variants(_distinct(numbers("--lowshot", lowshot)), _distinct(draws), domain_shift, statements)
    target, skip = out or Path("artifacts/data") / name, parse_share(skip_broken)
    if not dry_run:
        check_writable(target, unpack, faults)
    folder: Path | None = raw
    if unpack is not None or is_archive(raw):
        check_request(source_of(name), options, limit, variants, shards, images != "none")
        folder = unpack_raw(name, raw, unpack, target, overwrite=overwrite, dry_run=dry_run)
        if folder is None:
            return
    with all_faults(faults) as problems:
        manifest = _prepare_with_progress(
            name,
            folder,
            target,
            options=options,
            limit=limit,
            overwrite=overwrite,
            decode_images=images == "decode",
            check_images=images != "none",
            follow_links=follow_links,
            dry_run=dry_run,
            variants=variants,
            shards=shards,
            skip_broken=skip,
            max_pixels=max_pixels,
            problems=problems,
        )
    tell_made(manifest, target, dry_run)


def _distinct(values: tuple[int, ...]) -> tuple[int, ...]:
    """A number that is given twice counts once."""
    return tuple(dict.fromkeys(values))


def _prepare_with_progress(name: str, raw: Path, target: Path, **arguments: Any) -> dict[str, Any]:
    """`prepare` with a count of records and bars of images as they are checked and packed, on a terminal."""
    from vldistill.data.prepare import prepare
    from vldistill.terminal import console

    if not console.is_terminal:
        return prepare(name, raw, target, **arguments)
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        records = progress.add_task("reading records", total=None, count="")
        images = progress.add_task("checking images", total=None, count="", visible=False)
        packed = progress.add_task("packing images", total=None, count="", visible=False)

        def read(done: int) -> None:
            progress.update(records, count=f"{done:,}")

        def check(done: int, total: int) -> None:
            progress.update(records, total=1, completed=1)
            progress.update(images, completed=done, total=total, count=f"{done:,} of {total:,}", visible=True)

        def pack(done: int, total: int) -> None:
            progress.update(records, total=1, completed=1)
            progress.update(packed, completed=done, total=total, count=f"{done:,} of {total:,}", visible=True)

        return prepare(name, raw, target, reading=read, progress=check, packing=pack, **arguments)
