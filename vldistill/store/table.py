"""What a manifest says of a store: its columns, and the shards that its rows lie in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vldistill.artifacts import MANIFEST
from vldistill.errors import InputError
from vldistill.store.damage import damaged
from vldistill.store.layout import Column, checked_columns


@dataclass(frozen=True)
class Kind:
    """One use of the store. stage: of its manifests. make_it: the command that makes one. mend: what to do about damage. apart:
    what to do where new rows would stand beside those of other versions of a library."""

    stage: str
    make_it: str
    mend: str
    apart: str


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
        if not 0 <= self.committed <= self.rows:
            raise TypeError("more rows of a shard were written than it has")


@dataclass(frozen=True)
class Table:
    """A folder's rows. shards: by name, in the order of their numbers. mend: what to do about damage."""

    folder: Path
    columns: tuple[Column, ...]
    shards: dict[str, ShardEntry]
    mend: str


def table_fields(columns: Sequence[Column], shards: dict[str, ShardEntry]) -> dict[str, Any]:
    """What the manifest says of them."""
    return {"columns": [column.json() for column in columns], "shards": {name: vars(entry) for name, entry in shards.items()}}


def read_table(folder: Path, value: dict[str, Any], mend: str) -> Table:
    """From a manifest's content. Raises InputError where it describes no store."""
    try:
        columns = checked_columns([Column.from_json(column) for column in value["columns"]])
        shards = {name: ShardEntry(**value["shards"][name]) for name in sorted(value["shards"], key=shard_number)}
    except (KeyError, TypeError, ValueError, AttributeError, InputError) as error:
        raise damaged(folder / MANIFEST, f"describes no rows that could be read: {error}", mend) from None
    return Table(folder, columns, shards, mend)


def shard_name(number: int) -> str:
    return f"shard-{number:04d}"


def shard_number(name: str) -> int:
    """Raises ValueError where it is no shard's name."""
    return int(name.removeprefix("shard-"))
