"""`prepare`: a raw data set is read, checked whole, and written as a data artifact of records.

Records go to a temporary folder as they are read; it becomes the artifact when every line and every image has been checked, and
is removed otherwise. All faults are told at once. An artifact can be given variants of its splits and shards later, which do not
change its fingerprint; its manifest is written last, so that a file without an entry is none.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vldistill import artifacts
from vldistill.artifacts import file_digest, read_manifest, write_manifest
from vldistill.data import image_files
from vldistill.data.answers import ANSWERS_FILE
from vldistill.data.image_files import ImageInfo
from vldistill.data.inputs import LeftOut, inputs_signature, judge, may_be_left_out, signatures
from vldistill.data.records import TASKS, read_text
from vldistill.data.shards import SHARDS_FOLDER, pack_shards
from vldistill.data.sources.table import Answers, Source, SourceData, SourceOptions, source_name, source_of
from vldistill.data.transforms import ImageTransform, size_faults
from vldistill.data.variants import Variants, make_variants
from vldistill.data.writing import IMAGES_FILE, RecordWriter
from vldistill.errors import InputError, Problems
from vldistill.locking import exclusive
from vldistill.versions import gone_on

Progress = Callable[[int, int], None]
_VILT = ImageTransform(size=384, patch=32).seen
"""The size rule by which `prepare` tells of images that most students would see badly; a training tells by its own."""
_ONCE_OF_ALL = ("min_answer_count", "vqa_split", "val_directories", "labels", "task")
"""Options of some sources, which an earlier version wrote into every manifest."""
_OLD_TEXTS = "its texts are split into words, as an earlier version kept them: --overwrite keeps them as they are written"
_LOOKED_AT = 32
"""Images of a copied raw folder whose contents are compared."""


def add_missing(
    out: Path, manifest: dict[str, Any], variants: Variants, shards: int | None, *, dry_run: bool, progress: Progress | None
) -> dict[str, Any]:
    """Adds those of `variants`, and the shards of so many samples a tar, that the artifact `out` lacks.

    Returns its manifest, with the names of new variants as `added` and whether there are new shards as `packed` (not on disk).
    Raises InputError where it has other shards, was edited since it was made, or another process is writing it.
    """
    missing, packing = _lacking(out, manifest, variants, shards)
    if not missing and not packing:
        return manifest
    if dry_run:
        return manifest | ({"packed": True} if packing else {}) | ({"added": missing} if missing else {})
    with exclusive(out):
        # Another may have added to it until now.
        manifest = read_manifest(out, "prepare", make_it="vldistill prepare") | {"unchanged": True}
        for place in (*out.glob(".variants-*"), *out.glob(".shards-*")):
            shutil.rmtree(place)  # a killed process's
        missing, packing = _lacking(out, manifest, variants, shards)
        if packing:
            manifest = _add_shards(out, manifest, shards, progress)
        return _add_variants(out, manifest, missing) if missing else manifest


def _lacking(out: Path, manifest: dict[str, Any], variants: Variants, shards: int | None) -> tuple[list[str], bool]:
    """Variants to be made, and whether shards are. Raises InputError where there are shards of another size."""
    labelled = [split for split, part in manifest["counts"].items() if part["labelled"]]
    names = variants.names(list(manifest["counts"]), labelled) if variants else []
    missing = [name for name in names if name not in manifest["variants"]]
    packed = manifest["options"].get("shards")
    if None not in (shards, packed) and shards != packed:
        raise InputError(
            f"already has shards, of {packed:,} samples", where=str(out), hint=f"pass --overwrite, or --shards {packed}"
        )
    return missing, shards is not None and packed is None


def pack_images(
    folder: Path, out: Path, manifest: dict[str, Any], images: dict[str, ImageInfo], shards: int, progress: Progress | None
) -> None:
    """Packs the artifact `folder` into `out` (see `pack_shards`), and enters the shards in its manifest."""
    packed = pack_shards(folder, out, Path(manifest["raw_root"]), list(manifest["counts"]), images, shards, progress)
    manifest["shards"] = packed.shards
    manifest["files"] |= packed.files


def _add_variants(out: Path, manifest: dict[str, Any], missing: list[str]) -> dict[str, Any]:
    with TemporaryDirectory(dir=out, prefix=".variants-") as place:
        entries = make_variants(out, Path(place), manifest["task"], manifest["labels"], missing)
        for name in missing:
            (Path(place) / f"{name}.jsonl").replace(out / f"{name}.jsonl")
    manifest = {**manifest, "variants": {**manifest["variants"], **entries}, **gone_on(manifest)}
    _write(out, manifest)
    return {**manifest, "added": missing}


def _add_shards(out: Path, manifest: dict[str, Any], shards: int, progress: Progress | None) -> dict[str, Any]:
    for name in (IMAGES_FILE, *(f"{split}.jsonl" for split in manifest["counts"])):
        if file_digest(out / name) != manifest["files"][name]:
            raise InputError("differs from what its manifest records", where=str(out / name), hint="prepare with --overwrite")
    images = {row["path"]: ImageInfo.from_row(row) for row in _image_rows(out)}
    manifest = {**manifest, "files": dict(manifest["files"]), "options": {**manifest["options"], "shards": shards}}
    with TemporaryDirectory(dir=out, prefix=".shards-") as place:
        folder = Path(place) / SHARDS_FOLDER
        pack_images(out, folder, manifest, images, shards, progress)
        # There where a command was killed before it could write the manifest.
        shutil.rmtree(out / SHARDS_FOLDER, ignore_errors=True)
        folder.rename(out / SHARDS_FOLDER)
    _write(out, manifest)
    return {**manifest, "packed": True}


def _write(out: Path, manifest: dict[str, Any]) -> None:
    transient = ("unchanged", "added", "packed", "advice")
    write_manifest(out, {key: value for key, value in manifest.items() if key not in transient})


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
    reading: Callable[[int], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
    packing: Callable[[int, int], None] | None = None,
    variants: Variants | None = None,
    shards: int | None = None,
    skip_broken: float = 0.0,
    max_pixels: int | None = None,
    problems: Problems | None = None,
) -> dict[str, Any]:
    """Reads `raw` as `dataset`, checks it, writes the artifact `out` and returns its manifest.

    limit: only the first N records of each split (the manifest says `partial`). decode_images: decode every image, not
    only its header. check_images: look at images at all (without, the artifact has no image list and says
    `unchecked`). follow_links: images may be links that lead out of the raw folder. dry_run: everything but the writing.
    reading(done) counts records, progress(done, total) images, packing(done, total) samples. variants: what to make of its
    splits, beside them. shards: also pack the images into tars of so many samples. skip_broken: share of the records that may be
    left out, being faulty or with a broken image; `left_out` of the manifest counts them. max_pixels: of an image, for those who
    read the artifact, too; None: MAX_PIXELS. problems: takes the faults.
    An artifact that was made of the same input with the same options is kept: variants and shards that it lacks are added, and
    the manifest comes back with `unchanged`, `added`, `packed` and `advice` (not on disk). Raises InputError with every fault
    found; nothing is then left behind.
    """
    started = time.monotonic()
    name = source_name(dataset)
    source, variants = source_of(name), variants or Variants()
    options = options or source.options()
    check_request(source, options, limit, variants, shards, check_images)
    if not raw.exists():
        raise InputError("no such folder", where=str(raw), hint="give the folder of the raw files")
    if not raw.is_dir() and not source.one_file:
        raise InputError("is a file, the folder of the raw files was expected", where=str(raw))
    looked = ("decoded" if decode_images else "headers") if check_images else "unchecked"
    asked = {**json.loads(json.dumps(asdict(options))), "limit": limit, "images": looked, "follow_links": follow_links}
    asked |= {name: value for name, value in (("skip_broken", skip_broken), ("max_pixels", max_pixels)) if value}
    if not dry_run:
        artifacts.settle(out)
    if not overwrite and (kept := _unchanged(out, name, raw, asked)) is not None:
        if kept["raw_root"] != _root_of(raw):
            kept = _take_over(out, kept, raw, dry_run=dry_run)
        return add_missing(out, kept, variants, shards, dry_run=dry_run, progress=packing)
    artifacts.refuse_inputs_in(out, raw)
    artifacts.refuse_existing(out, overwrite, "prepare")
    with ExitStack() as stack:
        # Removed again where anything is wrong.
        folder = None if dry_run else stack.enter_context(artifacts.building(out, overwrite=overwrite, stage="prepare"))
        problems = Problems() if problems is None else problems
        # To leave some out, records have to be there.
        kept = Path(stack.enter_context(TemporaryDirectory())) if folder is None and skip_broken else folder
        with RecordWriter(source.task or "", kept, limit, reading) as writer:
            data = writer.data
            source.read(raw, options, problems, data)
        variants.check(data.task)
        if shards is not None and data.task in TASKS and not TASKS[data.task].images:
            problems.add("--shards packs images, there are none", where=str(raw), hint="leave it out")
        lines = len({fault.where for fault in problems.items})
        if check_images:
            images = image_files.check_images(
                data.root or raw,
                writer.where_of,
                problems,
                writer.where_of,
                decode=decode_images,
                follow_links=follow_links,
                progress=progress,
                most_pixels=max_pixels or image_files.MAX_PIXELS,
            )
        else:
            image_files.check_paths(writer.where_of, problems, writer.where_of)
            images = {}
        if not problems and not writer.records:
            problems.add("holds no record" + (f" of {', '.join(options.splits)}" if options.splits else ""), where=str(raw))
        left = None
        if problems and skip_broken and may_be_left_out(problems):
            broken = set(writer.where_of) - set(images) if check_images else set()
            dropped = writer.leave_out(broken)
            left = LeftOut(lines, len(broken), dropped, writer.records)
            judge(left, skip_broken, problems, str(raw))
            data.notes.append(str(left))
            if isinstance(options, Answers) and data.vocabulary is not None and not len(data.vocabulary):
                problems.add(f"no answer occurs {options.min_answer_count} times", where=str(raw), hint="lower --min-count")
                problems.raise_if_any(str(raw))
        else:
            problems.raise_if_any(str(raw))
        if faults := str(size_faults(((path, info.width, info.height) for path, info in images.items()), _VILT)):
            data.notes.append(f"{faults}, as ViLT sees them (384 pixels, patches of 32)")
        if turned := [path for path, info in images.items() if info.turned]:
            data.notes.append(
                f"{len(turned):,} of {len(images):,} images lie on their side by their EXIF data ({turned[0]}); "
                "students see them as they are stored, with image.exif=true upright"
            )
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
            written=writer.written,
            **({} if left is None else {"left_out": asdict(left)}),
            images=asked["images"],
            options={**asked, "shards": shards},
            **signatures(raw, images),
        )
        missing = variants.names(list(manifest["counts"]), writer.labelled()) if variants else []
        if folder is not None:
            _finish(folder, data, images if check_images else None)
            manifest["files"] = {path.name: artifacts.file_digest(path) for path in sorted(folder.iterdir())}
            # Before there are shards: they are another form of the same images, so what was trained on one fits the other.
            parts = {key: manifest[key] for key in ("dataset", "task", "labels", "files")}
            manifest["fingerprint"] = artifacts.fingerprint(parts)
            if shards is not None:
                pack_images(folder, folder / SHARDS_FOLDER, manifest, images, shards, packing)
            manifest |= {"wall_s": round(time.monotonic() - started, 2), "complete": True}
            manifest["variants"] = make_variants(folder, folder, data.task, data.labels, missing)
            artifacts.write_manifest(folder, manifest)
    return manifest


def _unchanged(out: Path, name: str, raw: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of an artifact that is whole and was made of the same input in the same way; else None. Raises InputError
    where it was, and has lost files."""
    try:
        manifest = artifacts.read_manifest(out, "prepare", make_it="")
        paths = _named_beside(raw, out)
    except (InputError, ValueError, KeyError):
        return None
    # Shards can be added, and do no harm to who did not ask for them.
    passed_over = {"shards", *_ONCE_OF_ALL} - asked.keys()
    options = {key: value for key, value in manifest.get("options", {}).items() if key not in passed_over}
    same = manifest["dataset"] == name and options == asked
    if not same or not (manifest.get("inputs") == inputs_signature(raw, paths) or _is_a_copy(out, manifest, raw, paths)):
        return None
    artifacts.check_files(out, manifest)
    if TASKS[manifest["task"]].text and not source_of(name).worded and not manifest.get("written"):
        manifest["advice"] = _OLD_TEXTS
    return {**manifest, "unchanged": True}


def check_request(
    source: Source, options: SourceOptions, limit: int | None, variants: Variants, shards: int | None, check_images: bool
) -> None:
    """Raises InputError where an option cannot be, or means nothing for the source, before anything is read."""
    if not isinstance(options, source.options):
        raise InputError(
            f"{type(options).__name__} are not the options of {source.about}", hint=f"give {source.options.__name__}"
        )
    options.check()
    for what, number in (("limit", limit), ("shards", shards)):
        if number is not None and number < 1:
            raise InputError(f"{what} is {number}", hint="give 1 or more")
    if shards is not None and not check_images:
        raise InputError("--shards needs images that are checked", hint="leave out --images none")
    if source.task is not None:
        variants.check(source.task)


def _finish(folder: Path, data: SourceData, images: dict[str, ImageInfo] | None) -> None:
    """Writes what stands beside the records: the images and the answer vocabulary."""
    if images is not None:
        with (folder / IMAGES_FILE).open("w", encoding="utf-8", newline="\n") as file:
            for path, info in images.items():
                file.write(json.dumps(info.to_row(path), ensure_ascii=False) + "\n")
    if data.vocabulary is not None:
        artifacts.write_json(folder / ANSWERS_FILE, data.vocabulary.to_json())


def _image_rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in read_text(out / IMAGES_FILE).splitlines()]


def _named_beside(raw: Path, out: Path) -> list[str]:
    """The images of an artifact where its input is a single file, whose signature counts them."""
    return [row["path"] for row in _image_rows(out)] if raw.is_file() else []


def _root_of(raw: Path) -> str:
    """What image paths of a raw folder, or file, are relative to."""
    return str((raw if raw.is_dir() else raw.parent).resolve())


def _is_a_copy(out: Path, manifest: dict[str, Any], raw: Path, paths: list[str]) -> bool:
    """Whether a raw folder at another place has the same files in the same sizes, and the same images where that was looked at:
    copies do not keep the times by which a folder that stayed where it was is known."""
    elsewhere = manifest["raw_root"] != _root_of(raw)
    if not elsewhere or manifest.get("inputs_sizes") != inputs_signature(raw, paths, times=False):
        return False
    if not (out / IMAGES_FILE).exists():
        return True
    rows = _image_rows(out)
    return all(
        artifacts.file_digest(Path(_root_of(raw)) / row["path"], "sha1") == row["sha1"]
        for row in rows[:: max(1, len(rows) // _LOOKED_AT)]
    )


def _take_over(out: Path, manifest: dict[str, Any], raw: Path, *, dry_run: bool) -> dict[str, Any]:
    """The manifest, which says from now on that the raw files lie in another place. Nothing else of the artifact changes, and
    what was trained on it stays valid."""
    moved = {"raw_root": _root_of(raw), "moved_from": manifest["raw_root"]}
    if not dry_run:
        with exclusive(out):
            written = artifacts.read_manifest(out, "prepare", make_it="vldistill prepare")
            artifacts.write_manifest(out, {**written, "raw_root": moved["raw_root"], **signatures(raw, _named_beside(raw, out))})
    return manifest | moved
