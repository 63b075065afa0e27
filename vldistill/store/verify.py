"""All of a store against its checksums: every fault in one pass, with the rows it concerns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from vldistill.artifacts import file_digest
from vldistill.errors import InputError
from vldistill.store.manifest import load_manifest
from vldistill.store.shard import Shard
from vldistill.store.staging import damaged
from vldistill.store.uses import Use

Value = TypeVar("Value")


@dataclass
class Verification:
    """rows: that are there. bytes: of their values, checked. damages: empty where all is what was written."""

    folder: Path
    rows: int = 0
    bytes: int = 0
    damages: list[InputError] = field(default_factory=list)

    def attempt(self, action: Callable[[], Value]) -> Value | None:
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
