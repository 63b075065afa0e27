"""The image index: a dual encoder's vectors of a set of images on disk, so that texts are answered without touching pixels.

A folder with a manifest (which model, which preprocessing, which images), `images.jsonl` (path, sha1 and size of each image) and
`vectors.h5`, whose one contiguous dataset [N, P, D] fp32 is read through a memory map: N images, P places of an image in a record
(2 for NLVR2), D features as they leave the pooler. An image is known by the sha1 of its file, wherever it lies.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from vldistill.artifacts import (
    building,
    check_fields,
    file_digest,
    fingerprint,
    new_manifest,
    read_manifest,
    write_manifest,
    write_text,
)
from vldistill.data.image_files import ImageInfo
from vldistill.data.images import ImageFolder, Images
from vldistill.data.regions.store import RegionStore
from vldistill.data.visual import VisualInput
from vldistill.errors import InputError, first_line
from vldistill.models.checkpoint import ModelSpec, resolve_model
from vldistill.models.sharded import digest_of_weights
from vldistill.students.two_towers import TwoTowers

STAGE = "index"
VECTORS, IMAGES = "vectors.h5", "images.jsonl"
_DATASET = "vectors"
_AGAIN = "vldistill index build RUN IMAGES"
_BLOCK_BYTES = 1 << 20
Tick = Callable[[int], None]


def model_fields(source: str, spec: ModelSpec) -> dict[str, Any]:
    """What the vectors depend on: weights and preprocessing, or the store of regions that stand for pixels."""
    folder = resolve_model(source)
    weights = digest_of_weights(folder) or file_digest(folder / "pytorch_model.bin")
    fields = {"kind": spec.kind, "weights": weights, **spec.encoder.sight(), "places": spec.images}
    if spec.regions is None:
        return fields | {"image_size": spec.image_size, **({"upright": True} if spec.upright else {})}
    return fields | {"regions": RegionStore(Path(spec.regions)).manifest["fingerprint"], "most_regions": spec.most_regions}


@dataclass(frozen=True)
class Source:
    """Images to be encoded. root: the folder that paths are relative to, None where they lie in shards. known: by their paths."""

    images: Images
    root: Path | None
    known: dict[str, ImageInfo]


@torch.inference_mode()
def build_index(
    target: Path, model: TwoTowers, fields: dict[str, Any], images: Source, visual: VisualInput, *, batch: int,
    device: torch.device, overwrite: bool = False, tick: Tick = lambda count: None, **manifest: Any,
) -> dict[str, Any]:
    """Encodes all images at each place of a record and writes the folder whole; returns its manifest. fields: of the model, see
    `model_fields`. manifest: further fields of the manifest. Raises InputError where `target` is taken, or an image cannot be
    read."""
    paths, places = list(images.known), fields["places"]
    with building(target, overwrite=overwrite, stage=STAGE) as folder:
        with h5py.File(folder / VECTORS, "w") as file:
            stored = file.create_dataset(_DATASET, (len(paths), places, model.width), dtype=np.float32)
            for start in range(0, len(paths), batch):
                chunk = paths[start : start + batch]
                shown = visual.stack([visual.read(path, None) for path in chunk]).to(device=device)
                for place in range(places):
                    stored[start : start + len(chunk), place] = model.encode_image(shown, place).float().cpu().numpy()
                tick(len(chunk))
        rows = [json.dumps({"path": path, "sha1": info.sha1, "width": info.width, "height": info.height}, ensure_ascii=False)
                for path, info in images.known.items()]
        write_text(folder / IMAGES, "\n".join(rows) + "\n")
        files = {name: file_digest(folder / name) for name in (VECTORS, IMAGES)}
        written = new_manifest(STAGE, model=fields, images=fingerprint(rows), counts={"images": len(paths)}, files=files,
                               root=str(images.root.resolve()) if images.root else None, **manifest)
        written |= {"blocks": _block_sums(_mapped(folder / VECTORS, len(paths))),
                    "fingerprint": fingerprint([fields, written["images"]]), "complete": True}
        write_manifest(folder, written)
    return written


class ImageIndex:
    """An index, opened. Raises InputError where it is missing, or one of its files was cut or changed."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.manifest = read_manifest(folder, STAGE, make_it=_AGAIN)
        check_fields(self.manifest, folder, files=dict, model=dict, source=str, root=(str, type(None)))
        if "blocks" in self.manifest:
            check_fields(self.manifest, folder, blocks=list)
        for name in (IMAGES, VECTORS):
            if not (folder / name).is_file():
                raise InputError("is named in the manifest but missing", where=str(folder / name), hint=_HINT)
        if file_digest(folder / IMAGES) != self.manifest["files"].get(IMAGES):
            raise InputError("differs from what its manifest records", where=str(folder / IMAGES), hint=_HINT)
        lines = (folder / IMAGES).read_text(encoding="utf-8").splitlines()
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self.vectors = _mapped(folder / VECTORS, len(self.rows))
        # An index of before has no sums of its blocks.
        self._sums: list[int] | None = self.manifest.get("blocks")
        self._sound: set[int] = set()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def fields(self) -> dict[str, Any]:
        """See `model_fields`."""
        return self.manifest["model"]

    @property
    def model(self) -> str:
        """The run or folder that it was built with, as it was named."""
        return self.manifest["source"]

    def check_model(self, fields: dict[str, Any], source: str) -> None:
        """Raises InputError where the vectors are not those of this model."""
        for name, value in self.fields.items():
            if fields.get(name) != value:
                other = str(fields.get(name))[:12]
                raise InputError(f"was built with another model: {name} {str(value)[:12]}, {source} has {other}",
                                 where=str(self.folder), hint=f"build it again with: vldistill index build {source} IMAGES")

    def verify(self) -> None:
        """Raises InputError where the vectors were changed after they were written; reads all of them."""
        if file_digest(self.folder / VECTORS) != self.manifest["files"].get(VECTORS):
            raise InputError("differs from what its manifest records", where=str(self.folder / VECTORS), hint=_HINT)

    def place_of(self, sha1: bytes, path: str) -> int:
        """The row of an image. Raises InputError where it is not in the index."""
        try:
            return self._numbers[sha1.hex()]
        except KeyError:
            raise InputError(f"has no vectors of image {path}", where=str(self.folder),
                             hint="build it of these images with: vldistill index build RUN IMAGES") from None

    def of(self, rows: Sequence[int] | np.ndarray | slice, place: int = 0) -> Tensor:
        """[R, D] vectors of the rows. Raises InputError where a block that is needed for them was changed on disk."""
        self._check(rows)
        return torch.from_numpy(np.array(self.vectors[rows, place]))

    def drawn(self, count: int, generator: np.random.Generator) -> list[Tensor]:
        """The vectors of `count` images drawn at random, [count, D] for each place of a record."""
        rows = generator.integers(len(self), size=count)
        return [self.of(rows, place) for place in range(self.vectors.shape[1])]

    def images(self) -> ImageFolder:
        """The images themselves. Raises InputError where they are no files, or their folder is gone."""
        root = self.manifest["root"]
        if root is None or not Path(root).is_dir():
            raise InputError(f"its images are gone: {root}" if root else "its images lie in shards", where=str(self.folder),
                             hint="leave out the page, or build the index of a folder")
        return ImageFolder(Path(root))

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {row["sha1"]: number for number, row in enumerate(self.rows)}

    def _check(self, rows: Sequence[int] | np.ndarray | slice) -> None:
        """Each block once, when one of its rows is first read."""
        if self._sums is None:
            return
        height = _block_rows(self.vectors)
        needed = set((np.arange(len(self))[rows] // height).tolist()) - self._sound
        for number in sorted(needed):
            if number >= len(self._sums) or _sum_of(self.vectors, number) != self._sums[number]:
                raise InputError(f"differs from what was written, in rows {number * height} to {(number + 1) * height - 1}",
                                 where=str(self.folder / VECTORS), hint=_HINT)
        self._sound |= needed


def _mapped(path: Path, rows: int) -> np.ndarray:
    """The vectors [N, P, D] of an index's file. Raises InputError where they are not all there."""
    try:
        with h5py.File(path, "r") as file:
            dataset = file[_DATASET]
            place, shape = dataset.id.get_offset(), dataset.shape
        if place is None or len(shape) != 3 or shape[0] != rows or path.stat().st_size < place + 4 * math.prod(shape):
            raise OSError("is cut off")
        return np.memmap(path, dtype=np.float32, mode="r", offset=place, shape=shape)
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise InputError(f"cannot be read: {first_line(error)}", where=str(path), hint=_HINT) from None


def _block_rows(vectors: np.ndarray) -> int:
    return max(1, _BLOCK_BYTES // max(1, vectors[:1].nbytes))


def _sum_of(vectors: np.ndarray, number: int) -> int:
    height = _block_rows(vectors)
    return zlib.crc32(np.ascontiguousarray(vectors[number * height : (number + 1) * height]))


def _block_sums(vectors: np.ndarray) -> list[int]:
    """CRC-32 of each block of about a MiB."""
    return [_sum_of(vectors, number) for number in range(-(-len(vectors) // _block_rows(vectors)))]


_HINT = f"build it again with: {_AGAIN} --overwrite"
