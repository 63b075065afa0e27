"""Teachers' features in the store (see `vldistill.store`): caches, by the fields that their values depend on, and the keys of
rows.

A key is of what the teacher read, never a place in a data set. So low-shot subsets, shifted variants and swapped pairs find
their rows, and equal images are stored once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from vldistill.data.sequences import Sentence
from vldistill.data.wording import Phrase
from vldistill.errors import InputError
from vldistill.store.inspection import nearest
from vldistill.store.layout import Column
from vldistill.store.manifest import Fields, has_begun, store_folder
from vldistill.store.reader import StoreReader
from vldistill.store.uses import FEATURES
from vldistill.store.writer import StoreWriter

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
