"""`vldistill prepare`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vldistill.commands.faults import all_faults
from vldistill.commands.output import plan_table, split_list
from vldistill.commands.prepare_tables import render_counts, render_lowshot, render_regions, render_rewritten, short_types
from vldistill.commands.unpack import unpack_raw
from vldistill.data.archives.unpack import is_archive
from vldistill.data.left_out import parse_share
from vldistill.data.prepare import LAYOUTS, SOURCES, check_request, prepare
from vldistill.data.prepare_regions import BoxRule, Target, extract_regions, import_regions
from vldistill.data.prepare_toy import prepare_toy
from vldistill.data.sources.base import SourceOptions, nearest
from vldistill.data.toy.layouts import DATASETS, SIZES
from vldistill.data.variants import Variants
from vldistill.errors import InputError
from vldistill.places import check_writable
from vldistill.terminal import Table, console, say, show
from vldistill.versions import differences, tell

_ANEW = "to do so, pass --overwrite"

# The options that each kind of input reads; one given in vain is an error, not a silence. Those of one source among the
# data sets (--labels, ...) are judged where it is read.
_ALWAYS = {"dataset", "--raw", "--out", "--dry-run", "--overwrite", "--faults"}
_REGIONS = {"--format", "--threshold", "--boxes", "--data", "--grid", "--weights", "--network"}
_TOY = {"--seed", "--scale", "--datasets"}
_MOST_DIGITS = 18
_SUFFIXES = {".tsv", ".pt", ".pth", ".zip", ".mdb"}
_OF_FILES, _OF_DATA = {"--format", "--threshold", "--boxes"}, {"--grid", "--weights", "--network"}


def prepare_command(asked: SimpleNamespace, given: set[str]) -> None:
    """`vldistill prepare`. asked: the values of all options. given: the names of those on the command line."""
    name = asked.dataset.replace("-", "_").lower()
    if name == "list":
        _refuse(given - {"dataset"}, name)
        show(_datasets())
    elif name == "regions":
        _refuse(given - _ALWAYS - _REGIONS - {"--limit", "--skip-broken"}, name)
        _prepare_regions(asked, given)
    elif name == "toy":
        _refuse(given - _ALWAYS - _TOY - {"--min-count"}, name)
        _prepare_toy(asked)
    elif name not in SOURCES:
        raise InputError(f"no dataset {asked.dataset!r}", hint=nearest(name, [*LAYOUTS, "regions"]))
    else:
        _refuse(given & (_TOY | _REGIONS), asked.dataset)
        if "--seeds" in given and not asked.lowshot:
            raise InputError("--seeds goes with --lowshot", hint="leave it out, or add --lowshot 100")
        _prepare_source(name, asked)


def _refuse(options: set[str], name: str) -> None:
    if options:
        raise InputError(f"{', '.join(sorted(options))} means nothing for {name}", hint="leave it out")


def _prepare_source(name: str, asked: SimpleNamespace) -> None:
    if asked.images not in ("decode", "header", "none"):
        raise InputError(f"--images {asked.images} is not known", hint="decode, header or none")
    if asked.raw is None:
        raise InputError("--raw is missing", hint=f"vldistill prepare {asked.dataset} --raw FOLDER, the official download")
    options = SourceOptions(
        min_answer_count=asked.min_count,
        vqa_split=asked.vqa_split,
        labels=split_list(asked.labels),
        val_directories=split_list(asked.val_directories),
        task=asked.task,
        splits=split_list(asked.splits) or None,
    )
    variants = Variants(
        _distinct("--lowshot", asked.lowshot), _distinct("--seeds", asked.seeds), asked.domain_shift, asked.statements
    )
    raw, target, skip = asked.raw, asked.out or Path("artifacts/data") / name, parse_share(asked.skip_broken)
    if not asked.dry_run:
        check_writable(target, asked.unpack, asked.faults)
    if asked.unpack is not None or is_archive(raw):
        check_request(name, options, asked.limit, variants, asked.shards, asked.images != "none")
        raw = unpack_raw(name, raw, asked.unpack, target, overwrite=asked.overwrite, dry_run=asked.dry_run)
        if raw is None:
            return
    with all_faults(asked.faults) as problems:
        manifest = _prepare_with_progress(
            name,
            raw,
            target,
            options=options,
            limit=asked.limit,
            overwrite=asked.overwrite,
            decode_images=asked.images == "decode",
            check_images=asked.images != "none",
            follow_links=asked.follow_links,
            dry_run=asked.dry_run,
            variants=variants,
            shards=asked.shards,
            skip_broken=skip,
            max_pixels=asked.max_pixels,
            problems=problems,
        )
    _print(manifest, target, asked.dry_run)


def _prepare_toy(asked: SimpleNamespace) -> None:
    folder, raw = asked.out or Path("artifacts/data"), asked.raw or Path("artifacts/raw")
    chosen = tuple(_toy_dataset(given) for given in split_list(asked.datasets)) or DATASETS
    if asked.dry_run:
        names = f"{{{','.join(chosen)}}}"
        show(plan_table("prepare toy", {"writes raw files": raw / "toy" / names, "writes artifacts": folder / f"toy-{names}"}))
        return
    check_writable(folder, raw)
    manifests = prepare_toy(
        folder,
        raw,
        seed=asked.seed,
        scale=asked.scale,
        overwrite=asked.overwrite,
        datasets=chosen,
        options=SourceOptions(min_answer_count=asked.min_count),
    )
    for name, manifest in zip(chosen, manifests, strict=True):
        _print(manifest, folder / f"toy-{name}", dry_run=False)


def _prepare_regions(asked: SimpleNamespace, given: set[str]) -> None:
    if (asked.raw is None) == (asked.data is None):
        raise InputError("one of --raw and --data is needed", hint="--raw FEATURES imports them, --data ARTIFACT computes them")
    computed = asked.data is not None
    if vain := given & (_OF_FILES if computed else _OF_DATA):
        raise InputError(f"{', '.join(sorted(vain))} goes with {'--raw' if computed else '--data'}", hint="leave it out")
    out = asked.out or Path("artifacts/regions") / _store_name((asked.raw or asked.data).resolve())
    skip = parse_share(asked.skip_broken)
    if not asked.dry_run:
        check_writable(out, asked.faults)
    with all_faults(asked.faults) as problems, _counting("images") as progress:
        target = Target(out, asked.limit, asked.overwrite, asked.dry_run, progress, problems, skip)
        if computed:
            manifest = extract_regions(asked.data, target, weights=asked.weights, grid=asked.grid, network=asked.network)
        else:
            bounds = _numbers("--boxes", asked.boxes)
            if len(bounds) != 2:
                raise InputError(f"--boxes {asked.boxes} is not two numbers", hint="--boxes 10,100")
            manifest = import_regions(asked.raw, target, kind=asked.format or None, rule=BoxRule(asked.threshold, *bounds))
    if manifest.get("unchanged"):
        say(f"up to date: {out}, made from the same input")
        tell(differences(manifest), out, _ANEW)
    elif asked.dry_run:
        show(plan_table("prepare regions", {"reads": asked.raw or asked.data, **manifest["options"], "writes": out}))
    else:
        show(render_regions(manifest))
        say(f"wrote {out}\n")


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


def _toy_dataset(given: str) -> str:
    name = given.replace("-", "_").lower()
    if name not in SIZES:
        raise InputError(f"the toy world has no dataset {given!r}", hint=nearest(name, SIZES))
    return name


def _datasets() -> Table:
    table = Table("dataset", "what it reads from --raw", box=None, pad_edge=False)
    for name, layout in LAYOUTS.items():
        table.add_row(name.replace("_", "-"), layout)
    table.add_row("regions", "region features: UNITER's LMDB or npz, bottom-up TSV, OSCAR's .pt or .tsv, VL-BERT's JSON")
    return table


def _numbers(option: str, text: str) -> tuple[int, ...]:
    values = split_list(text)
    if not all(value.isascii() and value.isdigit() and len(value) <= _MOST_DIGITS for value in values):
        raise InputError(f"{option} {text[:60]} is not a list of whole numbers", hint=f"{option} 100,1000")
    return tuple(map(int, values))


def _distinct(option: str, text: str) -> tuple[int, ...]:
    """The same for a set: a number that is given twice counts once."""
    return tuple(dict.fromkeys(_numbers(option, text)))


def _print(manifest: dict[str, Any], place: Path, dry_run: bool) -> None:
    added, packed = manifest.get("added", []), manifest.get("packed", False)
    if manifest.get("advice"):
        say(f"note: {manifest['advice']}")
    if moved := manifest.get("moved_from"):
        say(f"{place} {'would read' if dry_run else 'reads'} its raw files from {manifest['raw_root']} now, no more from {moved}")
    if manifest.get("unchanged"):
        tell(differences(manifest), place, _ANEW)
    if manifest.get("unchanged") and not added and not packed:
        say(f"up to date: {place}, made from the same input")
        return
    for note in manifest.get("notes") or []:
        say(f"note: {note}")
    if not manifest.get("unchanged"):
        show(render_counts(manifest))
    variants = manifest.get("variants", {})
    names = [name for name in added if name in variants] if added else list(variants)  # in a dry run there are none yet
    for table in (*render_lowshot(manifest, names), *render_rewritten(manifest, names)):
        show(table)
    for line in short_types(manifest, names):
        say(f"note: {line}")
    if "shards" in manifest and (packed or not manifest.get("unchanged")):
        files, samples, size = (sum(part[key] for part in manifest["shards"].values()) for key in ("files", "samples", "bytes"))
        say(f"packed {samples:,} samples into {files:,} tar(s), {size / 1e6:,.1f} MB")
    which = [", ".join(added) if dry_run else f"{len(added)}"] if added else []
    new = " and ".join([*which, *(["shards"] if packed else [])])
    done = f"{'would add' if dry_run else 'added'} {new} to" if new else "would write" if dry_run else "wrote"
    say(f"{done} {place}\n")


def _prepare_with_progress(name: str, raw: Path, target: Path, **arguments: Any) -> dict[str, Any]:
    """`prepare` with a count of records and bars of images as they are checked and packed, on a terminal."""
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


@contextmanager
def _counting(what: str) -> Iterator[Callable[[int], None] | None]:
    """A running count of what has no known total, on a terminal."""
    if not console.is_terminal:
        yield None
        return
    with console.status(f"0 {what}") as status:
        yield lambda count: status.update(f"{count:,} {what}") if count % 100 == 0 else None
