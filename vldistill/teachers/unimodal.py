"""ADVL's teachers, built from a recipe's `teachers` section, as the loop calls them: live, or read from their caches, through
one interface. None is loaded before it is needed.

Features are rounded to half precision, as they are stored, on both ways; so a live and a cached teacher say the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vldistill.data.artifact import ImageDigests
from vldistill.data.batch import Batch, RecordSource
from vldistill.data.images import Images
from vldistill.data.sequences import Sentence
from vldistill.errors import InputError
from vldistill.models.base.checkpoint import resolve_model
from vldistill.models.base.outputs import Capture, TeacherOutput
from vldistill.recipe.schema import teachers as sections
from vldistill.teachers.cache import FeatureCache, pair_key, text_key
from vldistill.teachers.clip import Clip, ClipText, ClipVision, TextTeacher, VisionTeacher
from vldistill.teachers.encoders import TextFeatures, TimmVision, TransformersText
from vldistill.teachers.fusion import FusionTeacher
from vldistill.teachers.words import Relevance, keyword_scores, selected_vectors, words_of

Pair = tuple[str, Sentence]


@dataclass
class LiveFeatures:
    """Computed on the spot, each image and text of a call once; float16 on the CPU, as what caches hold. dtype: of the teachers'
    weights."""

    vision: VisionTeacher | None
    text: TextTeacher | None
    relevance: Relevance | None
    pictures: Images
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        self._last: tuple[list[Sentence], TextFeatures] | None = None

    @property
    def fields(self) -> dict[str, dict[str, Any]]:
        """What the features depend on, by role."""
        parts = {"vision": self.vision, "text": self.text, "relevance": self.relevance}
        return {role: teacher.fields for role, teacher in parts.items() if teacher}

    def to(self, device: torch.device) -> None:
        for teacher in (self.vision, self.text, self.relevance):
            if teacher:
                teacher.to(device, self.dtype)

    def describe(self) -> str:
        return f"live {names(self.fields)}"

    def images(self, paths: Sequence[str]) -> Tensor:
        """[N, Dv]."""
        unique = list(dict.fromkeys(paths))
        rows = self.vision([self.pictures.open(path) for path in unique])
        return rows.half()[[unique.index(path) for path in paths]]

    def sentences(self, sentences: Sequence[Sentence]) -> Tensor:
        """[N, Dt]."""
        unique = list(dict.fromkeys(sentences))
        return self._encoded(unique).whole.half()[[unique.index(sentence) for sentence in sentences]]

    def words(self, pairs: Sequence[Pair], most: int) -> tuple[Tensor, Tensor]:
        """[N, most] word indices, -1 for none, and [N, most, Dt]."""
        unique, paths = list(dict.fromkeys(s for _, s in pairs)), list(dict.fromkeys(p for p, _ in pairs))
        images = dict(zip(paths, self.relevance.embed_images([self.pictures.open(path) for path in paths]), strict=True))
        texts = [words_of(sentence) for sentence in unique]
        judged = zip(texts, self.relevance.embed_words(texts), map(keyword_scores, texts), strict=True)
        known = dict(zip(unique, zip(judged, self._encoded(unique).words, strict=True), strict=True))
        index, vectors = [], []
        for path, sentence in pairs:
            (words, seen, language), features = known[sentence]
            chosen = self.relevance.score(words, images[path], seen, language, most).selected
            index.append(torch.from_numpy(chosen.astype(np.int64)))
            vectors.append(selected_vectors(features, chosen))
        return torch.stack(index), torch.stack(vectors).half()

    def _encoded(self, texts: list[Sentence]) -> TextFeatures:
        """A batch's sentences and its words are asked for one after the other, of the same texts."""
        if self._last is None or self._last[0] != texts:
            self._last = texts, self.text(texts)
        return self._last[1]


def names(fields: dict[str, dict[str, Any]]) -> str:
    """Teachers by role, as a user named them."""
    return ", ".join(f"{role} {own.get('model') or own.get('relevance model', 'YAKE alone')}" for role, own in fields.items())


@dataclass
class CachedFeatures:
    """The same, read from disk. A row that is missing is an InputError, of the cache's own words."""

    vision: FeatureCache | None
    text: FeatureCache | None
    selected: FeatureCache | None
    digests: ImageDigests

    def __post_init__(self) -> None:
        self._texts: dict[Sentence, bytes] = {}

    @property
    def _caches(self) -> dict[str, FeatureCache]:
        parts = {"vision": self.vision, "text": self.text, "words": self.selected}
        return {role: cache for role, cache in parts.items() if cache is not None}

    @property
    def fields(self) -> dict[str, dict[str, Any]]:
        return {role: cache.fields for role, cache in self._caches.items()}

    def to(self, device: torch.device) -> None:
        """Features are read on the CPU."""

    def describe(self) -> str:
        return f"cached {names(self.fields)}"

    def images(self, paths: Sequence[str]) -> Tensor:
        return _read(self.vision, [self.digests[path] for path in paths], "features")[0]

    def sentences(self, sentences: Sequence[Sentence]) -> Tensor:
        return _read(self.text, [self._text(sentence) for sentence in sentences], "features")[0]

    def words(self, pairs: Sequence[Pair], most: int) -> tuple[Tensor, Tensor]:
        keys = [pair_key(self.digests[path], self._text(sentence)) for path, sentence in pairs]
        # Ranked best first, so that the first m of those kept are the m best.
        index, vectors = (part[:, :most] for part in _read(self.selected, keys, "index", "vectors"))
        return index.long(), vectors

    def _text(self, sentence: Sentence) -> bytes:
        if sentence not in self._texts:
            self._texts[sentence] = text_key(sentence)
        return self._texts[sentence]


def _read(cache: FeatureCache, keys: list[bytes], *columns: str) -> list[Tensor]:
    rows = cache.find(keys)
    if (rows < 0).any():
        raise InputError(
            f"lacks {int((rows < 0).sum())} of the rows asked for",
            where=str(cache.folder),
            hint="complete it with: vldistill cache",
        )
    return [torch.from_numpy(cache.read(rows, column)) for column in columns]


@dataclass
class UnimodalTeachers:
    """What the loop calls. words: how many are compared, 0 for none. fusion: a fusion teacher beside them (DiDE), or None."""

    features: LiveFeatures | CachedFeatures
    vision: bool
    text: bool
    words: int
    fusion: FusionTeacher | None = None

    def to(self, device: torch.device) -> UnimodalTeachers:
        self.features.to(device)
        if self.fusion:
            self.fusion.to(device)
        return self

    def describe(self) -> str:
        return "; ".join(part.describe() for part in (self.features, self.fusion) if part)

    def __call__(self, batch: Batch, capture: Capture) -> TeacherOutput:
        """What a batch is taught. Unimodal teachers compute in `teachers.precision`, as their caches hold it, whatever the
        autocast that the student is trained in; a fusion teacher has no precision of its own and computes in the student's."""
        with torch.autocast(batch.text.ids.device.type, enabled=False):
            vision, text, index, words = self._unimodal(batch)
        return TeacherOutput(vision, text, index, words, self.fusion(batch, capture) if self.fusion else None)

    def _unimodal(self, batch: Batch) -> tuple[list[Tensor] | None, Tensor | None, Tensor | None, Tensor | None]:
        device, sources = batch.text.ids.device, batch.sources
        sentences = [sentence for source in sources for sentence in source.sentences]
        vision = text = index = words = None
        if self.vision:
            views = range(len(sources[0].images))
            vision = [self.features.images([source.images[view] for source in sources]).to(device) for view in views]
        if self.text:
            text = self.features.sentences(sentences).to(device)
        if self.words:
            index, words = (part.to(device) for part in self.features.words(_pairs(sources), self.words))
        return vision, text, index, words


def _pairs(sources: list[RecordSource]) -> list[Pair]:
    return [(source.images[0], sentence) for source in sources for sentence in source.sentences]


VISION = {"timm": TimmVision, "open_clip": ClipVision, "slip": ClipVision}
TEXT = {"transformers": TransformersText, "open_clip": ClipText, "slip": ClipText}


def build_vision(chosen: sections.VisionTeacher) -> VisionTeacher:
    """Raises InputError where a layer is chosen that the kind does not offer."""
    return _build(VISION[chosen.kind], chosen, "vision")


def build_text(chosen: sections.TextTeacher) -> TextTeacher:
    """The same for text."""
    return _build(TEXT[chosen.kind], chosen, "text")


def build_relevance(chosen: sections.RelevanceModel | None) -> Relevance:
    """The judge of words; without a model YAKE alone judges."""
    return Relevance(_clip(chosen.kind, chosen.model, chosen.weights) if chosen else None)


def _clip(kind: str, model: str, weights: str | None) -> Clip:
    """One copy, whether it teaches vision, text, or judges words."""
    return _shared_clip(kind, str(Path(model).resolve()) if Path(model).is_dir() else model, weights)


@lru_cache(maxsize=4)
def _shared_clip(kind: str, model: str, weights: str | None) -> Clip:
    return Clip(kind, model, weights)


def _folder(model: str) -> str:
    """A run is named by its model folder."""
    return str(resolve_model(model)) if Path(model).is_dir() and not (Path(model) / "config.json").exists() else model


def _build(kind, chosen: sections.VisionTeacher | sections.TextTeacher, role: str):
    if kind in (TimmVision, TransformersText):
        return kind(_folder(chosen.model), chosen.weights, chosen.layer)
    if chosen.layer != "last":
        raise InputError(
            f"teachers.{role}.layer is {chosen.layer}, a {chosen.kind} teacher gives its last layer only", hint="leave it out"
        )
    return kind(_clip(chosen.kind, chosen.model, chosen.weights))
