"""One block of rows against its checksum."""

from __future__ import annotations

import numpy as np

from vldistill.store.damage import Damage, damaged
from vldistill.store.journal import Block
from vldistill.store.layout import shown
from vldistill.store.shard import Shard


def mapped(shard: Shard) -> np.ndarray:
    """The shard's file as bytes, mapped into memory. Raises InputError where it cannot be."""
    try:
        return np.memmap(shard.path, np.uint8, "r").view(np.ndarray)
    except (OSError, ValueError) as error:
        raise damaged(shard.path, f"cannot be mapped into memory: {error}", shard.mend) from None


def block_damage(shard: Shard, place: int, block: Block, keys: np.ndarray) -> Damage | None:
    """What is wrong with a block in the column at `place`, or None. keys: of the block's rows, to name them. Raises InputError
    where it cannot be read: the file is not yet asked through the map, where a disk that fails, or a file that was cut, ends the
    process."""
    column = shard.columns[place]
    if shard.crc(*shard.span(column, block.first, block.end)) == block.crcs[place]:
        return None
    return Damage(str(shard.path), f"column {column.name} is damaged", shard.mend, (block.first, block.end), shown(keys))
