"""Teachers' features in the store (see `vldistill.store`): caches by the fields that their values depend on, the keys of
their rows, and how they are filled, each image once, each text once, and the words that matter of each pair of both.

A key is of what the teacher read, never a place in a data set. So low-shot subsets, shifted variants and swapped pairs find
their rows, and equal images are stored once.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from vldistill.data.artifact import ImageDigests
from vldistill.data.images import Images
from vldistill.data.records import Record
from vldistill.data.sequences import Sentence, sentences
from vldistill.data.wording import Phrase
from vldistill.errors import InputError, VldistillError
from vldistill.store.inspection import nearest
from vldistill.store.layout import Column, Fields, has_begun, store_folder
from vldistill.store.reader import StoreReader
from vldistill.store.uses import FEATURES
from vldistill.store.writer import Pending, StoreWriter
from vldistill.teachers.words import Relevance, keyword_scores, selected_vectors, words_of

if TYPE_CHECKING:
    from vldistill.teachers.clip import TextTeacher, VisionTeacher


_APART = (
    "install those versions again, keep the new rows apart with cache.path=PLACE, or let them stand together with "
    "cache.versions=any"
)


class FeatureCache(StoreReader):
    """A cache, complete or not."""

    def __init__(self, folder: Path):
        super().__init__(folder, FEATURES)

    @property
    def fields(self) -> dict[str, str | int | float]:
        """All that the values depend on."""
        return self.manifest.value["fields"]


class CacheWriter(StoreWriter):
    """Writes the cache of these fields. shard: (i, n), the part of the keys that this process computes. mixing: whether rows may
    be added to those of other versions of a library."""

    def __init__(
        self,
        root: Path,
        name: str,
        fields: Fields,
        columns: Sequence[Column],
        shard: tuple[int, int] = (0, 1),
        *,
        mixing: bool = False,
    ):
        said = {"name": name, "fields": dict(fields)}
        folder = store_folder(root, name, fields)
        super().__init__(folder, FEATURES, columns, said, part=shard, mixing=None if mixing else _APART)


def open_cache(root: Path, name: str, fields: Fields) -> FeatureCache:
    """The cache of exactly these fields. Raises InputError where there is none, naming the nearest and where it differs."""
    folder = store_folder(root, name, fields)
    if has_begun(folder):
        return FeatureCache(folder)
    other = nearest(root, name, fields, FEATURES)
    raise InputError(f"no such cache{f'; {other}' if other else ''}", where=str(folder), hint=f"make it with: {FEATURES.make_it}")


LENGTH = 20


def text_key(sentence: Sentence) -> bytes:
    """20 bytes of a sentence: words, the borders of its parts, and the text where its source wrote one."""
    text = "\x1e".join("\x1f".join(part) + (f"\x1d{part.text}" if isinstance(part, Phrase) else "") for part in sentence)
    return hashlib.sha1(text.encode(errors="surrogatepass"), usedforsecurity=False).digest()


def pair_key(image: bytes, text: bytes) -> bytes:
    """20 bytes of an image's and a text's keys, the text's first: an array of writers splits keys by their first bytes, so that a
    text and all its pairs fall to one writer, which encodes it once."""
    return text[: LENGTH // 2] + image[: LENGTH // 2]


Tick = Callable[[str, int, float], None]
"""Told of what kind a batch has added rows ("images", "texts" or "words"), how many, and how many seconds they took."""


@dataclass
class Inputs:
    """What features are wanted of, by key. images: where each is read. pairs: an image's and a text's key. users: a record that
    wants it, for messages."""

    images: dict[bytes, tuple[Images, str]] = field(default_factory=dict)
    texts: dict[bytes, Sentence] = field(default_factory=dict)
    pairs: dict[bytes, tuple[bytes, bytes]] = field(default_factory=dict)
    users: dict[bytes, str] = field(default_factory=dict)

    def add(self, records: Iterable[Record], images: Images, digests: ImageDigests) -> None:
        known: dict[Sentence, bytes] = {}
        for record in records:
            own = [digests[path] for path in record.images]
            for path, key in zip(record.images, own, strict=True):
                self.images.setdefault(key, (images, path))
            for sentence in sentences(record):
                if sentence not in known:
                    known[sentence] = text_key(sentence)
                text = known[sentence]
                self.texts.setdefault(text, sentence)
                pair = pair_key(own[0], text)
                self.pairs.setdefault(pair, (own[0], text))
                for key in (*own, text, pair):
                    self.users.setdefault(key, record.id)


def cache_name(fields: dict[str, Any], suffix: str = "") -> str:
    """A folder's first part: the teacher's model, as a plain name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", str(fields["model"]).rsplit("/", 1)[-1].partition("@")[0]).strip("-.").lower() + suffix


def feature_columns(width: int) -> tuple[Column, ...]:
    """Of an image's and of a text's cache."""
    return (Column("features", "float16", (width,)),)


def word_columns(width: int, most: int) -> tuple[Column, ...]:
    """scores: S_v and S_l of all words. index, vectors: of the `most` best."""
    return (
        Column("scores", "float16", (2,), ragged=True),
        Column("index", "int16", (most,)),
        Column("vectors", "float16", (most, width)),
    )


def fill_images(writer: CacheWriter, pending: Pending, inputs: Inputs, teacher: VisionTeacher, batch: int, tick: Tick) -> None:
    """Computes the pending images, a batch at a time."""
    wanted, name, lap = list(inputs.images), teacher.fields["model"], _laps()
    for places in _batches(pending.indices, batch):
        keys = [wanted[place] for place in places]
        opened = [images.open(path) for images, path in (inputs.images[key] for key in keys)]
        writer.put(keys, {"features": half(teacher(opened), name)})
        tick("images", len(places), lap())


def fill_texts(
    texts: tuple[CacheWriter, Pending] | None,
    words: tuple[CacheWriter, Pending] | None,
    inputs: Inputs,
    teacher: TextTeacher,
    relevance: Relevance | None,
    batch: int,
    most: int,
    tick: Tick,
) -> None:
    """Computes pending texts and pending pairs together, so that a text is encoded once for both; its seconds count as those of a
    text where that is wanted. None: not wanted."""
    name = teacher.fields["model"]
    places = dict(zip(inputs.texts, range(len(inputs.texts)), strict=True))
    own = set(texts[1].indices.tolist()) if texts else set()
    by_text: dict[int, list[bytes]] = defaultdict(list)
    keys, pairs = list(inputs.texts), list(inputs.pairs)
    for place in words[1].indices.tolist() if words else ():
        by_text[places[inputs.pairs[pairs[place]][1]]].append(pairs[place])
    judge = _Judge(inputs, relevance, batch) if words else None
    encoded, lap = list(inputs.texts.values()), _laps()
    for chunk in _batches(sorted(own | by_text.keys()), batch):
        encoded_texts = teacher([encoded[place] for place in chunk])
        kept = [row for row, place in enumerate(chunk) if place in own]
        if kept:
            writer = texts[0]
            writer.put([keys[chunk[row]] for row in kept], {"features": half(encoded_texts.whole[kept], name)})
            tick("texts", len(kept), lap())
        if words and (count := sum(len(by_text.get(place, ())) for place in chunk)):
            _put_words(words[0], chunk, by_text, judge, [encoded[place] for place in chunk], encoded_texts.words, most, name)
            tick("words", count, lap())


def _put_words(
    writer: CacheWriter,
    chunk: Sequence[int],
    by_text: dict[int, list[bytes]],
    judge: _Judge,
    texts: list[Sentence],
    features: list[Tensor],
    most: int,
    name: str,
) -> None:
    concerned = [row for row, place in enumerate(chunk) if by_text.get(place)]
    if not concerned:
        return
    split = [words_of(texts[row]) for row in concerned]
    keys, scores, index, vectors = [], [], [], []
    for row, words, seen in zip(concerned, split, judge.relevance.embed_words(split), strict=True):
        language = keyword_scores(words)
        for pair in by_text[chunk[row]]:
            judged = judge.relevance.score(words, judge.image(pair), seen, language, most)
            keys.append(pair)
            scores.append(np.stack([judged.visual, judged.language], axis=1))
            index.append(judged.selected)
            vectors.append(half(selected_vectors(features[row], judged.selected), name))
    columns = {"scores": np.concatenate(scores).astype(np.float16), "index": np.stack(index), "vectors": np.stack(vectors)}
    writer.put(keys, columns, {"scores": [len(own) for own in scores]})


class _Judge:
    """The images' embeddings in CLIP's space, each computed once."""

    def __init__(self, inputs: Inputs, relevance: Relevance, batch: int):
        self.relevance, self._inputs, self._batch = relevance, inputs, batch
        self._known: dict[bytes, np.ndarray] = {}
        self._waiting = iter(inputs.images)

    def image(self, pair: bytes) -> np.ndarray:
        key = self._inputs.pairs[pair][0]
        if key not in self._known:
            # Images are asked for about in their own order, so that they can be embedded by the batch.
            following = islice(self._waiting, self._batch - 1)
            ahead = [key, *(other for other in following if other != key and other not in self._known)]
            opened = [images.open(path) for images, path in (self._inputs.images[other] for other in ahead)]
            self._known |= dict(zip(ahead, self.relevance.embed_images(opened), strict=True))
        return self._known[key]


def _laps() -> Callable[[], float]:
    """Gives the seconds since it was last asked."""
    last = time.monotonic()

    def lap() -> float:
        nonlocal last
        before, last = last, time.monotonic()
        return last - before

    return lap


def half(features: Tensor, name: str) -> np.ndarray:
    """float16. Raises VldistillError where a value has no place in it."""
    values = features.half().numpy()
    if not np.isfinite(values).all():
        raise VldistillError(
            "gives features that half precision cannot hold", where=name, hint="choose another layer, or teachers.precision=fp32"
        )
    return values


def _batches(places: Sequence[int] | np.ndarray, size: int) -> Iterator[list[int]]:
    whole = places.tolist() if isinstance(places, np.ndarray) else list(places)
    for start in range(0, len(whole), size):
        yield whole[start : start + size]
