"""Several sources of regions as one: UNITER's image databases lie in folders of their own, a data set's in several of them, and
VCR's annotated boxes (`vcr_gt_...`) apart from the detected ones, of which an image has both, the annotated ones first."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vldistill.data.regions.keys import image_key
from vldistill.data.regions.store import ImageRegions
from vldistill.errors import InputError

DATABASE = "data.mdb"
_ANNOTATED = re.compile(r"(?:^|_)gt(?=_)")
Entry = tuple[str, str, ImageRegions | None]
"""Where it is, the image's name, and its regions, None of a faulty one, or of one that is not read again."""
Whole = tuple[str, str, ImageRegions]


def is_annotated(name: str) -> bool:
    """Whether a file's or a set's name says that its boxes are the data set's own."""
    return _ANNOTATED.search(name) is not None


def joined(parts: list[Whole]) -> Whole:
    """The regions of one image from several sources, in order; a confidence that one lacks is 1. Raises
    ValueError where they do not go together."""
    (where, name, first), others = parts[0], parts[1:]
    if not others:
        return where, name, replace(first, own=len(first.boxes)) if is_annotated(name) else first
    items = [regions for _, _, regions in parts]
    if len({regions.features.shape[1] for regions in items}) > 1:
        raise ValueError("has features of different widths in its sources")
    both = ("features", "boxes")
    merged: dict[str, Any] = {part: np.concatenate([getattr(regions, part) for regions in items]) for part in both}
    if any(regions.confidence is not None for regions in items):
        merged["confidence"] = np.concatenate(
            [np.ones(len(regions.boxes), np.float16) if regions.confidence is None else regions.confidence for regions in items]
        )
    labels = [regions.soft_labels for regions in items if regions.soft_labels is not None]
    merged["soft_labels"] = np.concatenate(labels) if len(labels) == len(items) else None
    own = sum(len(regions.boxes) for _, name, regions in parts if is_annotated(name))
    return where, name, replace(items[-1], **merged, own=own)


def file_groups(files: Iterable[Path]) -> Iterator[list[Path]]:
    """The files of each image, annotated boxes first; those of an image that are not an annotated and a detected one stay
    apart."""
    groups: dict[str, list[Path]] = {}
    for file in sorted(files, key=lambda file: (not is_annotated(file.name), file.name)):
        groups.setdefault(image_key(file.name), []).append(file)
    for together in groups.values():
        if len(together) == 2 and is_annotated(together[0].name) and not is_annotated(together[1].name):
            yield together
        else:
            yield from ([file] for file in together)


def databases(path: Path) -> list[list[Path]]:
    """The image databases that a path names: itself, or those in its folders (`img_db/<set>/feat_.../data.mdb`), in the order of
    their names, an annotated one together with the set's other. Raises InputError where a set has several."""
    if path.is_file() or (path / DATABASE).is_file():
        return [[path]]
    folders = sorted({database.parent for depth in (1, 2) for database in path.glob("*/" * depth + DATABASE)})
    sets: dict[str, Path] = {}
    for folder in folders:
        name = folder.parent.name if folder.name.startswith("feat_") else folder.name
        if name in sets:
            raise InputError(
                f"set {name} has several databases: {sets[name].name} and {folder.name}",
                where=str(path),
                hint="name one of them with --raw",
            )
        sets[name] = folder
    groups: dict[str, list[Path]] = {}
    for name, folder in sorted(sets.items(), key=lambda item: (not is_annotated(item[0]), item[0])):
        groups.setdefault(_ANNOTATED.sub("", name).strip("_"), []).append(folder)
    return list(groups.values())


def side_by_side(sources: list[Iterator[Entry]]) -> Iterator[list[Entry]]:
    """The entries of each image from two sources that are both in the order of their images' names, the first source first.
    Raises InputError where one is not."""
    heads: list[Entry | None] = [next(source, None) for source in sources]
    last: list[str] = [""] * len(sources)
    while any(head is not None for head in heads):
        key = min(image_key(head[1]) for head in heads if head is not None)
        together = []
        for number, head in enumerate(heads):
            if head is None or image_key(head[1]) != key:
                continue
            if key < last[number]:
                raise InputError(
                    f"image {head[1]} is out of order, so that it cannot be joined with other boxes",
                    where=head[0],
                    hint="import the sources one by one into stores of their own",
                )
            last[number] = key
            together.append(head)
            heads[number] = next(sources[number], None)
        yield together


def is_grid(boxes: np.ndarray) -> bool:
    """Whether [N, 4] boxes are the cells of a grid over the whole image, as no detector finds them."""
    if len(boxes) < 4:
        return False
    sides = boxes[:, 2:] - boxes[:, :2]
    same = np.ptp(sides, axis=0).max() < 0.01 and len(np.unique(boxes.round(3), axis=0)) == len(boxes)
    return bool(same and abs(float(sides.prod(axis=1).sum()) - 1) < 0.02)
