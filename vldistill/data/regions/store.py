"""The region store: features of image regions, found by image.

A folder with a manifest and the shards of a `vldistill.store`, whose rows are images: an image's regions are one slice of each
column (features and boxes of all its boxes, and what else the source has), checked as everything there before it is used. A row's
key is the sha1 of the image's name (see `image_key`).
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vldistill.artifacts import MANIFEST, check_fields, read_manifest
from vldistill.data.regions.keys import image_key
from vldistill.errors import InputError
from vldistill.staging import damaged
from vldistill.store.folder_writer import FolderWriter, write_all
from vldistill.store.layout import Column
from vldistill.store.reader import Rows
from vldistill.store.table import read_table

STAGE = "regions"
IMPORTED = "imported"
"""What is said of an import whose files do not say what made it."""
DETECTOR = "detector"
"""What made the features of an import: bottom-up attention, which published UNITER, VILLA, VL-BERT and OSCAR weights expect."""
VLBERT = "vlbert"
"""What made the features of VL-BERT's own image network."""
SHARD_ROWS = 1 << 15
_BY_BOX = ("features", "boxes", "confidence", "soft_labels")
_NAME, _SIZE, _OWN, _WHOLE = "name", "size", "own", "image_feature"


@dataclass(frozen=True)
class Regions:
    """One image's regions. features: [N, D]. boxes: [N, 4] in [0, 1]. confidence: [N]. soft_labels: [N, C] over the detector's
    classes, background first. image_feature: [D], of the whole image. size: (width, height) in pixels. own: how many of the first
    boxes are the data set's own. None: not known."""

    features: np.ndarray
    boxes: np.ndarray
    confidence: np.ndarray | None = None
    soft_labels: np.ndarray | None = None
    image_feature: np.ndarray | None = None
    size: tuple[int, int] | None = None
    own: int | None = None

    @property
    def shape(self) -> tuple[int, int | None, bool, bool]:
        """What all images of a store have in common: feature width, number of classes, and which optional parts there are."""
        classes = None if self.soft_labels is None else self.soft_labels.shape[1]
        return self.features.shape[1], classes, self.confidence is not None, self.image_feature is not None


def region_columns(shape: tuple[int, int | None, bool, bool]) -> tuple[Column, ...]:
    """Of images of a shape (see `Regions.shape`). Boxes are shares of width and height, x1, y1, x2, y2; a size of zeros and a
    number of own boxes of -1 are not known; a name is UTF-8."""
    width, classes, confidence, whole = shape
    found = [
        Column(_NAME, "uint8", ragged=True),
        Column(_SIZE, "int32", (2,)),
        Column(_OWN, "int32"),
        Column("features", "float16", (width,), ragged=True),
        Column("boxes", "float32", (4,), ragged=True),
    ]
    found += [Column("confidence", "float16", ragged=True)] * confidence
    found += [Column("soft_labels", "float16", (classes,), ragged=True)] if classes is not None else []
    return (*found, *[Column(_WHOLE, "float16", (width,))] * whole)


class RegionWriter:
    """Collects regions and writes a shard whenever SHARD_ROWS boxes are together; `close` writes the last one."""

    def __init__(self, folder: Path, *, shard_rows: int = SHARD_ROWS):
        self.images = self.boxes = 0
        self.shape: tuple[int, int | None, bool, bool] | None = None
        self._folder, self._shard_rows, self._rows = folder, shard_rows, 0
        self._writer: FolderWriter | None = None
        self._held: list[tuple[str, Regions]] = []

    def add(self, key: str, regions: Regions) -> None:
        """Adds an image. Raises ValueError where its parts are not those of the images before it, and VldistillError where the
        disk is full."""
        if self.shape is None:
            self.shape = regions.shape
            self._writer = FolderWriter(self._folder, region_columns(self.shape))
        elif self.shape != regions.shape:
            raise ValueError(f"has {_shown(regions.shape)}, the images before it have {_shown(self.shape)}")
        count = len(regions.features)
        if self._held and self._rows + count > self._shard_rows:
            self._flush()
        self._held.append((key, regions))
        self._rows += count
        self.images, self.boxes = self.images + 1, self.boxes + count

    def close(self) -> dict[str, Any]:
        """Returns what the manifest says of the rows (see `FolderWriter.fields`). Raises VldistillError where the disk is
        full."""
        if self._held:
            self._flush()
        return self._writer.fields() if self._writer else {}

    def _flush(self) -> None:
        names, held = [key.encode() for key, _ in self._held], [regions for _, regions in self._held]
        columns = region_columns(self.shape)
        values = {
            _NAME: np.frombuffer(b"".join(names), np.uint8),
            _SIZE: np.array([regions.size or (0, 0) for regions in held], dtype=np.int32),
            _OWN: np.array([-1 if regions.own is None else regions.own for regions in held], dtype=np.int32),
        }
        counts = np.array([len(regions.features) for regions in held])
        lengths = {column.name: counts for column in columns if column.ragged}
        lengths[_NAME] = np.array([len(name) for name in names])
        for column in columns[3:]:
            parts = [getattr(regions, column.name) for regions in held]
            values[column.name] = (np.concatenate if column.ragged else np.stack)(parts).astype(column.numpy)
        write_all(self._writer, [_row_key(key) for key, _ in self._held], values, lengths)
        self._rows = 0
        self._held.clear()


def _row_key(name: str) -> bytes:
    return hashlib.sha1(name.encode(errors="surrogateescape"), usedforsecurity=False).digest()


def _shown(shape: tuple[int, int | None, bool, bool]) -> str:
    width, classes, confidence, whole = shape
    parts = [f"{width} features a box"]
    parts += [f"{classes} classes"] if classes is not None else []
    return ", ".join([*parts, *["confidences"] * confidence, *["a feature of the whole image"] * whole])


def make_again(folder: Path, manifest: dict[str, Any]) -> str:
    """The command that makes a store once more, as far as its manifest tells."""
    options = manifest.get("options") or {}
    words = ["vldistill", "prepare", "regions", *(["import", "--raw"] if "format" in options else ["compute", "--data"])]
    words.append(str(manifest.get("source", "FEATURES")))
    if "format" in options:
        words += [
            "--format",
            options["format"],
            "--threshold",
            f"{options['threshold']:g}",
            "--boxes",
            ",".join(map(str, options["boxes"])),
        ]
    else:
        way, _, side = str(options.get("boxes")).partition(" ")
        given = {"--weights": options.get("weights"), "--network": options.get("network"), "--grid": side * (way == "grid")}
        words += [word for option, value in given.items() if value and value != "hub" for word in (option, str(value))]
    words += ["--limit", str(options["limit"])] if options.get("limit") else []
    return shlex.join([*words, "--out", str(folder), "--overwrite"])


class RegionStore:
    """A store, read by image: `store["train2014/COCO_train2014_000000000009.jpg"]`, or by its key `9` (see `image_key`).

    Files are opened at the first read in each process, so that a DataLoader's workers may be forked or spawned.
    """

    def __init__(self, folder: Path):
        """Raises InputError where `folder` is no complete store, has the layout of an earlier version, or a file has another size
        than its manifest says."""
        self.folder = folder
        self.manifest = read_manifest(folder, STAGE, make_it="vldistill prepare regions import --raw FEATURES")
        check_fields(self.manifest, folder, sizes=dict, width=int, images=int, features=str)
        again = f"make it again with: {make_again(folder, self.manifest)}"
        if "shards" not in self.manifest:
            raise InputError("was made by an earlier version, whose features cannot be checked", where=str(folder), hint=again)
        check_fields(self.manifest["sizes"], folder, **dict.fromkeys(self.manifest["sizes"], int))
        for name, size in self.manifest["sizes"].items():
            path = folder / name
            if not path.is_file():
                raise damaged(path, "is named in the manifest but missing", again)
            if path.stat().st_size != size:
                raise damaged(path, f"has {path.stat().st_size:,} bytes, its manifest says {size:,}", again)
        table = read_table(folder, self.manifest, again)
        self._parts = {column.name for column in table.columns}
        if lost := {_NAME, _SIZE, _OWN, "features", "boxes"} - self._parts:
            raise InputError(f"its rows have no {min(lost)}", where=str(folder / MANIFEST), hint=again)
        self._rows = Rows(table)
        self._counts: np.ndarray | None = None

    @property
    def width(self) -> int:
        """D, the number of features of a box."""
        return self.manifest["width"]

    @property
    def features(self) -> str:
        """What made the features: "detector" (bottom-up attention, which published UNITER, VILLA and OSCAR weights expect),
        "vlbert" or the name of an ImageNet backbone."""
        return self.manifest["features"]

    def __len__(self) -> int:
        return self.manifest["images"]

    def __iter__(self) -> Iterator[str]:
        for row in range(len(self._rows)):
            yield self._rows.read_ragged(row, _NAME).tobytes().decode()

    def __contains__(self, image: str) -> bool:
        return bool(self._find(image) >= 0)

    def __getitem__(self, image: str) -> Regions:
        """The regions of an image, by its path or its key. Raises InputError where it has none, or they were changed on disk."""
        row = self._known(image)
        parts = {name: self._rows.read_ragged(row, name) for name in _BY_BOX if name in self._parts}
        whole = self._rows.read([row], _WHOLE)[0] if _WHOLE in self._parts else None
        width, height = self._rows.read([row], _SIZE)[0].tolist()
        own = int(self._rows.read([row], _OWN)[0])
        return Regions(**parts, image_feature=whole, size=(width, height) if width else None, own=own if own >= 0 else None)

    def count(self, image: str) -> int:
        """How many there are, without reading them."""
        row = self._known(image)
        if self._counts is None:
            self._counts = self._rows.lengths("boxes")
        return int(self._counts[row])

    def _find(self, image: str) -> int:
        return int(self._rows.find([_row_key(image_key(image))])[0])

    def _known(self, image: str) -> int:
        row = self._find(image)
        if row < 0:
            raise InputError(f"has no regions of {image}", where=str(self.folder), hint="import the features of all its images")
        return row
