"""The image index: a dual encoder's vectors of a set of images on disk, so that texts are answered without touching pixels.

One use of `vldistill.store`: a row is the [P, D] fp32 vectors of an image file, P places of an image in a record (2 for NLVR2), D
features as they leave the pooler, and its key the sha1 of the file, wherever it lies. Beside them `images.jsonl` has path, sha1
and size of each image; the manifest says which model, which preprocessing, which images.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vldistill.artifacts import MANIFEST, building, check_fields, file_digest, fingerprint, write_text
from vldistill.data.image_files import MAX_PIXELS, ImageInfo
from vldistill.data.images import ImageFolder, Images
from vldistill.data.regions.store import RegionStore
from vldistill.data.visual import VisualInput
from vldistill.errors import InputError
from vldistill.finite import check_outputs
from vldistill.models.base.checkpoint import ModelSpec, resolve_model
from vldistill.models.base.dual_encoder import DualEncoder
from vldistill.models.base.weights import digest_of_weights
from vldistill.store.layout import Column
from vldistill.store.reader import StoreReader
from vldistill.store.staging import staged_store
from vldistill.store.uses import INDEX
from vldistill.store.verify import check_file, verify_store
from vldistill.store.writer import StoreWriter
from vldistill.versions import differences, package_versions, tell

IMAGES = INDEX.files[0]
_COLUMN = "vectors"
Tick = Callable[[int], None]


def model_fields(source: str, spec: ModelSpec) -> dict[str, Any]:
    """What the vectors depend on: weights and preprocessing, or the store of regions that stand for pixels."""
    folder = resolve_model(source)
    weights = digest_of_weights(folder) or file_digest(folder / "pytorch_model.bin")
    # The rest of the configuration decides how an image is cut, squared and normalised.
    fields = {
        "kind": spec.kind,
        "config": fingerprint(spec.encoder.to_dict())[:32],
        "weights": weights,
        **spec.encoder.visual_signature(),
        "places": spec.images,
    }
    if spec.regions is None:
        return fields | {"image_size": spec.image_size, **({"upright": True} if spec.upright else {})}
    return fields | {"regions": RegionStore(Path(spec.regions)).manifest["fingerprint"], "most_regions": spec.most_regions}


@dataclass(frozen=True)
class IndexSource:
    """Images to be encoded. root: the folder that paths are relative to, None where they lie in shards. known: by their paths."""

    images: Images
    root: Path | None
    known: dict[str, ImageInfo]


@torch.inference_mode()
def build_index(
    target: Path,
    model: DualEncoder,
    fields: dict[str, Any],
    images: IndexSource,
    visual: VisualInput,
    *,
    batch: int,
    device: torch.device,
    overwrite: bool = False,
    tick: Tick = lambda count: None,
    **manifest: Any,
) -> dict[str, Any]:
    """Encodes all images at each place of a record and writes the folder whole; returns its manifest. What an interrupted call
    has written is gone on with. fields: of the model, see `model_fields`. manifest: further fields of the manifest. Raises
    InputError where `target` is taken, or an image cannot be read."""
    paths, places = list(images.known), fields["places"]
    rows = [json.dumps(info.to_row(path), ensure_ascii=False) for path, info in images.known.items()]
    said = {
        "model": fields,
        "images": fingerprint(rows),
        "counts": {"images": len(paths)},
        "root": str(images.root.resolve()) if images.root else None,
        "fingerprint": fingerprint([fields, fingerprint(rows)]),
        **manifest,
    }
    columns = [Column(_COLUMN, "float32", (places, model.width))]
    begun = fingerprint([fields, rows, package_versions()])
    with building(target, overwrite=overwrite, stage=INDEX.stage, begun=begun) as folder:
        with StoreWriter(folder, INDEX, columns, said) as writer:
            keys = [bytes.fromhex(info.sha1) for info in images.known.values()]
            pending = writer.pending(keys).indices.tolist()
            tick(len(paths) - len(pending))
            for start in range(0, len(pending), batch):
                numbers = pending[start : start + batch]
                chunk = [paths[number] for number in numbers]
                image_batch = visual.stack([visual.read(path, None) for path in chunk]).to(device=device)
                vectors = torch.stack([model.encode_image(image_batch, place).float() for place in range(places)], dim=1)
                check_outputs(vectors, chunk)
                writer.put([keys[number] for number in numbers], {_COLUMN: vectors.cpu().numpy()})
                tick(len(chunk))
            writer.commit()
            write_text(folder / IMAGES, "\n".join(rows) + "\n")
            writer.said |= {"files": {IMAGES: file_digest(folder / IMAGES)}, "complete": True}
        return StoreReader(folder, INDEX).manifest.value


class ImageIndex:
    """An index, opened. Raises InputError where it is missing, has the layout of an earlier version, or one of its files was cut
    or changed; the vectors are checked block by block, when they are first read."""

    def __init__(self, folder: Path):
        self.folder, self._vectors = folder, StoreReader(folder, INDEX)
        self.manifest = self._vectors.manifest.value
        check_fields(self.manifest, folder, files=dict, model=dict, source=str, root=(str, type(None)))
        self._mend = INDEX.mend(folder, self.manifest)
        check_file(folder / IMAGES, self.manifest["files"].get(IMAGES), self._mend)
        lines = (folder / IMAGES).read_text(encoding="utf-8").splitlines()
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
        columns = self._vectors.columns
        if [column.name for column in columns] != [_COLUMN] or len(columns[0].shape) != 2:
            raise InputError("does not describe vectors", where=str(folder / MANIFEST), hint=self._mend)
        self.places, self.width = columns[0].shape
        self._places = self._vectors.find([bytes.fromhex(row["sha1"]) for row in self.rows])
        if lost := int((self._places < 0).sum()):
            raise InputError(f"has no vectors of {lost:,} images that {IMAGES} names", where=str(folder), hint=self._mend)

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
        """Raises InputError where the vectors are not those of this model; tells where the libraries were others."""
        for name, value in self.fields.items():
            if fields.get(name) != value:
                other = str(fields.get(name))[:12]
                raise InputError(
                    f"was built with another model: {name} {str(value)[:12]}, {source} has {other}",
                    where=str(self.folder),
                    hint=f"build it again with: vldistill index build {source} IMAGES",
                )
        tell(differences(self.manifest), self.folder, self._mend)

    def verify(self) -> None:
        """Raises InputError where a file was changed after it was written; reads all of them."""
        for damage in verify_store(self.folder, INDEX).damages:
            raise damage

    def place_of(self, sha1: bytes, path: str) -> int:
        """The row of an image. Raises InputError where it is not in the index."""
        try:
            return self._numbers[sha1.hex()]
        except KeyError:
            raise InputError(
                f"has no vectors of image {path}",
                where=str(self.folder),
                hint="build it of these images with: vldistill index build RUN IMAGES",
            ) from None

    def of(self, rows: Sequence[int] | np.ndarray | slice) -> Tensor:
        """[R, P, D] vectors of the rows. Raises InputError where a block that is needed for them was changed on disk."""
        return torch.from_numpy(self._vectors.read(self._places[rows], _COLUMN))

    def drawn(self, count: int, generator: np.random.Generator) -> list[Tensor]:
        """The vectors of `count` images drawn at random, [count, D] for each place of a record."""
        return list(self.of(generator.integers(len(self), size=count)).unbind(dim=1))

    def images(self) -> ImageFolder:
        """The images themselves, as the model saw them. Raises InputError where they are no files, or their folder is gone."""
        root = self.manifest["root"]
        if root is None or not Path(root).is_dir():
            raise InputError(
                f"its images are gone: {root}" if root else "its images lie in shards",
                where=str(self.folder),
                hint="leave out the page, or build the index of a folder",
            )
        most = self.manifest.get("max_pixels") or MAX_PIXELS
        return ImageFolder(Path(root), upright=bool(self.fields.get("upright")), most_pixels=most)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {row["sha1"]: number for number, row in enumerate(self.rows)}


def open_index(folder: Path | None, say: Callable[[str], None]) -> ImageIndex | None:
    """One that is read at random, from a copy on the node where that is wanted."""
    return None if folder is None else ImageIndex(staged_store(folder, INDEX, say))
