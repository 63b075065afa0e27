"""Which growing stores there are, and which of them comes nearest to one that is not."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vldistill.artifacts import MANIFEST
from vldistill.errors import InputError
from vldistill.store.manifest import Fields, load_manifest, split_name
from vldistill.store.snapshot import open_shards
from vldistill.store.table import Kind

Value = str | int | float | None


@dataclass
class Listing:
    """One store. rows: that are there, of `wanted` that were asked for. bytes: of all its files. seconds: that its rows took,
    over all writers. made: see `Manifest.made`. problem: why it cannot be used, where it cannot; the rest is then what is
    known."""

    folder: Path
    name: str
    fields: dict[str, str | int | float] = field(default_factory=dict)
    rows: int = 0
    wanted: int = 0
    bytes: int = 0
    seconds: float = 0.0
    complete: bool = False
    made: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


def list_stores(root: Path, kind: Kind) -> list[Listing]:
    """All stores of the kind below `root`, by name; folders that are none are left out. Rows are counted by the journals and not
    checked."""
    return [_listing(folder, kind) for folder in _folders(root)]


@dataclass(frozen=True)
class Nearest:
    """A store of the same name. differences: field -> (its value there, the value asked for), None where it has none."""

    folder: Path
    differences: dict[str, tuple[Value, Value]]

    def __str__(self) -> str:
        parts = [
            f"{name} is {_shown(there)} there, {_shown(asked)} is asked for" for name, (there, asked) in self.differences.items()
        ]
        return f"{self.folder} differs: {'; '.join(parts)}"


def nearest(root: Path, name: str, fields: Fields, kind: Kind) -> Nearest | None:
    """The store of this name that differs in the fewest fields; None where there is no other."""
    found = []
    for folder in _folders(root):
        if split_name(folder)[0] == name:
            try:
                there = load_manifest(folder, kind).fields
            except InputError:
                continue
            names = [*fields, *(field for field in there if field not in fields)]
            different = {field: (there.get(field), fields.get(field)) for field in names if there.get(field) != fields.get(field)}
            if different:
                found.append(Nearest(folder, different))
    return min(found, key=lambda other: len(other.differences), default=None)


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if split_name(path) and path.is_dir() and (path / MANIFEST).exists())


def _listing(folder: Path, kind: Kind) -> Listing:
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    listing = Listing(folder, split_name(folder)[0], bytes=size)
    try:
        manifest = load_manifest(folder, kind)
        listing.fields, listing.wanted, listing.complete = manifest.fields, manifest.wanted, manifest.complete
        listing.made = manifest.made
        for shard in open_shards(manifest.table):
            journal = shard.journal()
            listing.rows, listing.seconds = listing.rows + journal.rows, listing.seconds + journal.seconds
    except InputError as error:
        listing.problem = str(error)
    return listing


def _shown(value: Value) -> str:
    return "nothing" if value is None else str(value)
