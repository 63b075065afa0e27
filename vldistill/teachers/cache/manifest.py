"""A cache's folder and manifest: which values it holds, of what they depend, and which shards it consists of.

The folder is named after a fingerprint of `fields`, all that its values depend on, so that a changed teacher never finds the
rows of another. The manifest is replaced whole, under a lock that is held for the length of one change, since the jobs of an
array all add their shards to it. It says which shards there are and has the digest of each one's description, so nothing can be
left out, added or edited unseen; its own checksum covers the rest.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vldistill import artifacts
from vldistill.errors import InputError
from vldistill.locking import held
from vldistill.teachers.cache.damage import damaged
from vldistill.teachers.cache.disk import sync_folder, writing
from vldistill.teachers.cache.layout import Column, checked_columns

STAGE = "cache"
MAKE_IT = "vldistill cache"
_LOCK = ".manifest.lock"
# A change takes milliseconds; a whole array of jobs may stand in the queue.
_WAIT_SECONDS = 60.0
_DIGITS = 12
_NAME = "[A-Za-z0-9][A-Za-z0-9._-]*"
_FOLDER = re.compile(rf"(?P<name>{_NAME})-(?P<fingerprint>[0-9a-f]{{{_DIGITS}}})\Z")

Fields = Mapping[str, str | int | float]


def shard_name(number: int) -> str:
    return f"shard-{number:04d}"


def shard_number(name: str) -> int:
    """Raises ValueError where it is no shard's name."""
    return int(name.removeprefix("shard-"))


def cache_folder(root: Path, name: str, fields: Fields) -> Path:
    """Where the cache of these fields is, or would be. Raises InputError where `name` or a field is none that a cache can
    have."""
    for field, value in fields.items():
        if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
            raise InputError(f"{value!r} cannot be a field of a cache", where=field, hint="a text or a finite number")
    if not re.fullmatch(_NAME, name):
        raise InputError("is no name of a cache", where=name, hint="letters, digits, `.`, `_` and `-`")
    return root / f"{name}-{artifacts.fingerprint(dict(fields))[:_DIGITS]}"


def split_name(folder: Path) -> tuple[str, str] | None:
    """Name and fingerprint that a folder's name says, or None where it is none of a cache."""
    match = _FOLDER.match(folder.name)
    return (match["name"], match["fingerprint"]) if match else None


def has_begun(folder: Path) -> bool:
    """Whether there is a cache: a writer that was killed before its first manifest has left none, but rows without a manifest are
    damage."""
    return (folder / artifacts.MANIFEST).exists() or next(folder.glob("shard-*.journal"), None) is not None


@dataclass
class ShardEntry:
    """What the manifest says of a shard. digest: sha256 of its description. committed: rows that its journal had, at least,
    when a writer last closed it, so that a journal which was cut is not taken for one that is not yet written."""

    digest: str
    rows: int
    committed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.digest, str) or type(self.rows) is not int or type(self.committed) is not int:
            raise TypeError("what it says of a shard")


@dataclass
class Manifest:
    """shards: by name, in the order of their numbers. request: digest of the keys that were last asked for. wanted: rows there
    will be when they are all there. complete: they are."""

    folder: Path
    name: str
    fields: dict[str, str | int | float]
    columns: tuple[Column, ...]
    shards: dict[str, ShardEntry]
    request: str | None
    wanted: int
    complete: bool
    common: dict[str, Any]

    @classmethod
    def new(cls, folder: Path, name: str, fields: Fields, columns: Sequence[Column]) -> Manifest:
        return cls(folder, name, dict(fields), tuple(columns), {}, None, 0, False, artifacts.new_manifest(STAGE))

    def save(self) -> None:
        """Replaces the file; only under the lock. Raises VldistillError where it cannot be written."""
        value = {**self.common, "name": self.name, "fields": self.fields, "columns": [column.json() for column in self.columns],
                 "shards": {name: vars(entry) for name, entry in self.shards.items()}, "request": self.request,
                 "wanted": self.wanted, "complete": self.complete}
        path = self.folder / artifacts.MANIFEST
        with writing(path, len(str(value))):
            artifacts.write_manifest(self.folder, value)
            sync_folder(self.folder)


_OWN = ("name", "fields", "columns", "shards", "request", "wanted", "complete")


def load_manifest(folder: Path) -> Manifest:
    """Reads a cache's manifest. Raises InputError where it is missing or edited, or its fields are not those that the folder's
    name stands for."""
    path = folder / artifacts.MANIFEST
    try:
        value = artifacts.read_manifest(folder, STAGE, make_it=MAKE_IT, partial=True, unsealed=False)
    except InputError as error:
        if folder.exists():
            # Making it again would be refused for the same reason.
            raise damaged(path, error.message) from None
        raise
    fields, names = value.get("fields"), split_name(folder.absolute())
    given = artifacts.fingerprint(fields)[:_DIGITS]
    if names is None or names != (value.get("name"), given):
        says = f"{names[0]!r} and {names[1]}" if names else "neither"
        raise damaged(path, f"has name {value.get('name')!r} and fields of fingerprint {given}, its folder's name says {says}")
    try:
        columns = checked_columns([Column.from_json(column) for column in value["columns"]])
        shards = {name: ShardEntry(**value["shards"][name]) for name in sorted(value["shards"], key=shard_number)}
        return Manifest(folder, value["name"], fields, columns, shards, value["request"], value["wanted"], value["complete"],
                        {key: part for key, part in value.items() if key not in _OWN})
    except (KeyError, TypeError, ValueError, AttributeError, InputError) as error:
        raise damaged(path, f"is not the manifest of a cache: {error}") from None


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Holds the lock under which the folder's manifest is changed and its writers take their places."""
    with held(folder / _LOCK, wait=_WAIT_SECONDS):
        yield
