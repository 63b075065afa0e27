"""`prepare`: a raw data set is read, checked whole, and written as a data artifact of records.

Records go to a temporary folder as they are read; it becomes the artifact when every line and every image has been
checked, and is removed otherwise. All faults are told at once.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from vldistill import artifacts
from vldistill.data import image_files
from vldistill.data.answers import ANSWERS_FILE
from vldistill.data.image_files import ImageInfo
from vldistill.data.sources import jsonl, karpathy, nlvr, nlvr2, snli_ve, vcr, vqa
from vldistill.data.sources.base import SPLITS, SourceData, SourceOptions, nearest
from vldistill.data.writing import MOST_FREQUENT, RecordWriter
from vldistill.errors import InputError, Problems

SOURCES: dict[str, Callable[[Path, SourceOptions, Problems, SourceData], None]] = {
    "vqa": vqa.read,
    "snli_ve": snli_ve.read,
    "nlvr2": nlvr2.read,
    "nlvr": nlvr.read,
    "jsonl": jsonl.read,
    "vcr": vcr.read,
    "flickr30k": karpathy.read_flickr30k,
    "coco": karpathy.read_coco,
}
# The options that each source reads (all read `splits`): one given in vain is an error, not a silence.
_OPTIONS = {
    "vqa": {"min_answer_count"},
    "snli_ve": set(),
    "nlvr2": set(),
    "nlvr": {"val_directories"},
    "jsonl": {"min_answer_count", "labels", "task"},
    "vcr": set(),
    "flickr30k": set(),
    "coco": set(),
}
IMAGES_FILE = "images.jsonl"


def prepare(
    dataset: str,
    raw: Path,
    out: Path,
    *,
    options: SourceOptions | None = None,
    limit: int | None = None,
    overwrite: bool = False,
    decode_images: bool = True,
    check_images: bool = True,
    follow_links: bool = False,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Reads `raw` as `dataset`, checks it, writes the artifact `out` and returns its manifest.

    limit: only the first N records of each split (the manifest says `partial`). decode_images: decode every image, not
    only its header. check_images: look at images at all (without, the artifact has no image list and says
    `unchecked`). follow_links: images may be links that lead out of the raw folder. dry_run: everything but the writing.
    progress(done, total) counts images.
    Raises InputError with every fault found; nothing is then left behind.
    """
    started = time.monotonic()
    options = options or SourceOptions()
    name = _source_name(dataset)
    _check_arguments(name, raw, options, limit)
    artifacts.refuse_existing(out, overwrite)
    with ExitStack() as stack:
        # Removed again where anything is wrong.
        folder = None if dry_run else stack.enter_context(artifacts.building(out, overwrite=overwrite))
        data, problems = SourceData(), Problems()
        with RecordWriter(data, folder, limit) as writer:
            data.take, data.take_region = writer.take, writer.take_region
            SOURCES[name](raw, options, problems, data)
        images = _images(data.root or raw, writer.where_of, problems, decode_images, check_images, follow_links, progress)
        if not problems and not writer.records:
            problems.add("holds no record" + (f" of {', '.join(options.splits)}" if options.splits else ""), where=str(raw))
        problems.raise_if_any(str(raw))
        manifest = artifacts.new_manifest(
            "prepare",
            dataset=name,
            task=data.task,
            labels=data.labels,
            raw_root=str((data.root or raw).resolve()),
            counts=writer.counts(),
            regions=writer.regions,
            vocabulary=None if data.vocabulary is None else len(data.vocabulary),
            unanswerable=writer.unanswerable(),
            partial=limit is not None,
            notes=data.notes,
            images=("decoded" if decode_images else "headers") if check_images else "unchecked",
        )
        if folder is not None:
            _finish(folder, data, images if check_images else None)
            manifest["files"] = {path.name: artifacts.file_digest(path) for path in sorted(folder.iterdir())}
            parts = {key: manifest[key] for key in ("dataset", "task", "labels", "files")}
            manifest |= {
                "fingerprint": artifacts.fingerprint(parts),
                "wall_s": round(time.monotonic() - started, 2),
                "complete": True,
            }
            artifacts.write_manifest(folder, manifest)
    return manifest


def _source_name(dataset: str) -> str:
    name = dataset.replace("-", "_").lower()
    if name not in SOURCES:
        raise InputError(f"data set {dataset!r} is not known", hint=nearest(name, SOURCES))
    return name


def _check_arguments(name: str, raw: Path, options: SourceOptions, limit: int | None) -> None:
    defaults = SourceOptions()
    for key in ("min_answer_count", "val_directories", "labels", "task"):
        if getattr(options, key) != getattr(defaults, key) and key not in _OPTIONS[name]:
            users = ", ".join(source for source, keys in _OPTIONS.items() if key in keys)
            raise InputError(f"{key} means nothing for {name}", hint=f"leave it out; it is for {users}")
    if options.min_answer_count < 1:
        raise InputError(f"min_answer_count is {options.min_answer_count}", hint="give 1 or more")
    if len(set(options.labels)) != len(options.labels):
        raise InputError("labels: a name appears twice", hint="name each once")
    for split in options.splits or ():
        if split not in SPLITS:
            raise InputError(f"split {split!r} is not known", hint=nearest(split, SPLITS))
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}", hint="give 1 or more")
    if not raw.exists():
        raise InputError("no such folder", where=str(raw), hint="give the folder of the raw files")
    if not raw.is_dir() and name != "jsonl":
        raise InputError("is a file, the folder of the raw files was expected", where=str(raw))


def _images(
    root: Path,
    where_of: dict[str, str],
    problems: Problems,
    decode: bool,
    check: bool,
    follow_links: bool,
    progress: Callable[[int, int], None] | None,
) -> dict[str, ImageInfo]:
    if check:
        return image_files.check_images(
            root, where_of, problems, where_of, decode=decode, follow_links=follow_links, progress=progress
        )
    image_files.check_paths(where_of, problems, where_of)
    return {}


def _finish(folder: Path, data: SourceData, images: dict[str, ImageInfo] | None) -> None:
    """Writes what stands beside the records: the images and the answer vocabulary."""
    if images is not None:
        with (folder / IMAGES_FILE).open("w", encoding="utf-8", newline="\n") as file:
            for path, info in images.items():
                row = {"path": path, "sha1": info.sha1, "width": info.width, "height": info.height}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    if data.vocabulary is not None:
        artifacts.write_json(folder / ANSWERS_FILE, data.vocabulary.to_json())


def render_counts(manifest: dict[str, Any]) -> Table:
    """The counts of a data artifact as a table, a column for each split; long lists are cut to their ten largest."""
    counts = manifest["counts"]
    title = manifest["dataset"].replace("_", "-")
    if manifest["task"] != manifest["dataset"]:
        title += f" · {manifest['task']}"
    if manifest["labels"]:
        title += f" · {len(manifest['labels']):,} labels"
    if manifest["vocabulary"] is not None:
        title += f" · {manifest['vocabulary']:,} answers"
    table = Table(
        title=title + (" · partial" if manifest["partial"] else ""), title_justify="left", caption_justify="left"
    )
    table.add_column("", overflow="ellipsis", no_wrap=True, max_width=30)
    for split in counts:
        table.add_column(split, justify="right", no_wrap=True)
    table.add_row("records", *(f"{part['records']:,}" for part in counts.values()), style="bold")
    table.add_row("images", *(f"{part['images']:,}" for part in counts.values()))
    if manifest["unanswerable"] and any(manifest["unanswerable"].values()):
        table.add_row("no known answer", *(_share(manifest["unanswerable"][split], counts[split]) for split in counts))
    for heading, key in (("by type", "by_type"), ("by label", "by_label"), ("most frequent answers", "top_answers")):
        _add_section(table, heading, key, counts)
    if manifest["images"] != "decoded":
        table.caption = "images: headers only" if manifest["images"] == "headers" else "images: unchecked"
    return table


def _add_section(table: Table, heading: str, key: str, counts: dict[str, Any]) -> None:
    total: Counter[str] = Counter()
    for part in counts.values():
        total.update(part.get(key, {}))
    if not total:
        return
    table.add_section()
    table.add_row(Text(heading, style="dim italic"))
    # Labels keep the order of their indices while they fit.
    names = list(total) if len(total) <= MOST_FREQUENT else [name for name, _ in total.most_common(MOST_FREQUENT)]
    for name in names:
        # Text, not str: rich reads square brackets in a str as mark-up.
        shown = [_share(part.get(key, {}).get(name, 0), part) for part in counts.values()]
        table.add_row(Text(f"  {name}" if name else "  (empty)"), *shown)
    if len(total) > len(names):
        rest = [sum(count for name, count in part[key].items() if name not in names) for part in counts.values()]
        cells = [_share(count, part) for count, part in zip(rest, counts.values(), strict=True)]
        table.add_row(f"  {len(total) - len(names):,} others", *cells)


def _share(count: int, part: dict[str, Any]) -> str:
    return f"{count:,} {100 * count / part['records']:5.1f} %" if part["records"] and count else "-"
