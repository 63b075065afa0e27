"""A recipe's unimodal teachers and their caches: which features a run needs, what is missing of them, and where they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from vldistill.data.artifact import DataArtifact
from vldistill.data.records import Record
from vldistill.devices import compute_device
from vldistill.errors import InputError, needed
from vldistill.places import check_writable
from vldistill.recipe.schema.objectives import AdvlObjective
from vldistill.recipe.schema.recipe import Recipe
from vldistill.runtime import choose_precision, launched_processes
from vldistill.store.inspection import list_stores
from vldistill.store.layout import Column, as_keys, has_begun, store_folder
from vldistill.store.staging import staged_store
from vldistill.store.uses import FEATURES
from vldistill.store.writer import StoreWriter, check_room
from vldistill.teachers.cache import (
    CacheWriter,
    FeatureCache,
    Inputs,
    Tick,
    cache_name,
    feature_columns,
    fill_images,
    fill_texts,
    open_cache,
    word_columns,
)
from vldistill.teachers.encoders import UNKNOWN
from vldistill.teachers.fusion import FusionTeacher
from vldistill.teachers.unimodal import CachedFeatures, LiveFeatures, UnimodalTeachers, build_relevance, build_text, build_vision
from vldistill.versions import differences, tell

Say = Callable[[str], None]
WantedFeatures = Sequence[tuple[DataArtifact, Sequence[Record]]]
Progress = Callable[[str, int, int, float], None]
"""Told what kind of rows is computed, how many of them are done, of how many, and the seconds that those took."""
DTYPE = {"dtype": "float16"}
AUTO = ("fp32", "fp16")
"""What `teachers.precision: auto` is, without a GPU and with one."""


@dataclass
class Part:
    """One cache that a recipe needs. role: "images", "texts" or "words". fields: what its values depend on."""

    role: str
    name: str
    fields: dict[str, Any]
    cache: FeatureCache | None = None

    @property
    def stored(self) -> FeatureCache:
        return needed(self.cache, f"the cache of {self.role}")

    def keys(self, inputs: Inputs) -> list[bytes]:
        return list({"images": inputs.images, "texts": inputs.texts, "words": inputs.pairs}[self.role])


def _ticking(progress: Progress | None, todo: dict[str, int]) -> Tick:
    """What counts rows and seconds of each kind by itself: an image takes another time than a text, and that than a text's words.
    todo: rows of each."""
    done, spent = dict.fromkeys(todo, 0), dict.fromkeys(todo, 0.0)

    def tick(kind: str, rows: int, seconds: float) -> None:
        done[kind] += rows
        spent[kind] += seconds
        if progress:
            progress(kind, done[kind], todo[kind], spent[kind])

    return tick


def find_cache(root: Path, name: str, fields: dict[str, Any]) -> FeatureCache | None:
    """The cache of these fields. On a machine that has a cache but not the published weights, whose hash is then unknown, the one
    that agrees in everything else."""
    folder = store_folder(root, name, fields)
    if has_begun(folder):
        return FeatureCache(folder)
    known = {key: value for key, value in fields.items() if value != UNKNOWN}
    if len(known) == len(fields):
        return None
    agreeing = [
        entry.folder
        for entry in list_stores(root, FEATURES)
        if entry.name == name
        and entry.problem is None
        and entry.fields.keys() == fields.keys()
        and all(entry.fields[key] == value for key, value in known.items())
    ]
    return FeatureCache(agreeing[0]) if len(agreeing) == 1 else None


class TeacherCaches:
    """The teachers that a recipe's objective asks for, none of them loaded before it has to be."""

    def __init__(self, recipe: Recipe):
        chosen, teachers = cast(AdvlObjective, recipe.objective), recipe.teachers
        self._recipe, self._chosen, self._root = recipe, chosen, Path(recipe.cache.path)
        # Each None where nothing asks for it.
        self.vision: Any = build_vision(teachers.vision) if chosen.vision and teachers.vision else None
        self.text: Any = build_text(teachers.text) if (chosen.text or chosen.words) and teachers.text else None
        self.relevance: Any = build_relevance(teachers.relevance) if chosen.words else None
        self.live = recipe.cache.mode == "live"
        self.parts = {} if self.live else {part.role: part for part in self._parts()}
        for part in self.parts.values():
            part.cache = self._found(part)
        self._tell_versions()

    def _tell_versions(self) -> None:
        """Says under which other versions what is there was made, in one line for all caches."""
        caches = [part.cache for part in self.parts.values() if part.cache is not None]
        made = {cache.folder.name: differences(cache.manifest.value) for cache in caches}
        where = self._root / ", ".join(name for name, changed in made.items() if changed)
        again = f"to do so, remove it first, and then: vldistill cache --recipe {self._recipe.name}"
        tell([one for changed in made.values() for one in changed], where, again)

    def _parts(self) -> list[Part]:
        parts, kept = [], {**DTYPE, "precision": self._precision()}
        if self.vision:
            fields = {**self.vision.fields, "feature": "image", **kept}
            parts.append(Part("images", cache_name(fields), fields))
        if self._chosen.text:
            fields = {**self.text.fields, "feature": "text", **kept}
            parts.append(Part("texts", cache_name(fields), fields))
        if self._chosen.words:
            fields = {**self.text.fields, **self.relevance.fields, "feature": "words", "most": self._recipe.cache.words, **kept}
            parts.append(Part("words", cache_name(fields, "-words"), fields))
        return parts

    @property
    def vision_width(self) -> int | None:
        return self._width("images", self.vision)

    @property
    def text_width(self) -> int | None:
        return self._width("texts", self.text) or self._width("words", self.text)

    def _width(self, role: str, teacher: Any) -> int | None:
        part = self.parts.get(role)
        if part is not None and part.cache is not None:
            wide = "vectors" if role == "words" else "features"
            return next(column.shape[-1] for column in part.cache.columns if column.name == wide)
        return teacher.width if teacher else None

    def inputs(self, wanted: WantedFeatures) -> Inputs:
        """What the records ask for."""
        inputs = Inputs()
        for data, records in wanted:
            inputs.add(records, data.images, data.image_digests())
        return inputs

    def missing(self, inputs: Inputs) -> dict[str, list[bytes]]:
        """Keys that are not stored yet, by role."""
        missing = {}
        for role, part in self.parts.items():
            keys = part.keys(inputs)
            rows = part.cache.find(as_keys(keys)) if part.cache is not None else np.full(len(keys), -1)
            missing[role] = [key for key, row in zip(keys, rows, strict=True) if row < 0]
        return missing

    def ensure(self, wanted: WantedFeatures, say: Say) -> None:
        """Builds what is missing, or refuses to, as `cache.mode` says; what is there is read from a copy where that is wanted."""
        if self.live:
            return
        self._complete(wanted, say)
        for part in self.parts.values():
            place = staged_store(part.stored.folder, FEATURES, say)
            if place != part.stored.folder:
                part.cache = FeatureCache(place)

    def _complete(self, wanted: WantedFeatures, say: Say) -> None:
        inputs = self.inputs(wanted)
        missing = {role: keys for role, keys in self.missing(inputs).items() if keys}
        if not missing:
            return
        if {"auto": False, "require": True}[self._recipe.cache.mode]:
            self._refuse(missing, inputs)
        if launched_processes() > 1:
            raise InputError(
                "teacher features are missing, and several processes would each compute them",
                where=f"recipe {self._recipe.name}",
                hint=f"first: vldistill cache --recipe {self._recipe.name}",
            )
        self.build(inputs, say)

    def build(self, inputs: Inputs, say: Say, *, shard: tuple[int, int] = (0, 1), progress: Progress | None = None) -> None:
        """Computes one writer's share of what is missing, and opens the caches anew."""
        check_writable(self._root)
        device, dtype = compute_device(), self._dtype()
        say(f"teachers on {device.type}, {str(dtype).removeprefix('torch.')}; caches in {self._root}")
        batch, most = self._recipe.teachers.batch, self._recipe.cache.words
        missing = self.missing(inputs)
        with ExitStack() as stack:
            writers = {}
            for role, part in self.parts.items():
                if missing[role]:
                    writer, pending = writers[role] = self._open(part, inputs, shard, stack)
                    self._tell(part, writer, pending, say)
            if writers:
                check_room(self._root, sum(pending.bytes_needed for _, pending in writers.values()))
            tick = _ticking(progress, {role: len(pending) for role, (_, pending) in writers.items()})
            # Begun one after the other, since a writer counts its seconds from there.
            if "images" in writers:
                writers["images"][0].begin()
                writer, pending = writers["images"]
                fill_images(writer, pending, inputs, self.vision.to(device, dtype), batch, tick)
            if together := [role for role in ("texts", "words") if role in writers]:
                for role in together:
                    writers[role][0].begin()
                if self.relevance:
                    self.relevance.to(device, dtype)
                fill_texts(
                    writers.get("texts"),
                    writers.get("words"),
                    inputs,
                    self.text.to(device, dtype),
                    self.relevance,
                    batch,
                    most,
                    tick,
                )
        for part in self.parts.values():
            part.cache = self._found(part)

    def settle(self, inputs: Inputs, roles: Iterable[str], shard: tuple[int, int] = (0, 1)) -> None:
        """Declares caches complete that lack nothing and whose writer was killed just before it could; removes what it left."""
        for part in (self.parts[role] for role in roles):
            cache = part.cache
            if cache is not None and cache.fields.get("precision") == part.fields["precision"] and not cache.complete:
                with suppress(InputError), ExitStack() as stack:  # refused where another is at work, which will do it
                    self._open(part, inputs, shard, stack)
                part.cache = self._found(part)

    def recomputed(self, inputs: Inputs, rows: int) -> dict[str, float]:
        """The smallest cosine between stored vectors and the same computed anew, where and as precisely as a cache is built, over
        `rows` rows of each cache, drawn always alike."""
        smallest, device, dtype = {}, compute_device(), self._dtype()
        for teacher in (self.vision, self.text, self.relevance):
            if teacher is not None:
                teacher.to(device, dtype)
        for role, part in self.parts.items():
            keys = part.keys(inputs)
            drawn = np.random.default_rng(0).permutation(len(keys))[:rows].tolist()
            chosen = [keys[place] for place in drawn if part.stored.find([keys[place]])[0] >= 0]
            stored = torch.from_numpy(part.stored.read(part.stored.find(chosen), "vectors" if role == "words" else "features"))
            fresh = self._fresh(role, chosen, inputs)
            cosines = torch.nn.functional.cosine_similarity(stored.float(), fresh.float(), dim=-1)
            # A word that a text has not is zero on both sides.
            there = stored.float().norm(dim=-1) > 0
            smallest[role] = float(cosines[there].min()) if there.any() else 1.0
        return smallest

    def _fresh(self, role: str, keys: list[bytes], inputs: Inputs) -> torch.Tensor:
        if role == "images":
            return self.vision([images.open(path) for images, path in (inputs.images[key] for key in keys)]).half()
        if role == "texts":
            return self.text([inputs.texts[key] for key in keys]).whole.half()
        vectors = []
        for key in keys:
            image, text = inputs.pairs[key]
            images, path = inputs.images[image]
            live = LiveFeatures(None, self.text, self.relevance, images)
            vectors.append(live.words([(path, inputs.texts[text])], self._recipe.cache.words)[1][0])
        return torch.stack(vectors)

    def _open(self, part: Part, inputs: Inputs, shard: tuple[int, int], stack: ExitStack):
        width = (self.vision if part.role == "images" else self.text).width
        # By now the weights are here, and so is their hash.
        part.fields = {own.role: own.fields for own in self._parts()}[part.role]
        columns: tuple[Column, ...] = word_columns(width, part.fields["most"]) if part.role == "words" else feature_columns(width)
        writer = stack.enter_context(CacheWriter(self._root, part.name, part.fields, columns, shard, mixing=self._mixing()))
        return writer, writer.pending(part.keys(inputs))

    def _tell(self, part: Part, writer: StoreWriter, pending: Any, say: Say) -> None:
        """By the teacher's name in the recipe, and the digest of its weights, which `cache --ls` shows, too."""
        teachers = self._recipe.teachers
        named = needed(teachers.vision if part.role == "images" else teachers.text, "the teacher").model
        others = f", {pending.others:,} for other writers" if pending.others else ""
        say(
            f"{named} (weights {part.fields['weights'][:8]}) in {writer.folder}: {len(pending):,} {part.role} to compute, "
            f"{pending.present:,} there{others}; {pending.bytes_needed / 1e6:,.1f} MB needed, "
            f"{pending.bytes_free / 1e9:,.1f} GB free"
        )

    def _precision(self) -> str:
        """In which the teachers compute here."""
        wanted = self._recipe.teachers.precision
        return AUTO[torch.cuda.is_available()] if wanted == "auto" else choose_precision(wanted).name

    def _mixing(self) -> bool:
        return {"same": False, "any": True}[self._recipe.cache.versions]

    def _dtype(self) -> torch.dtype:
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self._precision()]

    def _found(self, part: Part) -> FeatureCache | None:
        """The part's cache. Where the recipe leaves the precision open, one of what "auto" is on another machine will do."""
        others = [name for name in AUTO if self._recipe.teachers.precision == "auto"]
        asked = [part.fields, *({**part.fields, "precision": name} for name in others if name != part.fields["precision"])]
        return next((cache for fields in asked if (cache := find_cache(self._root, part.name, fields)) is not None), None)

    def _refuse(self, missing: dict[str, list[bytes]], inputs: Inputs) -> None:
        role, keys = next(iter(missing.items()))
        part = self.parts[role]
        if part.cache is None:
            open_cache(self._root, part.name, part.fields)
        records = ", ".join(dict.fromkeys(inputs.users[key] for key in keys[:3]))
        raise InputError(
            f"lacks {len(keys):,} of {len(part.keys(inputs)):,} {role}, of records {records} first",
            where=str(part.stored.folder),
            hint=f"complete it with: vldistill cache --recipe {self._recipe.name}",
        )

    def teachers(self, data: DataArtifact, fusion: FusionTeacher | None) -> UnimodalTeachers:
        """The teachers of an artifact's records, live or read from their caches as `cache.mode` says."""
        chosen = self._chosen
        if self.live or any(part.cache is None for part in self.parts.values()):
            # The latter in a dry run only, which never asks them anything.
            features = LiveFeatures(self.vision, self.text, self.relevance, data.images, self._dtype())
        else:
            vision, text, words = (
                self.parts[role].cache if role in self.parts else None for role in ("images", "texts", "words")
            )
            features = CachedFeatures(vision, text, words, data.image_digests())
        return UnimodalTeachers(features, chosen.vision, chosen.text, chosen.words, fusion)
