"""The region store: features of image regions in HDF5, found by image.

A folder with a manifest and shards `regions-00000.h5`, each with plain contiguous datasets, so that an image's rows are one slice
of a memory map (chunks and compression cost 8 to 500 times at random reads). Of N boxes and M images a shard holds
features [N, D] float16, boxes [N, 4] float32 (x1, y1, x2, y2 as shares of width and height), keys [M], starts [M + 1] and sizes
[M, 2] (width, height in pixels; 0 where unknown); where the source has them confidence [N], soft_labels [N, C] and
image_features [M, D], all float16. sums [M] is a CRC-32 of all of an image's values, by which damage is seen as it is read.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np

from vldistill.artifacts import check_fields, read_manifest
from vldistill.data.image_files import SUFFIXES
from vldistill.data.regions.keys import image_key
from vldistill.errors import InputError, first_line

STAGE = "regions"
DETECTOR = "detector"
"""What made the features of an import: bottom-up attention, which published UNITER, VILLA, VL-BERT and OSCAR weights expect."""
VLBERT = "vlbert"
"""What made the features of VL-BERT's own image network."""
SHARD_ROWS = 1 << 15
_BY_BOX = {"features": np.float16, "boxes": np.float32, "confidence": np.float16, "soft_labels": np.float16}


@dataclass(frozen=True)
class Regions:
    """One image's regions. features: [N, D]. boxes: [N, 4] in [0, 1]. confidence: [N]. soft_labels: [N, C] over the detector's
    classes, background first. image_feature: [D], of the whole image. size: (width, height) in pixels. None: not known."""

    features: np.ndarray
    boxes: np.ndarray
    confidence: np.ndarray | None = None
    soft_labels: np.ndarray | None = None
    image_feature: np.ndarray | None = None
    size: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, int | None, bool, bool]:
        """What all images of a store have in common: feature width, number of classes, and which optional parts there are."""
        classes = None if self.soft_labels is None else self.soft_labels.shape[1]
        return self.features.shape[1], classes, self.confidence is not None, self.image_feature is not None


class RegionWriter:
    """Collects regions and writes a shard whenever SHARD_ROWS boxes are together; `close` writes the last one."""

    def __init__(self, folder: Path, *, shard_rows: int = SHARD_ROWS):
        self.folder, self.images, self.boxes = folder, 0, 0
        self.shape: tuple[int, int | None, bool, bool] | None = None
        self._shard_rows, self._shards, self._rows = shard_rows, 0, 0
        self._held: list[tuple[str, Regions]] = []

    def add(self, key: str, regions: Regions) -> None:
        """Adds an image. Raises ValueError where its parts are not those of the images before it."""
        if self.shape is None:
            self.shape = regions.shape
        elif self.shape != regions.shape:
            raise ValueError(f"has {_shown(regions.shape)}, the images before it have {_shown(self.shape)}")
        count = len(regions.features)
        if self._held and self._rows + count > self._shard_rows:
            self._flush()
        self._held.append((key, regions))
        self._rows += count
        self.images, self.boxes = self.images + 1, self.boxes + count

    def close(self) -> None:
        if self._held:
            self._flush()

    def _flush(self) -> None:
        keys, held = [key for key, _ in self._held], [regions for _, regions in self._held]
        with h5py.File(self.folder / f"regions-{self._shards:05d}.h5", "w") as file:
            file["keys"] = np.array([key.encode() for key in keys])
            file["starts"] = np.cumsum([0, *(len(regions.features) for regions in held)], dtype=np.int64)
            file["sizes"] = np.array([regions.size or (0, 0) for regions in held], dtype=np.int32)
            for name, kind in _BY_BOX.items():
                if getattr(held[0], name) is not None:
                    file[name] = np.concatenate([getattr(regions, name) for regions in held]).astype(kind)
            if held[0].image_feature is not None:
                file["image_features"] = np.stack([regions.image_feature for regions in held]).astype(np.float16)
            file["sums"] = np.array([_sum_of(key, regions) for key, regions in zip(keys, held, strict=True)], dtype=np.uint32)
            file.flush()
            os.fsync(file.id.get_vfd_handle())
        self._shards, self._rows = self._shards + 1, 0
        self._held.clear()


def _shown(shape: tuple[int, int | None, bool, bool]) -> str:
    width, classes, confidence, whole = shape
    parts = [f"{width} features a box"]
    parts += [f"{classes} classes"] if classes is not None else []
    return ", ".join([*parts, *["confidences"] * confidence, *["a feature of the whole image"] * whole])


def _sum_of(key: str, regions: Regions) -> int:
    """CRC-32 of an image's key, size and values as they are stored."""
    crc = zlib.crc32(repr((key, tuple(map(int, regions.size or (0, 0))))).encode())
    parts = [(getattr(regions, name), kind) for name, kind in _BY_BOX.items()] + [(regions.image_feature, np.float16)]
    for part, kind in parts:
        if part is not None:
            crc = zlib.crc32(np.ascontiguousarray(part, dtype=kind), crc)
    return crc


class _Shard:
    """One file, mapped into memory."""

    def __init__(self, path: Path, manifest: dict[str, Any]):
        self.path = path
        try:
            with h5py.File(path, "r") as file:
                self.keys = [key.decode() for key in file["keys"][:]]
                self.starts, self.sizes = file["starts"][:], file["sizes"][:]
                # A store of before has no sums.
                self._sums = file["sums"][:] if manifest.get("sums") else None
                self.parts = {name: self._mapped(file[name]) for name in (*_BY_BOX, "image_features") if name in file}
                self._check(manifest)
        except Exception as error:  # h5py and NumPy each have several of their own
            raise self._damaged(first_line(error)) from None

    def _check(self, manifest: dict[str, Any]) -> None:
        """Raises ValueError where the tables do not go together, or with the manifest."""
        images, boxes = len(self.keys), len(self.parts["features"])
        if self.starts.shape != (images + 1,) or self.starts.dtype.kind != "i" or self.sizes.shape != (images, 2):
            raise ValueError("its tables are not of the same images")
        if self.starts[0] != 0 or self.starts[-1] != boxes or (np.diff(self.starts) < 0).any():
            raise ValueError("its images do not follow each other")
        told = {"boxes": True, "confidence": manifest.get("confidence"), "soft_labels": manifest.get("classes"),
                "image_features": manifest.get("image_features")}
        if lost := [name for name, there in told.items() if there and name not in self.parts]:
            raise ValueError(f"it lacks {lost[0]}")
        if self.parts["features"].shape[1:] != (manifest["width"],):
            raise ValueError(f"its features are {list(self.parts['features'].shape[1:])}, not {manifest['width']}")
        for name, part in self.parts.items():
            if part.dtype != _BY_BOX.get(name, np.float16) or len(part) != (boxes if name in _BY_BOX else images):
                raise ValueError(f"{name} are {len(part):,} of {part.dtype}")
        if self._sums is not None and (self._sums.shape != (images,) or self._sums.dtype != np.uint32):
            raise ValueError("its sums are not those of its images")

    def _damaged(self, message: str) -> InputError:
        return InputError(f"is damaged: {message}", where=str(self.path), hint="make the store again")

    def _mapped(self, dataset: h5py.Dataset) -> np.ndarray:
        if dataset.size == 0:
            return np.zeros(dataset.shape, dataset.dtype)
        offset = dataset.id.get_offset()
        if offset is None:
            raise ValueError(f"{dataset.name} is not contiguous")
        return np.memmap(self.path, dataset.dtype, "r", offset, dataset.shape)

    def read(self, place: int) -> Regions:
        start, end = self.starts[place], self.starts[place + 1]
        parts = {name: np.array(self.parts[name][start:end]) for name in _BY_BOX if name in self.parts}
        whole = np.array(self.parts["image_features"][place]) if "image_features" in self.parts else None
        width, height = (int(side) for side in self.sizes[place])
        found = Regions(**parts, image_feature=whole, size=(width, height) if width else None)
        if self._sums is not None and _sum_of(self.keys[place], found) != self._sums[place]:
            raise self._damaged(f"its image {self.keys[place]} differs from what was written")
        return found


class RegionStore:
    """A store, read by image: `store["train2014/COCO_train2014_000000000009.jpg"]`, or by its key `9` (see `image_key`).

    Files are opened at the first read in each process, so that a DataLoader's workers may be forked or spawned.
    """

    def __init__(self, folder: Path):
        """Raises InputError where `folder` is no complete store, or a file has another size than its manifest says."""
        self.folder = folder
        self.manifest = read_manifest(folder, STAGE, make_it="vldistill prepare regions --raw FEATURES")
        check_fields(self.manifest, folder, sizes=dict, width=int, images=int, features=str)
        check_fields(self.manifest["sizes"], folder, **dict.fromkeys(self.manifest["sizes"], int))
        for name, size in self.manifest["sizes"].items():
            path = folder / name
            if not path.exists():
                raise InputError("is named in the manifest but missing", where=str(path), hint="make the store again")
            if path.stat().st_size != size:
                raise InputError(f"has {path.stat().st_size:,} bytes, its manifest says {size:,}", where=str(path),
                                 hint="make the store again")
        self._shards: list[_Shard] | None = None
        self._places: dict[str, tuple[int, int]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "manifest": self.manifest, "_shards": None, "_places": {}}

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
        self._open()
        return iter(self._places)

    def __contains__(self, image: str) -> bool:
        self._open()
        return image_key(image) in self._places

    def __getitem__(self, image: str) -> Regions:
        """The regions of an image, by its path or its key. Raises InputError where it has none."""
        shard, place = self._find(image)
        return shard.read(place)

    def count(self, image: str) -> int:
        """How many there are, without reading them."""
        shard, place = self._find(image)
        return int(shard.starts[place + 1] - shard.starts[place])

    def _find(self, image: str) -> tuple[_Shard, int]:
        self._open()
        found = self._places.get(image_key(image))
        if found is None:
            raise InputError(f"has no regions of {image}", where=str(self.folder), hint="import the features of all its images")
        return self._shards[found[0]], found[1]

    def _open(self) -> None:
        if self._shards is None:
            self._shards = [_Shard(self.folder / name, self.manifest) for name in sorted(self.manifest["sizes"])]
            # Earlier versions left these endings in keys.
            self._places = {image_key(key) if PurePosixPath(key).suffix in SUFFIXES else key: (number, place)
                            for number, shard in enumerate(self._shards) for place, key in enumerate(shard.keys)}
