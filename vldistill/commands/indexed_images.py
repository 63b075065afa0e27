"""Which images `vldistill index build` encodes: those of a data artifact, or of a folder, all looked at before the first."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vldistill.artifacts import MANIFEST
from vldistill.commands.faults import all_faults
from vldistill.data.artifact import open_data
from vldistill.data.image_files import MAX_PIXELS, SUFFIXES, ImageInfo, check_images
from vldistill.data.images import ImageFolder
from vldistill.data.inputs import LeftOut, settled
from vldistill.errors import InputError, Problems
from vldistill.evaluation.image_index import IndexSource


@dataclass(frozen=True)
class Asked:
    """place: a folder of images, or a data artifact. limit: the first N of them. skip_broken: the share that may be left out.
    faults: where they are written, if anywhere. max_pixels: of an image in a folder, None: MAX_PIXELS; a data artifact has its
    own."""

    place: Path
    limit: int | None = None
    follow_links: bool = False
    skip_broken: float = 0.0
    faults: Path | None = None
    max_pixels: int | None = None


@dataclass(frozen=True)
class Found:
    """notes: what was skipped, for the user. left_out: for the manifest, where anything broken was."""

    source: IndexSource
    notes: list[str]
    left_out: LeftOut | None = None


def images_of(asked: Asked) -> Found:
    """The images of a data artifact, as it recorded them, or all image files below a folder. Raises InputError listing those that
    are broken, before any is encoded."""
    place = asked.place
    with all_faults(asked.faults) as problems:
        if (place / MANIFEST).exists():
            return _of_artifact(asked, problems)
        if not place.is_dir():
            raise InputError("no such folder", where=str(place), hint="give a folder of images, or a data artifact")
        paths, notes = _listed(asked, problems)
        if not paths and not problems:
            raise InputError(
                "holds no image" + "".join(f"; {note}" for note in notes),
                where=str(place),
                hint=f"files are known by {', '.join(SUFFIXES)}",
            )
        return _checked(asked, ImageFolder(place, most_pixels=asked.max_pixels or MAX_PIXELS), paths, notes, problems)


def _of_artifact(asked: Asked, problems: Problems) -> Found:
    if asked.max_pixels is not None:
        raise InputError(
            "--max-pixels is for a folder of images; this data artifact has its own",
            where=str(asked.place),
            hint="leave it out, or prepare the data again with it",
        )
    data = open_data(asked.place)
    rows = [json.loads(line) for line in data.verified("images.jsonl").read_text(encoding="utf-8").splitlines()][: asked.limit]
    files = data.images if isinstance(data.images, ImageFolder) else None
    if files is not None and data.manifest.get("images") != "decoded":
        return _checked(asked, files, [row["path"] for row in rows], [], problems)
    known = {row["path"]: ImageInfo.from_row(row) for row in rows}
    return Found(IndexSource(data.images, None if files is None else files.root, known), [])


def _checked(asked: Asked, images: ImageFolder, paths: list[str], notes: list[str], problems: Problems) -> Found:
    places = dict.fromkeys(paths, str(asked.place))
    known = check_images(images.root, paths, problems, places, follow_links=asked.follow_links, most_pixels=images.most_pixels)
    left = settled(problems, asked.skip_broken, len(known), str(asked.place))
    if left is not None:
        notes = [*notes, f"left out {left.images:,} of {len(paths):,} images ({left.share:.1%}), being broken"]
    return Found(IndexSource(images, images.root, known), notes, left)


def _listed(asked: Asked, problems: Problems) -> tuple[list[str], list[str]]:
    """The image files below the folder, in order, and what was passed over: hidden files, and those that are not read."""
    paths, hidden, others = [], 0, Counter()
    for path in _files(asked.place, asked.follow_links, problems):
        suffix = path.suffix.lower()
        if path.name.startswith("."):
            hidden += suffix in SUFFIXES
        elif suffix in SUFFIXES:
            paths.append(path.relative_to(asked.place).as_posix())
        else:
            others[suffix or "without ending"] += 1
    notes = [f"skipped {hidden:,} hidden files"] if hidden else []
    if others:
        commonest = sorted(others.items(), key=lambda kind: (-kind[1], kind[0]))[:8]
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in commonest)
        notes.append(f"skipped {others.total():,} files that are not read ({kinds}); images are known by {', '.join(SUFFIXES)}")
    return sorted(paths)[: asked.limit], notes


def _files(place: Path, follow_links: bool, problems: Problems) -> Iterator[Path]:
    """All files below a folder but those of hidden folders; a folder that cannot be read is a fault. Linked folders are gone
    into, each once, where links are followed."""
    gone_into = set()

    def unreadable(error: OSError) -> None:
        problems.add(f"cannot be read: {error.strerror or error}", where=str(error.filename), hint="check its permissions")

    for folder, folders, files in os.walk(place, followlinks=follow_links, onerror=unreadable):
        real = os.path.realpath(folder)
        if real in gone_into:
            folders.clear()
            continue
        gone_into.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder) / name for name in files)
