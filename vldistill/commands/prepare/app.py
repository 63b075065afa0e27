"""`vldistill prepare`: a command for each data set of the table, with the options that mean something for it, its archives
unpacked first; the toy world, written in the official layouts; and region features."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperGroup

from vldistill.commands.options import (
    DryRun,
    Faults,
    KnowsOthers,
    LimitOption,
    MaxPixels,
    Overwrite,
    SkipBroken,
    all_faults,
    numbers,
    split_list,
)
from vldistill.commands.output import show_plan
from vldistill.commands.prepare.regions import compute, import_
from vldistill.data.sources.rows import nearest
from vldistill.data.sources.table import SOURCES, SourceOptions, source_of
from vldistill.errors import InputError
from vldistill.terminal import console, say

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
    from vldistill.commands.prepare.tables import tell_made
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


def unpack_raw(name: str, raw: Path, into: Path | None, out: Path, *, overwrite: bool, dry_run: bool) -> Path | None:
    """Unpacks `raw` to `into` (artifacts/raw/<name>), and returns that folder; None where a dry run ends here.

    out: the artifact that would follow, so that it is refused before the work, not after it.
    """
    from vldistill.artifacts import refuse_existing, refuse_inputs_in
    from vldistill.data.unpack import find_sources, is_archive, unpacked_before

    target = into or Path("artifacts/raw") / name
    sources = find_sources(raw, target)
    refuse_inputs_in(out, raw, target)
    if out.resolve().is_relative_to(target.resolve()):
        raise InputError("is where the archives are unpacked", where=str(out), hint="give another place with --out")
    if unpacked_before(sources, target, overwrite=overwrite) is not None:
        say(f"already unpacked: {target}")
        return target
    refuse_existing(out, overwrite, "prepare")
    if dry_run:
        archives = [source.name for source in sources if is_archive(source)]
        copied = [source.name for source in sources if not is_archive(source)]
        rows = {"would unpack": ", ".join(archives), "would copy": ", ".join(copied), "into": target, "and read that as": name}
        show_plan(f"prepare {name}", {what: which for what, which in rows.items() if which})
        return None
    counts = _unpack_with_progress(sources, target, overwrite)["counts"]
    many = ", ".join(f"{counts[what]:,} {what if counts[what] != 1 else what[:-1]}" for what in ("archives", "files"))
    say(f"unpacked {many}, {_size_text(counts['bytes'])} into {target}")
    return target


def _size_text(size: int) -> str:
    """A number of bytes for the eye: `1.2 GiB`."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size >= 1024**power:
            return f"{size / 1024**power:,.1f} {unit}"
    return f"{size} bytes"


def _unpack_with_progress(sources: list[Path], target: Path, overwrite: bool) -> dict[str, Any]:
    """`unpack` with a bar that counts packed bytes, on a terminal."""
    from vldistill.data.unpack import unpack

    if not console.is_terminal:
        return unpack(sources, target, overwrite=overwrite)
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    with Progress(
        *Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn(), console=console, transient=True
    ) as progress:
        bar = progress.add_task("unpacking", total=None)

        def advance(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)

        return unpack(sources, target, overwrite=overwrite, progress=advance)


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


REGIONS = "region features: UNITER's LMDB or npz, bottom-up TSV, OSCAR's .pt or .tsv, VL-BERT's JSON; or those of a ResNet-101"
TOY = "nothing: writes a procedural world of coloured shapes in these layouts, and reads it"


class DataSets(TyperGroup):
    """Whose commands are data sets: `SNLI_VE` is snli-ve, too."""

    def resolve_command(self, ctx, args):
        name = args[0].replace("_", "-").lower()
        if name not in self.commands:
            raise InputError(f"no dataset {args[0]!r}", hint=nearest(name, self.commands))
        return super().resolve_command(ctx, [name, *args[1:]])


class RegionsGroup(TyperGroup):
    """Which takes `prepare regions --raw` and `--data`, as they were once written, for `import` and `compute`."""

    def parse_args(self, ctx, args):
        given = {word.partition("=")[0] for word in args} & {"--raw", "--data"}
        if args and args[0].startswith("--") and given:
            args = ["compute" if given == {"--data"} else "import", *args]
        return super().parse_args(ctx, args)


def list_datasets() -> None:
    """List the data sets, and the files that each is read from."""
    from vldistill.terminal import Table, show

    table = Table("dataset", "what it reads from --raw", box=None, pad_edge=False)
    for name in SOURCES:
        table.add_row(name.replace("_", "-"), source_of(name).layout)
    table.add_row("toy", TOY)
    table.add_row("regions", REGIONS)
    show(table)


regions_app = typer.Typer(
    cls=RegionsGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Import region features, or compute them.",
    epilog="Example: vldistill prepare regions import --raw features --out artifacts/regions/coco",
)
for _name, _way, _example in (("import", import_, "--raw features"), ("compute", compute, "--data artifacts/data/vcr")):
    regions_app.command(_name, cls=KnowsOthers, epilog=f"Example: vldistill prepare regions {_name} {_example}")(_way)

prepare_app = typer.Typer(
    cls=DataSets,
    no_args_is_help=True,
    rich_markup_mode=None,
    subcommand_metavar="DATASET [OPTIONS]",
    help="Turn a data set's official files into a data artifact.",
    epilog="Example: vldistill prepare vqa --raw ~/vqa2",
)
for _name in SOURCES:
    _source, _word = source_of(_name), _name.replace("_", "-")
    prepare_app.command(
        _word,
        cls=KnowsOthers,
        help=f"{_source.about}. --raw holds {_source.layout}.",
        short_help=f"{_source.about}.",
        epilog=f"Example: vldistill prepare {_word} --raw ~/{_word}",
    )(source_command(_name))
prepare_app.command("toy", cls=KnowsOthers, epilog="Example: vldistill prepare toy --datasets vqa,nlvr2")(toy)
prepare_app.add_typer(regions_app, name="regions")
prepare_app.command("list", cls=KnowsOthers, epilog="Example: vldistill prepare list")(list_datasets)
