"""A data artifact, opened: the splits that `prepare` wrote, their label names, and its images with what identifies each."""

from __future__ import annotations

import difflib
import hashlib
import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vldistill.artifacts import MANIFEST, check_fields, file_digest, known_digest, read_manifest
from vldistill.data.answers import ANSWERS_FILE, AnswerVocabulary
from vldistill.data.image_files import MAX_PIXELS, ImageInfo
from vldistill.data.images import ImageFolder, Images, ShardImages
from vldistill.data.records import CHOICES, LARGE, TASKS, Record, RecordFile, TaskSpec, read_json, read_records
from vldistill.data.regions.objects import ObjectIndex
from vldistill.data.shards import INDEX_FILE, SHARDS_FOLDER, tar_names
from vldistill.data.sources.table import SOURCES
from vldistill.data.writing import IMAGES_FILE, REGIONS_FILE
from vldistill.errors import InputError
from vldistill.places import open_regular
from vldistill.store import staging


class ImageDigests:
    """Looks up the 20 bytes of an image's sha1 by its path.

    recorded: what `prepare` wrote down of each image (JSONL); an image that is not in it is read.
    """

    def __init__(self, images: Images, recorded: Path):
        self._images, self._recorded = images, recorded
        self._known: dict[str, bytes] | None = None

    def __getitem__(self, path: str) -> bytes:
        """Raises InputError where the image cannot be read."""
        if self._known is None:
            self._known = self._read()
        if path not in self._known:
            self._known[path] = hashlib.sha1(self._images.read(path), usedforsecurity=False).digest()
        return self._known[path]

    def _read(self) -> dict[str, bytes]:
        if not self._recorded.exists():
            return {}
        with self._recorded.open(encoding="utf-8") as file:
            return {row["path"]: bytes.fromhex(row["sha1"]) for row in map(json.loads, file)}


@dataclass(frozen=True)
class DataArtifact:
    """labels: class names in index order; for VQA the answer vocabulary's names. images: by the paths that records have."""

    folder: Path
    manifest: dict[str, Any]
    vocabulary: AnswerVocabulary | None
    images: Images

    @property
    def task(self) -> str:
        return self.manifest["task"]

    @property
    def spec(self) -> TaskSpec:
        return TASKS[self.task]

    @property
    def labels(self) -> list[str]:
        """Class names; of choices, their places "0" to "3"."""
        if self.spec.target == "choice":
            return [str(place) for place in range(CHOICES)]
        return self.vocabulary.names if self.vocabulary else list(self.manifest["labels"] or [])

    @property
    def fingerprint(self) -> str:
        return self.manifest["fingerprint"]

    @property
    def splits(self) -> list[str]:
        return [*self.manifest["counts"], *self.variants]

    @property
    def variants(self) -> dict[str, dict[str, Any]]:
        """Low-shot draws, shifted sets and statements, by name; each can be read like a split."""
        return self.manifest["variants"]

    def records(
        self, split: str, *, types: list[str] | None = None, part: str = "both", limit: int | None = None
    ) -> list[Record]:
        """The records of a split, in file order, of the named types only, the first `limit` of them. part: of VCR, "answers"
        (Q->A), "rationales" (QA->R) or "both".

        Raises InputError where the split or a type does not exist, the file was edited after `prepare`, or nothing is left.
        """
        path = self._of_split(split)
        records = read_records(path)
        if types is not None:
            known = sorted({record.type for record in records if record.type})
            for name in types:
                if name not in known:
                    near = difflib.get_close_matches(name, known, 1)
                    raise InputError(
                        f"split {split!r} has no type {name!r}",
                        where=str(path),
                        hint=f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(known)}",
                    )
            records = [record for record in records if record.type in types]
        kept = {"both": (True, False), "answers": (True,), "rationales": (False,)}[part]
        records = [record for record in records if (record.given is None) in kept]
        return self._some(records[:limit], split, path)

    def stream(self, split: str, *, limit: int | None = None) -> Sequence[Record]:
        """The records of a split, as a list, or read one by one where they are too many to hold. Raises as `records`."""
        path = self._of_split(split)
        records = RecordFile(path, limit)
        return self._some(records if len(records) > LARGE else list(records), split, path)

    def _of_split(self, split: str) -> Path:
        if split not in self.splits:
            raise InputError(
                f"has no split {split!r}; it has {', '.join(self.splits)}", where=str(self.folder), hint="choose one of them"
            )
        return self.verified(f"{split}.jsonl")

    def _some(self, records: Sequence[Record], split: str, path: Path) -> Sequence[Record]:
        if not records:
            raise InputError(f"split {split!r} holds no records", where=str(path), hint=self._again())
        return records

    def verified(self, name: str) -> Path:
        """A file of the artifact, by its name. Raises InputError where it is missing or was edited after `prepare`."""
        path = self.folder / name
        variant = self.variants.get(name.removesuffix(".jsonl")) or {}
        expected = variant.get("sha256") or self.manifest["files"].get(name)
        if not path.exists():
            raise InputError("is named in the manifest but missing", where=str(path), hint=self._again())
        if file_digest(path) != expected:
            raise InputError("differs from what its manifest records", where=str(path), hint=self._again())
        return path

    def image_digests(self) -> ImageDigests:
        """The sha1 of each image's file, as `prepare` recorded it."""
        # An artifact of images that were not looked at has none.
        known = self.verified(IMAGES_FILE) if IMAGES_FILE in self.manifest["files"] else self.folder / IMAGES_FILE
        return ImageDigests(self.images, known)

    def image_sizes(self, *, upright: bool = False) -> Iterator[tuple[str, int, int]]:
        """Path, width and height of each image, upright or as stored, as `prepare` recorded them; none where it did not look at
        images. Raises InputError where they were edited."""
        if IMAGES_FILE in self.manifest["files"]:
            with open_regular(self.verified(IMAGES_FILE)) as file:
                for row in map(json.loads, file):
                    yield row["path"], *ImageInfo.from_row(row).size(upright)

    @cached_property
    def objects(self) -> ObjectIndex | None:
        """The annotated objects of its images (VCR's), or None where it has none. Raises InputError where they were edited."""
        return ObjectIndex(self.verified(REGIONS_FILE)) if REGIONS_FILE in self.manifest["files"] else None

    def _again(self) -> str:
        return f"make the artifact again with: vldistill prepare {self.manifest.get('dataset', '')} --overwrite"


def open_data(folder: Path) -> DataArtifact:
    """Opens an artifact of `prepare`. Raises InputError where it is missing, incomplete, or its images are gone."""
    make_it = _command_for(folder)
    manifest = read_manifest(folder, "prepare", make_it=make_it)
    manifest.setdefault("variants", {})
    check_fields(
        manifest,
        folder,
        variants=dict,
        task=str,
        counts=dict,
        files=dict,
        fingerprint=str,
        raw_root=str,
        labels=(list, type(None)),
    )
    check_fields(manifest["variants"], folder, **dict.fromkeys(manifest["variants"], dict))
    if manifest["task"] not in TASKS:
        raise InputError(
            f"holds a task that this version does not know: {manifest['task'][:40]!r}",
            where=str(folder / MANIFEST),
            hint=f"make it again with: {make_it}",
        )
    images = _open_images(folder, manifest)
    data = DataArtifact(folder, manifest, None, images)
    if ANSWERS_FILE in manifest["files"] or (folder / ANSWERS_FILE).exists():
        answers = data.verified(ANSWERS_FILE)
        data = replace(data, vocabulary=AnswerVocabulary.from_json(read_json(answers), str(answers)))
    return data


def _command_for(folder: Path) -> str:
    """The command that makes an artifact of this name, as far as the name tells."""
    name = folder.name
    if name.startswith("toy"):
        return "vldistill prepare toy"
    if name.replace("-", "_").lower() in SOURCES:
        return f"vldistill prepare {name} --raw FOLDER"
    return f"vldistill prepare DATASET --raw FOLDER --out {shlex.quote(str(folder))}"


def _command_from(raw: str, folder: Path, manifest: dict[str, Any]) -> str:
    """The command that made an artifact, with another raw folder."""
    words = [word for word in manifest.get("command", []) if isinstance(word, str)]
    if words[:2] != ["vldistill", "prepare"] or "toy" in words[2:3]:
        words = ["vldistill", "prepare", str(manifest.get("dataset", "")).replace("_", "-")]
    for option, value in (("--raw", raw), ("--out", str(folder))):
        if option in words[:-1]:
            words[words.index(option) + 1] = value
        else:
            words += [option, value]
    return shlex.join(word for word in words if word not in ("--overwrite", "--dry-run"))


def _open_images(folder: Path, manifest: dict[str, Any]) -> Images:
    """Its shards, where it has them: the raw folder is then needed no more."""
    options = manifest.get("options") or {}
    if (most := options.get("max_pixels")) is not None:
        check_fields(options, folder, max_pixels=int)
    most = most or MAX_PIXELS
    if "shards" in manifest:
        check_fields(manifest, folder, shards=dict)
        for part in manifest["shards"].values():
            if not isinstance(part, dict) or type(part.get("files")) is not int or part["files"] > len(manifest["files"]):
                raise InputError(
                    "`shards` are not those of its files",
                    where=str(folder / MANIFEST),
                    hint=f"make it again with: {_command_from('RAW_FOLDER', folder, manifest)} --overwrite",
                )
        return ShardImages(
            folder / SHARDS_FOLDER, tar_names(manifest["shards"]), manifest["files"].get(f"{SHARDS_FOLDER}/{INDEX_FILE}"), most
        )
    if not Path(manifest["raw_root"]).is_dir():
        raise InputError(
            f"its raw folder {manifest['raw_root']} is gone",
            where=str(folder / "manifest.json"),
            hint=f"put it back, or name its new place: {_command_from('NEW_PLACE', folder, manifest)}",
        )
    return ImageFolder(Path(manifest["raw_root"]), most_pixels=most)


def stage_images(data: DataArtifact, say: Callable[[str], None]) -> DataArtifact:
    """The artifact, whose shards are read from a copy where one is wanted and can be had. Raises InputError as
    `staging.staged`."""
    if not staging.is_wanted():
        return data
    if not isinstance(data.images, ShardImages):
        staging.one_a_node(say)(f"images of {data.folder} are read where they are: it was prepared without --shards")
        return data
    shards = data.images.folder
    names = [INDEX_FILE, *data.images.names]
    place = staging.staged(staging.by_content(shards, INDEX_FILE, names, f"{data.folder.resolve().name}-shards"), say)
    if place == shards:
        return data
    return replace(data, images=ShardImages(place, data.images.names, known_digest(shards / INDEX_FILE), data.images.most_pixels))
