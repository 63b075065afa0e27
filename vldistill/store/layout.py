"""What a store holds, and how its folder and manifest say so: rows found by 20-byte keys, each with the same columns.

A key is a sha1 digest of what the row was computed from, never a position in a data set; keys are sorted once and looked up
many at a time. A column has one value of a fixed shape for each row, or, when it is ragged, a length of its own for each row
(the scores of all words of a text, say); a ragged column is stored flat, with the place at which each row starts.

The manifest is replaced whole, under a lock that is held for the length of one change where the jobs of an array all add
their shards to it. It says which shards there are and has the digest of each one's table, so nothing can be left out, added
or edited unseen; its own checksum covers the rest. The folder of a shared store is named after a fingerprint of `fields`, all
that its values depend on, so that a changed teacher never finds the rows of another.

A store's folder and manifest: what its rows depend on, which columns they have, and in which shards they lie.

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
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from vldistill import artifacts
from vldistill.errors import InputError, first_line, writing
from vldistill.store.staging import damaged
from vldistill.store.uses import Use

KEY_BYTES = 20
_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_TYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
}


@dataclass(frozen=True)
class Column:
    """One column. shape: of a row's value, or of one element of it where the column is ragged.

    Raises InputError where the name, the type or the shape is none that a store can have.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    ragged: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.match(self.name) or self.name == "keys":
            raise InputError("is no name of a column", where=str(self.name), hint="small letters, digits and _; not `keys`")
        if self.dtype not in _TYPES:
            raise InputError(f"{self.dtype!r} is no type of a column", where=self.name, hint=f"one of {', '.join(_TYPES)}")
        if not isinstance(self.ragged, bool) or not all(type(side) is int and side > 0 for side in self.shape):
            raise InputError(f"{self.shape!r} is no shape of a column", where=self.name, hint="positive whole numbers")

    @property
    def numpy(self) -> np.dtype:
        """The type on disk, little-endian."""
        return _TYPES[self.dtype]

    @property
    def element_bytes(self) -> int:
        """Bytes of a row's value, or of one element of it where the column is ragged."""
        return self.numpy.itemsize * prod(self.shape)

    def json(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape), "ragged": self.ragged}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Column:
        """Raises KeyError, TypeError or InputError where `value` is none that `json` gave."""
        return cls(value["name"], value["dtype"], tuple(value["shape"]), value["ragged"])


def checked_columns(columns: Sequence[Column]) -> tuple[Column, ...]:
    """The columns. Raises InputError where there are none or two have the same name."""
    names = [column.name for column in columns]
    if not names or len(set(names)) < len(names):
        raise InputError("a store needs columns of different names", where=", ".join(names) or "no columns")
    return tuple(columns)


def as_keys(keys: Any) -> np.ndarray:
    """Keys as [N, 20] uint8, from such an array, an array of `S20`, or a sequence of 20 bytes each. Raises ValueError."""
    if isinstance(keys, np.ndarray):
        if keys.dtype == np.uint8 and keys.ndim == 2 and keys.shape[1] == KEY_BYTES:
            return np.ascontiguousarray(keys)
        if keys.dtype == np.dtype(f"S{KEY_BYTES}") and keys.ndim == 1:
            return np.ascontiguousarray(keys).view(np.uint8).reshape(-1, KEY_BYTES)
        raise ValueError(f"keys are [N, {KEY_BYTES}] uint8 or [N] S{KEY_BYTES}, not {keys.shape} {keys.dtype}")
    keys = list(keys)
    if any(len(key) != KEY_BYTES for key in keys):
        raise ValueError(f"a key has {KEY_BYTES} bytes")
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)


def prefixes(keys: np.ndarray) -> np.ndarray:
    """[N] uint64: the first 8 bytes of [N, 20] keys as big-endian numbers, so that their order is that of the keys."""
    return np.ascontiguousarray(keys[:, :8]).view(">u8").ravel().astype(np.uint64)


def owners(keys: np.ndarray, count: int) -> np.ndarray:
    """[N]: which of `count` writers each key belongs to. It depends on the key alone, so that the jobs of an array never
    compute the same row, whenever they start and whatever the others have done."""
    return (prefixes(keys) % np.uint64(count)).astype(np.int64)


def shown(keys: np.ndarray, most: int = 3) -> str:
    """The first keys as hex digits, for a message."""
    return ", ".join(key.tobytes().hex() for key in keys[:most]) + (", ..." if len(keys) > most else "")


def starts_name(column: str) -> str:
    """The dataset of a ragged column's starts; no column can have such a name."""
    return f"{column}.starts"


def datasets(columns: Sequence[Column], rows: int, elements: Mapping[str, int]) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Name -> type and shape of every dataset of a shard, in the file's order. elements: of each ragged column, in all rows."""
    kinds: dict[str, tuple[np.dtype, tuple[int, ...]]] = {"keys": (np.dtype(np.uint8), (rows, KEY_BYTES))}
    for column in columns:
        if column.ragged:
            kinds[starts_name(column.name)] = (np.dtype("<i8"), (rows + 1,))
    for column in columns:
        kinds[column.name] = (column.numpy, (elements[column.name] if column.ragged else rows, *column.shape))
    return kinds


class KeyIndex:
    """Finds keys among [N, 20] uint8 `keys`.

    Sorted are the first 8 bytes, as numbers; the rest is compared where they agree, so that keys that share them are told
    apart.
    """

    def __init__(self, keys: np.ndarray):
        numbers = prefixes(keys)
        self._rows, self._keys = np.argsort(numbers, kind="stable"), keys
        self._numbers = numbers[self._rows]

    def find(self, keys: np.ndarray) -> np.ndarray:
        """[K] int64: the row of each of [K, 20] uint8 keys (the first, where it has several), -1 where there is none."""
        result = np.full(len(keys), -1, np.int64)
        numbers = prefixes(keys)
        places = np.searchsorted(self._numbers, numbers)
        open_ = np.arange(len(keys))
        while True:
            open_ = open_[places[open_] < len(self._numbers)]
            open_ = open_[self._numbers[places[open_]] == numbers[open_]]
            if not len(open_):
                return result
            rows = self._rows[places[open_]]
            same = (self._keys[rows] == keys[open_]).all(axis=1)
            result[open_[same]] = rows[same]
            open_ = open_[~same]
            places[open_] += 1


def first_places(keys: np.ndarray) -> np.ndarray:
    """[U] int64: the place of each different key's first occurrence among [N, 20] uint8 keys, in the keys' order."""
    numbers = np.sort(prefixes(keys))
    # Nearly always: no two agree even in their first 8 bytes, and whole keys take ten times as long to sort.
    if (numbers[1:] != numbers[:-1]).all():
        return np.arange(len(keys))
    _, first = np.unique(keys.view(f"S{KEY_BYTES}").ravel(), return_index=True)
    return np.sort(first)


_SHOWN = 100
LAYOUT = 2
"""Of shards and manifests, as this version has them."""
_DIGITS = 12
_STORE_NAME = "[A-Za-z0-9][A-Za-z0-9._-]*"
_FOLDER = re.compile(rf"(?P<name>{_STORE_NAME})-(?P<fingerprint>[0-9a-f]{{{_DIGITS}}})\Z")

Fields = Mapping[str, str | int | float]


def store_folder(root: Path, name: str, fields: Fields) -> Path:
    """Where the shared store of these fields is, or would be. Raises InputError where `name` or a field is none that a store can
    have."""
    for key, value in fields.items():
        if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
            raise InputError(f"{value!r} cannot be a field of a store", where=key, hint="a text or a finite number")
    if not re.fullmatch(_STORE_NAME, name):
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
        fault = error.message[:_SHOWN] if isinstance(error, InputError) else first_line(error)  # may quote what is very long
        raise damaged(path, f"describes no rows that could be read: {fault}", again) from None
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
