"""The numbers of an image's regions, checked, selected, and joined where several sources have some.

Foreign containers (base64 texts, npz files, msgpack maps) may bring no code along. UNITER's image databases lie in folders of
their own, a data set's in several of them, and VCR's annotated boxes (`vcr_gt_...`) apart from the detected ones, of which an
image has both, the annotated ones first.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vldistill.data.regions.store import ImageRegions, image_key
from vldistill.errors import InputError, first_line

# Booleans, integers and floats of a stated width; never objects.
_NUMERIC = re.compile(r"[<>|=]?[?biuf][1-8]?")
MAX_BOXES = 10_000
LONGEST_SIDE = 1 << 31  # a store has sizes as int32
_TOLERANCE = 0.01  # half precision and boxes that reach over the image's edge by a pixel
DATABASE = "data.mdb"
_ANNOTATED = re.compile(r"(?:^|_)gt(?=_)")
Entry = tuple[str, str, ImageRegions | None]
"""Where it is, the image's name, and its regions, None of a faulty one, or of one that is not read again."""
Whole = tuple[str, str, ImageRegions]


def from_base64(text: str | bytes, columns: int | None, rows: int, kind: str = "<f4") -> np.ndarray:
    """Base64 to [rows, columns], or to [rows, whatever fits] where `columns` is None. Raises ValueError."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"is not base64: {error}") from None
    size = np.dtype(kind).itemsize
    if len(data) % size or not rows or (len(data) // size) % rows or (columns and len(data) != size * rows * columns):
        expected = f"{rows} x {columns}" if columns else f"{rows} rows of"
        raise ValueError(f"holds {len(data):,} bytes, {expected} numbers of {size} bytes were expected")
    return np.frombuffer(data, kind).reshape(rows, -1)


def numeric_array(value: Any) -> Any:
    """What msgpack-numpy wrote as a map (`nd`, `type`, `shape`, `data`) as an array; anything else as it is. Raises ValueError
    for an array of objects, which that library would unpickle."""
    if not isinstance(value, dict):
        return value
    table = {key.decode("latin-1") if isinstance(key, bytes) else key: part for key, part in value.items()}
    if "nd" not in table:
        return table
    kind = table.get("type")
    kind = kind.decode("latin-1") if isinstance(kind, bytes) else kind
    if not isinstance(kind, str) or not _NUMERIC.fullmatch(kind) or not isinstance(table.get("data"), bytes):
        raise ValueError(f"holds an array of {str(kind)[:40]!r}, numbers were expected")
    array = np.frombuffer(table["data"], np.dtype(kind))
    return array.reshape(table.get("shape", ())) if table["nd"] else array.reshape(())


def read_npz(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of an npz file's content. Raises ValueError where it is broken or holds objects."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            # Some writers leave an array named after one of their own arguments.
            return {name: file[name] for name in file.files if name != "allow_pickle"}
    except Exception as error:  # zipfile, zlib and numpy each raise their own
        raise ValueError(f"is no npz file of numbers: {first_line(error)}") from None


def normalised(regions: ImageRegions) -> ImageRegions:
    """The regions with each part an array of numbers of its dimensions, one row a box. Raises ValueError for anything else: a
    file may hold things of any kind."""
    features, boxes = _numbers("features", regions.features, 2), _numbers("boxes", regions.boxes, 2)
    count, width = len(boxes), features.shape[1]
    if boxes.shape != (count, 4) or len(features) != count or width == 0:
        raise ValueError(f"has features {list(features.shape)} and boxes {list(boxes.shape)}")
    confidence, labels, whole = regions.confidence, regions.soft_labels, regions.image_feature
    if confidence is not None:  # a column in some files
        confidence = _numbers("confidence", confidence, 1, 2).reshape(-1)
    if labels is not None:
        labels = _numbers("soft_labels", labels, 2)
        if labels.shape[1] == 0:
            raise ValueError("has soft_labels of no class")
    for name, values in (("confidence", confidence), ("soft_labels", labels)):
        if values is not None and len(values) != count:
            raise ValueError(f"has {count} boxes and {len(values)} rows of {name}")
    if whole is not None:
        whole = _numbers("image_feature", whole, 1)
        if len(whole) != width:
            raise ValueError(f"has {width} features a box and {len(whole)} of the whole image")
    if regions.size is not None and not all(0 < side < LONGEST_SIDE for side in regions.size):
        raise ValueError(f"an image's sides are 1 to {LONGEST_SIDE - 1:,} pixels")
    return replace(regions, features=features, boxes=boxes, confidence=confidence, soft_labels=labels, image_feature=whole)


def _numbers(name: str, values: Any, *dimensions: int) -> np.ndarray:
    if not isinstance(values, np.ndarray):
        raise ValueError(f"`{name}` is of type {type(values).__name__}, an array of numbers was expected")
    if values.dtype.kind not in "fiu":
        raise ValueError(f"`{name}` holds {str(values.dtype)[:40]}, numbers were expected")
    if values.ndim not in dimensions:
        expected = " or ".join(map(str, dimensions))
        raise ValueError(f"`{name}` has {values.ndim} dimensions (shape {list(values.shape)}), {expected} were expected")
    return values


def checked(regions: ImageRegions) -> ImageRegions:
    """The regions with their parts as the store has them, once they are `normalised`. Raises ValueError for too many boxes or
    none, numbers that are not finite, and boxes that are inside out or far outside the image."""
    count = len(regions.boxes)
    if not 0 < count <= MAX_BOXES:
        raise ValueError(f"has {count:,} boxes, 1 to {MAX_BOXES:,} were expected")
    parts = {
        name: values
        for name in ("features", "confidence", "soft_labels", "image_feature")
        if (values := getattr(regions, name)) is not None
    }
    halves = {}
    with np.errstate(over="ignore"):
        for name, values in parts.items():
            halves[name] = values.astype(np.float16)
    boxes = regions.boxes.astype(np.float32)
    for name, values in (*halves.items(), ("boxes", boxes)):
        if not np.isfinite(values).all():
            raise ValueError(f"has {name} that are not finite" + ("" if name == "boxes" else " in half precision"))
    if (boxes < -_TOLERANCE).any() or (boxes > 1 + _TOLERANCE).any():
        raise ValueError("has boxes outside the image")
    if (boxes[:, 2:] < boxes[:, :2] - _TOLERANCE).any():
        raise ValueError("has boxes that end before they begin")
    return replace(regions, boxes=boxes.clip(0, 1), **halves)


def selected(regions: ImageRegions, threshold: float, fewest: int, most: int) -> ImageRegions:
    """The first boxes: as many as there are with a confidence above `threshold`, but `fewest` to `most` (UNITER's rule: boxes are
    stored by falling confidence). Without confidences, the first `most`."""
    if regions.confidence is None:
        keep = most
    else:
        keep = min(max(int((regions.confidence > threshold).sum()), fewest), most)
    parts = {
        name: None if (part := getattr(regions, name)) is None else part[:keep]
        for name in ("features", "boxes", "confidence", "soft_labels")
    }
    own = None if regions.own is None else min(regions.own, keep)
    return replace(regions, **parts, own=own)


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
