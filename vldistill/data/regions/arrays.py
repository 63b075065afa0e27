"""Numbers out of foreign containers: base64 texts, npz files and msgpack maps, none of which may bring code along."""

from __future__ import annotations

import base64
import binascii
import io
import re
from dataclasses import replace
from typing import Any

import numpy as np

from vldistill.data.regions.store import Regions

# Booleans, integers and floats of a stated width; never objects.
_NUMERIC = re.compile(r"[<>|=]?[?biuf][1-8]?")
MAX_BOXES = 10_000
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


def checked(regions: Regions) -> Regions:
    """The regions with their parts as the store has them. Raises ValueError for shapes that do not fit, numbers that are not
    finite, and boxes that are inside out or far outside the image."""
    count = len(regions.boxes)
    if regions.features.ndim != 2 or regions.boxes.shape != (count, 4) or len(regions.features) != count:
        raise ValueError(f"has features {list(regions.features.shape)} and boxes {list(regions.boxes.shape)}")
    if not 0 < count <= MAX_BOXES:
        raise ValueError(f"has {count:,} boxes, 1 to {MAX_BOXES:,} were expected")
    parts: dict[str, np.ndarray] = {"features": regions.features}
    if regions.confidence is not None:
        parts["confidence"] = regions.confidence.reshape(-1)
    if regions.soft_labels is not None:
        parts["soft_labels"] = regions.soft_labels
    for name, values in parts.items():
        if len(values) != count:
            raise ValueError(f"has {count} boxes and {len(values)} rows of {name}")
    if regions.image_feature is not None:
        parts["image_feature"] = regions.image_feature.reshape(-1)
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


def selected(regions: Regions, threshold: float, fewest: int, most: int) -> Regions:
    """The first boxes: as many as there are with a confidence above `threshold`, but `fewest` to `most` (UNITER's rule: boxes are
    stored by falling confidence). Without confidences, the first `most`."""
    if regions.confidence is None:
        keep = most
    else:
        keep = min(max(int((regions.confidence.reshape(-1) > threshold).sum()), fewest), most)
    parts = {name: None if (part := getattr(regions, name)) is None else part[:keep]
             for name in ("features", "boxes", "confidence", "soft_labels")}
    return replace(regions, **parts)
