"""The region store: features of image regions, found by image.

One use of `vldistill.store`, whose rows are images: an image's regions are one slice of each column (features and boxes of all
its boxes, and what else the source has), checked as everything there before it is used. A row's key is the sha1 of the image's
name (see `image_key`): feature files name images by number (`9`), by padded number (`coco_train2014_000000000009.npz`), or by
the image's own name (`nlvr2_dev-850-0-img0.npz`), records by path.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vldistill.artifacts import MANIFEST, check_fields, fingerprint
from vldistill.data.image_files import SUFFIXES
from vldistill.errors import InputError
from vldistill.store.layout import Column, load_manifest
from vldistill.store.reader import StoreReader
from vldistill.store.uses import REGIONS
from vldistill.store.writer import StoreWriter

_SUFFIXES = {".npz", ".npy", ".json", *SUFFIXES}
_PREFIX = re.compile(r"(?:coco_(?:train|val|test)20\d\d|flickr30k|vg|nlvr2|vcr_(?:gt_)?(?:train|val|test))_", re.IGNORECASE)
IMPORTED = "imported"
"""What is said of an import whose files do not say what made it."""
DETECTOR = "detector"
"""What made the features of an import: bottom-up attention, which published UNITER, VILLA, VL-BERT and OSCAR weights expect."""
VLBERT = "vlbert"
"""What made the features of VL-BERT's own image network."""
_OF_ROWS = "rows:"
_BY_BOX = ("features", "boxes", "confidence", "soft_labels")
_NAME, _SIZE, _OWN, _WHOLE = "name", "size", "own", "image_feature"


def image_key(name: str) -> str:
    """A file name, path or id without folder, known suffix, data set and leading zeros.

    COCO's numbers are unique over its splits. Numbers of two data sets may clash, so that each has a store of its own.

    >>> [image_key(n) for n in ("train2014/COCO_train2014_000000000009.jpg", "coco_train2014_000000000009.npz", "9")]
    ['9', '9', '9']
    """
    path = PurePosixPath(name)
    # Not `stem`: the name may hold dots of its own, as VCR's do.
    base = path.name.removesuffix(path.suffix) if path.suffix.lower() in _SUFFIXES else path.name
    prefix = _PREFIX.match(base)
    base = base[prefix.end() :] if prefix else base
    return (base.lstrip("0") or "0") if base.isascii() and base.isdigit() else base


@dataclass(frozen=True)
class ImageRegions:
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
    """Of images of a shape (see `ImageRegions.shape`). Boxes are shares of width and height, x1, y1, x2, y2; a size of zeros and
    a number of own boxes of -1 are not known; a name is UTF-8."""
    width, classes, confidence, whole = shape
    columns = [
        Column(_NAME, "uint8", ragged=True),
        Column(_SIZE, "int32", (2,)),
        Column(_OWN, "int32"),
        Column("features", "float16", (width,), ragged=True),
        Column("boxes", "float32", (4,), ragged=True),
    ]
    columns += [Column("confidence", "float16", ragged=True)] * confidence
    columns += [Column("soft_labels", "float16", (classes,), ragged=True)] if classes is not None else []
    return (*columns, *[Column(_WHOLE, "float16", (width,))] * whole)


def _shape_of(columns: tuple[Column, ...]) -> tuple[int, int | None, bool, bool]:
    """What `region_columns` was given."""
    shapes = {column.name: column.shape for column in columns}
    classes = shapes["soft_labels"][0] if "soft_labels" in shapes else None
    return shapes["features"][0], classes, "confidence" in shapes, _WHOLE in shapes


class RegionWriter:
    """Writes a store, image by image, behind those that an interrupted writer has left in the folder. said: what the manifest
    says of what is made. images, boxes, bytes: that are there. notes: of the caller, kept with the rows that they speak of."""

    def __init__(self, folder: Path, said: dict[str, Any] | None = None):
        self.images = self.boxes = self.bytes = 0
        self.notes: dict[str, Any] = {}
        self._folder, self._said, self._content = folder, dict(said or {}), 0
        self._writer: StoreWriter | None = None
        self._there: set[bytes] = set()
        if (folder / MANIFEST).exists():
            manifest = load_manifest(folder, REGIONS, partial=True)
            self._there = {key.tobytes() for key in self._open(manifest.columns).stored_keys()}
            if so_far := manifest.value.get("so_far"):
                self.images, self.boxes, self.bytes, content, self.notes = so_far
                self._content = int(content)

    def __enter__(self) -> RegionWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        """What was added stays, whatever ends the work."""
        if self._writer is not None:
            self._writer.__exit__(*error)

    def __contains__(self, key: object) -> bool:
        """Whether an earlier writer has left the image of this key."""
        return _row_key(str(key)) in self._there

    @property
    def shape(self) -> tuple[int, int | None, bool, bool]:
        """See `ImageRegions.shape`. Raises ValueError where there is no image."""
        if self._writer is None:
            raise ValueError("has no image")
        return _shape_of(self._writer.columns)

    def add(self, key: str, regions: ImageRegions) -> None:
        """Adds an image. Raises ValueError where its parts are not those of the images before it, and VldistillError where the
        disk is full."""
        writer = self._writer or self._open(region_columns(regions.shape))
        if self.shape != regions.shape:
            raise ValueError(f"has {_shown(regions.shape)}, the images before it have {_shown(self.shape)}")
        name, count = key.encode(), len(regions.features)
        values: dict[str, np.ndarray] = {
            _NAME: np.frombuffer(name, np.uint8),
            _SIZE: np.array([regions.size or (0, 0)], dtype=np.int32),
            _OWN: np.array([-1 if regions.own is None else regions.own], dtype=np.int32),
        }
        for column in writer.columns[len(values) :]:
            part = getattr(regions, column.name).astype(column.numpy)
            values[column.name] = part if column.ragged else part[None]
        lengths = {column.name: [count] for column in writer.columns if column.ragged} | {_NAME: [len(name)]}
        self.images, self.boxes = self.images + 1, self.boxes + count
        self.bytes += sum(value.nbytes for value in values.values())
        row = hashlib.sha256(b"".join(np.ascontiguousarray(values[column.name]).tobytes() for column in writer.columns))
        # A sum does not depend on the order of the rows, nor on where one shard ends and the next begins.
        self._content = (self._content + int.from_bytes(row.digest(), "big")) % (1 << 256)
        # Saved with the rows, to go on from.
        writer.said["so_far"] = [self.images, self.boxes, self.bytes, str(self._content), self.notes]
        writer.put([_row_key(key)], values, lengths)

    def commit(self) -> None:
        """Writes what was added as a shard. Raises VldistillError where the disk does not take it."""
        if self._writer is not None:
            self._writer.commit()

    def close(self, *, features: str, **said: Any) -> dict[str, Any]:
        """Declares the store complete and returns its manifest. features: what made them (see `RegionStore.features`). Raises
        VldistillError where the disk is full, and ValueError where there is no image."""
        width, classes, confidence, whole = self.shape
        said |= {
            "features": features,
            "images": self.images,
            "boxes": self.boxes,
            "bytes": self.bytes,
            "width": width,
            "classes": classes,
            "confidence": confidence,
            "image_features": whole,
            "fingerprint": _OF_ROWS + fingerprint({"rows": str(self._content), "shape": self.shape, "features": features}),
            "complete": True,
        }
        if self._writer is not None:
            self._writer.said |= said
            self._writer.__exit__(None)
        return load_manifest(self._folder, REGIONS).value

    def _open(self, columns: tuple[Column, ...]) -> StoreWriter:
        self._writer = StoreWriter(self._folder, REGIONS, columns, self._said).__enter__()
        return self._writer


def same_regions(kept: str, current: str) -> bool:
    """Whether a run's store, by the fingerprint that the run kept, is the one found. That of an earlier layout was of its files,
    which are no more: it is believed."""
    return kept == current or not kept.startswith(_OF_ROWS)


def _row_key(name: str) -> bytes:
    return hashlib.sha1(name.encode(errors="surrogateescape"), usedforsecurity=False).digest()


def _shown(shape: tuple[int, int | None, bool, bool]) -> str:
    width, classes, confidence, whole = shape
    parts = [f"{width} features a box"]
    parts += [f"{classes} classes"] if classes is not None else []
    return ", ".join([*parts, *["confidences"] * confidence, *["a feature of the whole image"] * whole])


class RegionStore:
    """A store, read by image: `store["train2014/COCO_train2014_000000000009.jpg"]`, or by its key `9` (see `image_key`).

    Files are opened at the first read in each process, so that a DataLoader's workers may be forked or spawned.
    """

    def __init__(self, folder: Path):
        """Raises InputError where `folder` is no complete store, has the layout of an earlier version, or a file is not what its
        manifest says."""
        self.folder, self._rows = folder, StoreReader(folder, REGIONS)
        self.manifest = self._rows.manifest.value
        check_fields(self.manifest, folder, width=int, images=int, features=str, fingerprint=str)
        self._parts = {column.name for column in self._rows.columns}
        if lost := {_NAME, _SIZE, _OWN, "features", "boxes"} - self._parts:
            again = REGIONS.mend(folder, self.manifest)
            raise InputError(f"its rows have no {min(lost)}", where=str(folder / MANIFEST), hint=again)
        len(self._rows)
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

    def __getitem__(self, image: str) -> ImageRegions:
        """The regions of an image, by its path or its key. Raises InputError where it has none, or they were changed on disk."""
        row = self._known(image)
        parts = {name: self._rows.read_ragged(row, name) for name in _BY_BOX if name in self._parts}
        whole = self._rows.read([row], _WHOLE)[0] if _WHOLE in self._parts else None
        width, height = self._rows.read([row], _SIZE)[0].tolist()
        own = int(self._rows.read([row], _OWN)[0])
        return ImageRegions(**parts, image_feature=whole, size=(width, height) if width else None, own=own if own >= 0 else None)

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
