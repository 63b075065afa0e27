"""Readers of published region features: UNITER's LMDB and npz files, bottom-up attention's TSV, OSCAR's torch dictionary and TSV,
VL-BERT's JSON. Each yields (`file:entry`, image name, regions) one by one; a faulty entry goes to `problems` and has no regions.

Pickle is read by none of them: numpy's own reader refuses it, torch's restricted reader runs no code, and msgpack's arrays are
decoded here.
"""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from vldistill.data.archive_readers import DamagedError
from vldistill.data.archive_readers import reading as reading_archive
from vldistill.data.records import parse_json
from vldistill.data.regions.arrays import (
    LONGEST_SIDE,
    Entry,
    databases,
    file_groups,
    from_base64,
    joined,
    normalised,
    numeric_array,
    read_npz,
    side_by_side,
)
from vldistill.data.regions.lmdb_entries import entries_of
from vldistill.data.regions.store import ImageRegions, image_key
from vldistill.errors import IMAGE, InputError, Problems, first_line, read_through

if TYPE_CHECKING:
    from torch import Tensor

_LONGEST_LINE = 1 << 26
_LARGEST_MEMBER = 1 << 26
_LARGEST_ID = 1 << 63
_OSCAR_BOX = 6


@dataclass(frozen=True)
class Reading:
    """problems: takes the faults. known: keys of images that are stored already, which are named but not read again."""

    problems: Problems
    known: Container[str] = ()


def optional(name: str) -> ModuleType:
    """A library of the extra `regions`. Raises InputError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f"{name} is not installed", hint="pip install 'vldistill[regions]'") from None


# --- UNITER -----------------------------------------------------------------------------------------------------------


def read_uniter_lmdb(path: Path, reading: Reading) -> Iterator[Entry]:
    """UNITER's image databases (see `databases`): values are msgpack maps, or npz files in the `_compressed` ones."""
    optional("lmdb")
    msgpack = optional("msgpack")
    for group in databases(path):
        sources = [_database(one, reading, msgpack) for one in group]
        parts = side_by_side(sources) if len(sources) > 1 else ([entry] for entry in sources[0])
        for together in parts:
            yield from _joined(together, reading)


def _database(path: Path, reading: Reading, msgpack: ModuleType) -> Iterator[Entry]:
    try:
        for raw_key, value in entries_of(path):
            key = raw_key.decode("utf-8", "replace")
            if key != "__keys__":
                yield from _guarded(f"{path}:{key}", key, reading, lambda v=value: _uniter(_unpack(v, msgpack)))
    except ValueError as error:
        reading.problems.add(str(error), where=str(path), hint="fetch it again")


def _joined(together: list[Entry], reading: Reading) -> Iterator[Entry]:
    """One image's entries as one, which has no regions where one of them has none; what is wrong with that goes to `problems`."""
    where, name, _ = together[-1]
    whole = [(place, own, regions) for place, own, regions in together if regions is not None]
    if len(whole) < len(together):
        yield where, name, None
        return
    try:
        yield joined(whole)
    except ValueError as error:
        hint = "import the sources one by one into stores of their own"
        reading.problems.add(str(error), where=where, hint=hint, part=IMAGE)


def _unpack(value: bytes, msgpack: ModuleType) -> dict[str, Any]:
    if value[:2] == b"PK":
        return read_npz(value)
    try:
        # Everything as bytes: older databases have texts where newer ones have bytes.
        table = msgpack.unpackb(value, raw=True, strict_map_key=False, object_hook=numeric_array)
    except Exception as error:  # msgpack's own, a key that is no key, a dtype that NumPy does not know
        raise ValueError(f"is no msgpack map of numbers: {error}") from None
    if not isinstance(table, dict):
        raise ValueError("is no msgpack map of numbers")
    return table


def _uniter(table: dict[str, Any]) -> ImageRegions:
    """norm_bb: [N, 6], x1/W, y1/H, x2/W, y2/H, w/W, h/H."""
    for name in ("features", "norm_bb"):
        if not isinstance(table.get(name), np.ndarray):
            raise ValueError(f"lacks `{name}`, found {', '.join(sorted(map(str, table))[:8]) or 'nothing'}")
    boxes = table["norm_bb"]
    if boxes.ndim != 2 or boxes.shape[1] < 4:
        raise ValueError(f"`norm_bb` has shape {list(boxes.shape)}, [boxes, 6] was expected")
    return ImageRegions(table["features"], boxes[:, :4], table.get("conf"), table.get("soft_labels"))


def read_npz_folder(path: Path, reading: Reading) -> Iterator[Entry]:
    """A folder of npz files, one an image (what UNITER's LMDB is made from), or two where annotated boxes have their own."""
    for group in file_groups(path.glob("*.npz")):
        together = [
            entry
            for file in group
            for entry in _guarded(str(file), file.name, reading, lambda f=file: _uniter(read_npz(f.read_bytes())))
        ]
        if together:
            yield from _joined(together, reading)


# --- bottom-up attention, OSCAR -----------------------------------------------------------------------------------------

# Columns by their number: Anderson et al.'s, and LXMERT's, which has the detector's classes too.
_TSV = {
    6: ("id", "width", "height", "count", "boxes", "features"),
    10: ("id", "height", "width", "classes", "confidence", "attributes", "attribute_confidence", "count", "boxes", "features"),
    3: ("id", "count", "oscar"),
}


def read_tsv(path: Path, reading: Reading) -> Iterator[Entry]:
    """Lines of base64 columns: bottom-up attention's (6 columns), LXMERT's (10) or OSCAR's (3)."""
    known = False
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), start=1):
            where = f"{path}:{number}"
            if not line.strip(b" \r\n"):
                continue
            columns = line.rstrip(b"\r\n").split(b"\t")
            if len(line) == _LONGEST_LINE or len(columns) not in _TSV:
                one = known and len(line) < _LONGEST_LINE  # among lines that are as they should be
                reading.problems.add(
                    f"has {len(columns)} columns, {', '.join(map(str, sorted(_TSV)))} are known",
                    where=where,
                    hint="is it a feature file? fetch it again",
                    part=IMAGE if one else None,
                )
                if not one:
                    return
                continue
            known = True
            row = dict(zip(_TSV[len(columns)], columns, strict=True))
            name = row["id"].decode("utf-8", "replace")
            yield from _guarded(where, name, reading, lambda row=row: _tsv_row(row))


def _tsv_row(row: dict[str, bytes]) -> ImageRegions:
    count = _whole(row["count"], "number of boxes")
    if "oscar" in row:
        return _oscar(from_base64(row["oscar"], None, count))
    width, height = _whole(row["width"], "width"), _whole(row["height"], "height")
    boxes = from_base64(row["boxes"], 4, count) / np.array([width, height] * 2, dtype=np.float32)
    confidence = from_base64(row["confidence"], 1, count) if "confidence" in row else None
    return ImageRegions(from_base64(row["features"], None, count), boxes, confidence, size=(width, height))


def _whole(text: bytes, name: str) -> int:
    if not text.isdigit() or len(text) > 9 or int(text) == 0:
        raise ValueError(f"{name} is {text[:20].decode('latin-1')!r}, a whole number of 1 or more was expected")
    return int(text)


def read_oscar(path: Path, reading: Reading) -> Iterator[Entry]:
    """A torch dictionary of image id to [N, D + 6], the last six x1/W, y1/H, x2/W, y2/H, w/W, h/H."""
    import torch

    read_through(path)
    try:
        table = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # the reader raises whatever a broken or forbidden pickle makes it
        reading.problems.add("is broken or holds more than tensors", where=str(path), hint="fetch it again")
        return
    if not isinstance(table, dict):
        reading.problems.add("is no dictionary of image id to tensor", where=str(path), hint="is it OSCAR's feature file?")
        return
    for key, value in table.items():
        known = type(key) is str or (type(key) is int and abs(key) < _LARGEST_ID)
        name = str(key) if known else type(key).__name__
        where = f"{path}:{name[:80]}"
        if known and isinstance(value, torch.Tensor):
            yield from _guarded(where, name, reading, lambda v=value: _oscar_tensor(v))
        else:
            reading.problems.add(
                "is no tensor" if known else "is no name of an image",
                where=_shown(where),
                hint="is it OSCAR's feature file?",
                part=IMAGE,
            )


def _oscar_tensor(value: Tensor) -> ImageRegions:
    if str(value.layout) != "torch.strided" or value.is_meta or value.is_complex():
        raise ValueError("is sparse, complex or without content, a plain tensor was expected")
    return _oscar(value.detach().float().numpy())


def _oscar(rows: np.ndarray) -> ImageRegions:
    if rows.ndim != 2 or rows.shape[1] <= _OSCAR_BOX:
        raise ValueError(f"has shape {list(rows.shape)}, [boxes, features + {_OSCAR_BOX}] was expected")
    return ImageRegions(rows[:, :-_OSCAR_BOX], rows[:, -_OSCAR_BOX:-2])


# --- VL-BERT ----------------------------------------------------------------------------------------------------------


def read_vlbert(path: Path, reading: Reading) -> Iterator[Entry]:
    """A folder, or a zip, of one JSON file an image, its numbers in base64; boxes in pixels."""
    if path.is_dir():
        for file in sorted(path.glob("*.json")):
            yield from _guarded(str(file), file.name, reading, lambda f=file: _vlbert(f.read_bytes()))
        return
    try:
        with reading_archive():
            opened = zipfile.ZipFile(path)
    except DamagedError as error:
        reading.problems.add(f"is no zip that can be read: it {error.message}", where=str(path), hint="fetch it again")
        return
    with opened as archive:
        for member in archive.infolist():
            if member.filename.endswith(".json"):
                yield from _guarded(
                    f"{path}:{member.filename}", member.filename, reading, lambda m=member: _vlbert(_member(archive, m))
                )


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(member) as file:
            data = file.read(_LARGEST_MEMBER + 1)
    except Exception as error:  # zlib.error, BadZipFile, RuntimeError (a password)
        raise ValueError(f"cannot be unpacked: {error}") from None
    if len(data) > _LARGEST_MEMBER:
        raise ValueError(f"is larger than {_LARGEST_MEMBER >> 20} MiB")
    return data


def _vlbert(data: bytes) -> ImageRegions:
    table = parse_json(data.decode("utf-8"))
    if not isinstance(table, dict):
        raise ValueError("a JSON object was expected")
    for name in ("image_w", "image_h", "num_boxes"):
        if type(table.get(name)) is not int or not 0 < table[name] < LONGEST_SIDE:
            raise ValueError(f"`{name}` is no whole number from 1 to {LONGEST_SIDE - 1:,}")
    whole = table.get("image_box_feature")
    for name in ("boxes", "features", *(["image_box_feature"] if whole is not None else [])):
        if not isinstance(table.get(name), str):
            raise ValueError(f"`{name}` is no text" if name in table else f"lacks `{name}`")
    size, count = (table["image_w"], table["image_h"]), table["num_boxes"]
    boxes = from_base64(table["boxes"], 4, count) / np.array(size * 2, dtype=np.float32)
    features = from_base64(table["features"], None, count)
    whole = None if whole is None else from_base64(whole, features.shape[1], 1)[0]
    return ImageRegions(features, boxes, image_feature=whole, size=size)


def _guarded(where: str, name: str, reading: Reading, read: Callable[[], ImageRegions]) -> Iterator[Entry]:
    """The entry that `read` makes, `normalised`, but for one that is known; whatever is wrong with it or its name goes to
    `problems`."""
    named, regions = _is_name(name), None
    try:
        if not named:
            raise ValueError("has no name that can be written as UTF-8")
        regions = None if image_key(name) in reading.known else normalised(read())
    except Exception as error:  # a file may hold anything, and each library raises its own at what it cannot take
        reading.problems.add(first_line(error), where=_shown(where), hint="fetch it again, or leave the image out", part=IMAGE)
    if named:
        yield _shown(where), name, regions


def _shown(where: str) -> str:
    """A place for a message of one line, on any terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in where)


def _is_name(name: str) -> bool:
    try:
        return bool(image_key(name)) and b"\0" not in name.encode()
    except UnicodeEncodeError:
        return False
