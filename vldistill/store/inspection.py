"""Stores seen from outside: which there are, which comes nearest to one that is not, and all of one against its checksums,
every fault in one pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from vldistill.artifacts import MANIFEST, file_digest, stage_of
from vldistill.errors import InputError
from vldistill.store.layout import Fields, load_manifest, split_name
from vldistill.store.reader import open_shards
from vldistill.store.shard import Shard
from vldistill.store.staging import damaged
from vldistill.store.uses import Use

Value = str | int | float | None


@dataclass
class Listing:
    """One store. name: of a shared one, without its fingerprint. rows: that are there, of `wanted` that were asked for. bytes: of
    all its files. seconds: that its rows took, over all writers. made: its manifest, but for columns and shards. problem: why it
    cannot be used, where it cannot; the rest is then what is known."""

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


def list_stores(root: Path, use: Use) -> list[Listing]:
    """All stores of the use below `root`, by name; folders that are none are left out. Rows are not
    checked."""
    return [_listing(folder, use) for folder in _folders(root, use)]


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


def nearest(root: Path, name: str, fields: Fields, use: Use) -> Nearest | None:
    """The shared store of this name that differs in the fewest fields; None where there is no other."""
    others = []
    for listing in list_stores(root, use):
        there = listing.fields
        if listing.name != name or not there:
            continue
        names = [*fields, *(field for field in there if field not in fields)]
        different = {field: (there.get(field), fields.get(field)) for field in names if there.get(field) != fields.get(field)}
        if different:
            others.append(Nearest(listing.folder, different))
    return min(others, key=lambda other: len(other.differences), default=None)


def _folders(root: Path, use: Use) -> list[Path]:
    if not root.is_dir():
        return []
    folders = (path for path in root.iterdir() if path.is_dir() and (path / MANIFEST).exists() and not path.name.startswith("."))
    # One whose manifest cannot be read is shown with its problem.
    return sorted(path for path in folders if stage_of(path) in (use.stage, None) and (split_name(path) or not use.shared))


def _listing(folder: Path, use: Use) -> Listing:
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    names = split_name(folder) if use.shared else None
    listing = Listing(folder, names[0] if names else folder.name, bytes=size)
    try:
        manifest = load_manifest(folder, use, partial=True)
        value = listing.made = manifest.value
        listing.fields, listing.complete = value.get("fields", {}), value["complete"]
        listing.rows, listing.wanted = manifest.rows, value.get("wanted", manifest.rows)
        listing.seconds = value["wall_s"]
        open_shards(manifest)
    except InputError as error:
        listing.problem = str(error)
    return listing


def _shown(value: Value) -> str:
    return "nothing" if value is None else str(value)


Result = TypeVar("Result")


@dataclass
class Verification:
    """rows: that are there. bytes: of their values, checked. damages: empty where all is what was written."""

    folder: Path
    rows: int = 0
    bytes: int = 0
    damages: list[InputError] = field(default_factory=list)

    def attempt(self, action: Callable[[], Result]) -> Result | None:
        """The action's result; None, and a damage noted, where it refuses."""
        try:
            return action()
        except InputError as error:
            self.damages.append(error)
            return None


def verify_store(folder: Path, use: Use) -> Verification:
    """Checks a store's manifest, tables, HDF5's structure, keys, every block of rows, and what else belongs to it; raises nothing
    for what it finds."""
    report = Verification(folder)
    manifest = report.attempt(lambda: load_manifest(folder, use))
    if manifest is None:
        return report
    for name, entry in manifest.shards.items():
        shard = report.attempt(
            lambda name=name, entry=entry: Shard(folder / f"{name}.h5", manifest.columns, entry.digest, manifest.mend)
        )
        if shard is None:
            continue
        report.rows += shard.rows
        for column in manifest.columns:
            for block in range(shard.layout.blocks):
                check = report.attempt(lambda shard=shard, column=column, block=block: shard.check(column, block))
                report.bytes += check or 0
    for name in use.files:
        report.attempt(lambda name=name: check_file(folder / name, manifest.value.get("files", {}).get(name), manifest.mend))
    return report


def check_file(path: Path, digest: str | None, mend: str) -> None:
    """Raises InputError where a file beside the rows is missing or was changed."""
    if not path.is_file():
        raise damaged(path, "is named in the manifest but missing", mend)
    if file_digest(path) != digest:
        raise damaged(path, "differs from what its manifest records", mend)
