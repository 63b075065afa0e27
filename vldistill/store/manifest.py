"""A growing store's folder and manifest: which values it holds, of what they depend, and which shards it consists of.

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
from vldistill.store.damage import damaged
from vldistill.store.disk import sync_folder, writing
from vldistill.store.layout import Column
from vldistill.store.table import Kind, ShardEntry, Table, read_table, table_fields
from vldistill.versions import gone_on

_LOCK = ".manifest.lock"
# A change takes milliseconds; a whole array of jobs may stand in the queue.
_WAIT_SECONDS = 60.0
_DIGITS = 12
_NAME = "[A-Za-z0-9][A-Za-z0-9._-]*"
_FOLDER = re.compile(rf"(?P<name>{_NAME})-(?P<fingerprint>[0-9a-f]{{{_DIGITS}}})\Z")

Fields = Mapping[str, str | int | float]


def store_folder(root: Path, name: str, fields: Fields) -> Path:
    """Where the store of these fields is, or would be. Raises InputError where `name` or a field is none that a store can
    have."""
    for field, value in fields.items():
        if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
            raise InputError(f"{value!r} cannot be a field of a store", where=field, hint="a text or a finite number")
    if not re.fullmatch(_NAME, name):
        raise InputError("is no name of a store", where=name, hint="letters, digits, `.`, `_` and `-`")
    return root / f"{name}-{artifacts.fingerprint(dict(fields))[:_DIGITS]}"


def split_name(folder: Path) -> tuple[str, str] | None:
    """Name and fingerprint that a folder's name says, or None where it is none of a store."""
    match = _FOLDER.match(folder.name)
    return (match["name"], match["fingerprint"]) if match else None


def has_begun(folder: Path) -> bool:
    """Whether there is a store: a writer that was killed before its first manifest has left none, but rows without a manifest are
    damage."""
    return (folder / artifacts.MANIFEST).exists() or next(folder.glob("shard-*.journal"), None) is not None


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
    mend: str

    @classmethod
    def new(cls, folder: Path, name: str, fields: Fields, columns: Sequence[Column], kind: Kind) -> Manifest:
        return cls(folder, name, dict(fields), tuple(columns), {}, None, 0, False, artifacts.new_manifest(kind.stage), kind.mend)

    @property
    def table(self) -> Table:
        return Table(self.folder, self.columns, self.shards, self.mend)

    @property
    def made(self) -> dict[str, Any]:
        """What its rows depend on, and under which versions they were made (see `vldistill.versions`)."""
        return {**self.common, "fields": self.fields}

    def go_on(self) -> None:
        """Notes that this process adds rows: in a store that has none yet, under its own versions alone."""
        self.common |= gone_on(self.common if self.shards else {})

    def save(self) -> None:
        """Replaces the file; only under the lock. Raises VldistillError where it cannot be written."""
        value = {
            **self.common,
            "name": self.name,
            "fields": self.fields,
            **table_fields(self.columns, self.shards),
            "request": self.request,
            "wanted": self.wanted,
            "complete": self.complete,
        }
        path = self.folder / artifacts.MANIFEST
        with writing(path, len(str(value))):
            artifacts.write_manifest(self.folder, value)
            sync_folder(self.folder)


_OWN = ("name", "fields", "columns", "shards", "request", "wanted", "complete")


def load_manifest(folder: Path, kind: Kind) -> Manifest:
    """Reads a growing store's manifest. Raises InputError where it is missing or edited, or its fields are not those that the
    folder's name stands for."""
    path = folder / artifacts.MANIFEST
    try:
        value = artifacts.read_manifest(folder, kind.stage, make_it=kind.make_it, partial=True, unsealed=False)
    except InputError as error:
        if folder.exists():
            # Making it again would be refused for the same reason.
            raise damaged(path, error.message, kind.mend) from None
        raise
    fields, names = value.get("fields"), split_name(folder.absolute())
    given = artifacts.fingerprint(fields)[:_DIGITS]
    if names is None or names != (value.get("name"), given):
        says = f"{names[0]!r} and {names[1]}" if names else "neither"
        raise damaged(
            path, f"has name {value.get('name')!r} and fields of fingerprint {given}, its folder's name says {says}", kind.mend
        )
    table = read_table(folder, value, kind.mend)
    try:
        return Manifest(
            folder,
            value["name"],
            fields,
            table.columns,
            table.shards,
            value["request"],
            value["wanted"],
            value["complete"],
            {key: part for key, part in value.items() if key not in _OWN},
            kind.mend,
        )
    except KeyError as error:
        raise damaged(path, f"is not the manifest of a store: it lacks {error}", kind.mend) from None


@contextmanager
def changing(folder: Path) -> Iterator[None]:
    """Holds the lock under which the folder's manifest is changed and its writers take their places."""
    with held(folder / _LOCK, wait=_WAIT_SECONDS):
        yield
