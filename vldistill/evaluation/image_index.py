"""The image index: a dual encoder's vectors of a set of images on disk, so that texts are answered without touching pixels.

One use of `vldistill.store`: a row is the [P, D] fp32 vectors of an image file, P places of an image in a record (2 for
NLVR2), D features as they leave the pooler, and its key the sha1 of the file, wherever it lies. Beside them `images.jsonl`
has path, sha1 and size of each image; the manifest says which model, which preprocessing, which images. The images are those
of a data artifact or of a folder, all looked at before the first is encoded.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vldistill.artifacts import MANIFEST, building, check_fields, file_digest, fingerprint, write_text
from vldistill.data.artifact import open_data
from vldistill.data.image_files import MAX_PIXELS, SUFFIXES, ImageInfo, check_images
from vldistill.data.images import ImageFolder, Images
from vldistill.data.inputs import LeftOut, settled
from vldistill.data.regions.store import RegionStore
from vldistill.data.visual import VisualInput
from vldistill.errors import InputError, Problems
from vldistill.finite import check_outputs
from vldistill.models.base.checkpoint import ModelSpec, resolve_model
from vldistill.models.base.dual_encoder import DualEncoder
from vldistill.models.base.weights import digest_of_weights
from vldistill.store.inspection import check_file, verify_store
from vldistill.store.layout import Column
from vldistill.store.reader import StoreReader
from vldistill.store.staging import staged_store
from vldistill.store.uses import INDEX
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


@dataclass(frozen=True)
class Asked:
    """place: a folder of images, or a data artifact. limit: the first N of them. skip_broken: the share that may be left out.
    max_pixels: of an image in a folder, None: MAX_PIXELS; a data artifact has its own."""

    place: Path
    limit: int | None = None
    follow_links: bool = False
    skip_broken: float = 0.0
    max_pixels: int | None = None


@dataclass(frozen=True)
class Found:
    """notes: what was skipped, for the user. left_out: for the manifest, where anything broken was."""

    source: IndexSource
    notes: list[str]
    left_out: LeftOut | None = None


def images_of(asked: Asked, problems: Problems) -> Found:
    """The images of a data artifact, as it recorded them, or all image files below a folder. Raises InputError listing those that
    are broken, before any is encoded."""
    place = asked.place
    if (place / MANIFEST).exists():
        return _of_artifact(asked, problems)
    if not place.is_dir():
        raise InputError("no such folder", where=str(place), hint="give a folder of images, or a data artifact")
    paths, notes = _listed(asked, problems)
    if not paths and not problems:
        raise InputError(
            "holds no image" + "".join(f"; {note}" for note in notes),
            where=str(place),
            hint=f"files are known by {', '.join(SUFFIXES)}",
        )
    return _checked(asked, ImageFolder(place, most_pixels=asked.max_pixels or MAX_PIXELS), paths, notes, problems)


def _of_artifact(asked: Asked, problems: Problems) -> Found:
    if asked.max_pixels is not None:
        raise InputError(
            "--max-pixels is for a folder of images; this data artifact has its own",
            where=str(asked.place),
            hint="leave it out, or prepare the data again with it",
        )
    data = open_data(asked.place)
    rows = [json.loads(line) for line in data.verified("images.jsonl").read_text(encoding="utf-8").splitlines()][: asked.limit]
    files = data.images if isinstance(data.images, ImageFolder) else None
    if files is not None and data.manifest.get("images") != "decoded":
        return _checked(asked, files, [row["path"] for row in rows], [], problems)
    known = {row["path"]: ImageInfo.from_row(row) for row in rows}
    return Found(IndexSource(data.images, None if files is None else files.root, known), [])


def _checked(asked: Asked, images: ImageFolder, paths: list[str], notes: list[str], problems: Problems) -> Found:
    places = dict.fromkeys(paths, str(asked.place))
    known = check_images(images.root, paths, problems, places, follow_links=asked.follow_links, most_pixels=images.most_pixels)
    left = settled(problems, asked.skip_broken, len(known), str(asked.place))
    if left is not None:
        notes = [*notes, f"left out {left.images:,} of {len(paths):,} images ({left.share:.1%}), being broken"]
    return Found(IndexSource(images, images.root, known), notes, left)


def _listed(asked: Asked, problems: Problems) -> tuple[list[str], list[str]]:
    """The image files below the folder, in order, and what was passed over: hidden files, and those that are not read."""
    paths, hidden, others = [], 0, Counter()
    for path in _files(asked.place, asked.follow_links, problems):
        suffix = path.suffix.lower()
        if path.name.startswith("."):
            hidden += suffix in SUFFIXES
        elif suffix in SUFFIXES:
            paths.append(path.relative_to(asked.place).as_posix())
        else:
            others[suffix or "without ending"] += 1
    notes = [f"skipped {hidden:,} hidden files"] if hidden else []
    if others:
        commonest = sorted(others.items(), key=lambda kind: (-kind[1], kind[0]))[:8]
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in commonest)
        notes.append(f"skipped {others.total():,} files that are not read ({kinds}); images are known by {', '.join(SUFFIXES)}")
    return sorted(paths)[: asked.limit], notes


def _files(place: Path, follow_links: bool, problems: Problems) -> Iterator[Path]:
    """All files below a folder but those of hidden folders; a folder that cannot be read is a fault. Linked folders are gone
    into, each once, where links are followed."""
    gone_into = set()

    def unreadable(error: OSError) -> None:
        problems.add(f"cannot be read: {error.strerror or error}", where=str(error.filename), hint="check its permissions")

    for folder, folders, files in os.walk(place, followlinks=follow_links, onerror=unreadable):
        real = os.path.realpath(folder)
        if real in gone_into:
            folders.clear()
            continue
        gone_into.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder) / name for name in files)
