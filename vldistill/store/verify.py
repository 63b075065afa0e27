"""All of a store against its checksums: every fault in one pass, with the rows it concerns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from vldistill.errors import InputError
from vldistill.store.checking import block_damage
from vldistill.store.container import offsets_by_hdf5
from vldistill.store.damage import Damage, damaged
from vldistill.store.layout import KEY_BYTES
from vldistill.store.manifest import load_manifest
from vldistill.store.shard import Shard
from vldistill.store.table import Kind

Value = TypeVar("Value")


@dataclass
class Report:
    """rows: that are there. bytes: of their values, checked. damages: empty where all is what was written."""

    folder: Path
    mend: str
    rows: int = 0
    bytes: int = 0
    damages: list[Damage] = field(default_factory=list)

    def attempt(self, action: Callable[[], Value]) -> Value | None:
        """The action's result; None, and a damage noted, where it refuses."""
        try:
            return action()
        except InputError as error:
            self.damages.append(Damage(error.where or str(self.folder), error.message, self.mend))
            return None


def verify_store(folder: Path, kind: Kind) -> Report:
    """Checks a growing store's manifest, descriptions, journals, HDF5's structure, keys and every block of rows; raises nothing
    for what it finds."""
    report = Report(folder, kind.mend)
    manifest = report.attempt(lambda: load_manifest(folder, kind))
    for name in manifest.shards if manifest else ():
        shard = report.attempt(lambda name=name: Shard(manifest.table, name))
        if shard:
            _verify_shard(report, shard)
    return report


def _verify_shard(report: Report, shard: Shard) -> None:
    count = len(report.damages)
    report.attempt(shard.check)
    if not shard.path.exists():
        return
    if len(report.damages) == count:
        # HDF5 is shown only what was proved to be as written: it is not made for anything else.
        report.attempt(lambda: _same_offsets(shard))
    journal, keys = report.attempt(shard.journal), report.attempt(shard.keys)
    starts = report.attempt(shard.lengths)
    if journal is None or starts is None:
        return
    report.rows += journal.rows
    keys = np.empty((0, KEY_BYTES), np.uint8) if keys is None else keys
    for block in journal.blocks:
        for place, column in enumerate(shard.columns):
            report.bytes += shard.span(column, block.first, block.end)[1]
            found = keys[block.first : block.end]
            damage = report.attempt(lambda place=place, block=block, found=found: block_damage(shard, place, block, found))
            if damage:
                report.damages.append(damage)


def _same_offsets(shard: Shard) -> None:
    try:
        found = offsets_by_hdf5(shard.path)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise damaged(shard.path, f"cannot be opened by HDF5: {error}", shard.mend) from None
    if found != {name: extent.offset for name, extent in shard.extents.items()}:
        raise damaged(shard.path, "has its datasets elsewhere than its description says", shard.mend)
