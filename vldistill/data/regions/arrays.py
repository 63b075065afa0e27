"""Numbers out of foreign containers: base64 texts, npz files and msgpack maps, none of which may bring code along."""

from __future__ import annotations

import base64
import binascii
import io
import re
from dataclasses import replace
from typing import Any

import numpy as np

from vldistill.data.regions.store import ImageRegions

# Booleans, integers and floats of a stated width; never objects.
_NUMERIC = re.compile(r"[<>|=]?[?biuf][1-8]?")
MAX_BOXES = 10_000
LONGEST_SIDE = 1 << 31  # a store has sizes as int32
_TOLERANCE = 0.01  # half precision and boxes that reach over the image's edge by a pixel


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
        raise ValueError(f"is no npz file of numbers: {str(error).splitlines()[0][:120] if str(error) else error!r}") from None


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
