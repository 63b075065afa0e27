"""A store's folder and manifest: what its rows depend on, which columns they have, and in which shards they lie.

The manifest is replaced whole, under a lock that is held for the length of one change where the jobs of an array all add their
shards to it. It says which shards there are and has the digest of each one's table, so nothing can be left out, added or edited
unseen; its own checksum covers the rest. The folder of a shared store is named after a fingerprint of `fields`, all that its
values depend on, so that a changed teacher never finds the rows of another.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vldistill import artifacts
from vldistill.errors import InputError, writing
from vldistill.store.layout import Column, checked_columns
from vldistill.store.staging import damaged
from vldistill.store.uses import Use

LAYOUT = 2
"""Of shards and manifests, as this version has them."""
_DIGITS = 12
_NAME = "[A-Za-z0-9][A-Za-z0-9._-]*"
_FOLDER = re.compile(rf"(?P<name>{_NAME})-(?P<fingerprint>[0-9a-f]{{{_DIGITS}}})\Z")

Fields = Mapping[str, str | int | float]


def store_folder(root: Path, name: str, fields: Fields) -> Path:
    """Where the shared store of these fields is, or would be. Raises InputError where `name` or a field is none that a store can
    have."""
    for key, value in fields.items():
        if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
            raise InputError(f"{value!r} cannot be a field of a store", where=key, hint="a text or a finite number")
    if not re.fullmatch(_NAME, name):
        raise InputError("is no name of a store", where=name, hint="letters, digits, `.`, `_` and `-`")
    return root / f"{name}-{artifacts.fingerprint(dict(fields))[:_DIGITS]}"


def split_name(folder: Path) -> tuple[str, str] | None:
    """Name and fingerprint that a folder's name says, or None where it is none of a shared store."""
    match = _FOLDER.match(folder.name)
    return (match["name"], match["fingerprint"]) if match else None


def has_begun(folder: Path) -> bool:
    """Whether there is a store: a writer that was killed before its first manifest has left none, but rows without a manifest are
    damage."""
    return (folder / artifacts.MANIFEST).exists() or next(folder.glob("shard-*.h5"), None) is not None


@dataclass
class ShardEntry:
    """What the manifest says of a shard. digest: sha256 of its table."""

    digest: str
    rows: int

    def __post_init__(self) -> None:
        if not isinstance(self.digest, str) or type(self.rows) is not int:
            raise TypeError("what it says of a shard")


@dataclass
class Manifest:
    """value: all that the manifest says beside columns and shards; its `wall_s` are the seconds that its rows took, over all
    writers. shards: by name, in the order of their numbers."""

    folder: Path
    use: Use
    columns: tuple[Column, ...]
    value: dict[str, Any]
    shards: dict[str, ShardEntry] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(entry.rows for entry in self.shards.values())

    @property
    def mend(self) -> str:
        """What the user does about damage."""
        return self.use.mend(self.folder, self.value)

    def save(self) -> None:
        """Replaces the file; only under the lock. Raises VldistillError where it cannot be written."""
        value = {
            **self.value,
            "layout": LAYOUT,
            "columns": [column.json() for column in self.columns],
            "shards": {name: vars(entry) for name, entry in self.shards.items()},
        }
        with writing(self.folder, every=True):
            artifacts.write_manifest(self.folder, value)
            artifacts.sync_folder(self.folder)


def begun_manifest(folder: Path, use: Use, columns: Sequence[Column], said: Mapping[str, Any]) -> Manifest:
    """Of a store without rows. said: what its manifest says beside what all say."""
    asked = {"request": None, "wanted": 0} if use.shared else {}
    return Manifest(folder, use, checked_columns(columns), artifacts.new_manifest(use.stage, wall_s=0.0) | asked | dict(said))


def load_manifest(folder: Path, use: Use, *, partial: bool = False) -> Manifest:
    """Reads a store's manifest. Raises InputError where it is missing, edited, or of an earlier version, or is not complete
    (unless `partial`, or the store is shared: of use as far as it goes), or its fields are not those that the folder's name
    stands for."""
    path = folder / artifacts.MANIFEST
    try:
        value = artifacts.read_manifest(folder, use.stage, make_it=use.make_it, partial=partial or use.shared, unsealed=False)
    except InputError as error:
        if folder.exists() and use.shared:
            # Making it again would be refused for the same reason.
            raise damaged(path, error.message, use.mend(folder, {})) from None
        raise
    again = use.mend(folder, value)
    if value.pop("layout", None) != LAYOUT:
        raise InputError("was made by an earlier version, whose layout is no longer read", where=str(folder), hint=again)
    try:
        columns = checked_columns([Column.from_json(column) for column in value.pop("columns")])
        shards = value.pop("shards")
        entries = {name: ShardEntry(**shards[name]) for name in sorted(shards, key=shard_number)}
    except (KeyError, TypeError, ValueError, AttributeError, InputError) as error:
        raise damaged(path, f"describes no rows that could be read: {error}", again) from None
    if use.shared:
        _check_fields(folder, value, again)
    return Manifest(folder, use, columns, value, entries)


def _check_fields(folder: Path, value: dict[str, Any], again: str) -> None:
    path, names, given = folder / artifacts.MANIFEST, split_name(folder.absolute()), artifacts.fingerprint(value.get("fields"))
    if lost := [name for name in ("name", "fields", "request", "wanted", "complete", "wall_s") if name not in value]:
        raise damaged(path, f"is not the manifest of a store: it lacks {lost[0]!r}", again)
    if names is None or names != (value["name"], given[:_DIGITS]):
        says = f"{names[0]!r} and {names[1]}" if names else "neither"
        fault = f"has name {value['name']!r} and fields of fingerprint {given[:_DIGITS]}, its folder's name says {says}"
        raise damaged(path, fault, again)


def shard_name(number: int) -> str:
    return f"shard-{number:04d}"


def shard_number(name: str) -> int:
    """Raises ValueError where it is no shard's name."""
    return int(name.removeprefix("shard-"))
