"""The journal of a shard: one line for each block of rows that is safely on disk, with checksums of its bytes.

Lines are appended after the rows they speak of have been synced, and synced themselves. A writer that is killed leaves at most
a torn end, which is ignored: rows that no whole line names are not there. A line that is damaged with whole lines after it is
no torn end, but damage.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from vldistill.store.damage import damaged

_SUM = b',"line":"%08x"}'
_SUM_BYTES = len(_SUM % 0)


@dataclass(frozen=True)
class Block:
    """Rows [first, end) of a shard. crcs: CRC-32 of each column's bytes, in the order of the columns. seconds: that they
    took."""

    first: int
    end: int
    crcs: tuple[int, ...]
    seconds: float = 0.0


@dataclass(frozen=True)
class Journal:
    """blocks: in the order of their rows, without overlap. whole_bytes: length of the file up to its torn end."""

    blocks: list[Block]
    whole_bytes: int

    @property
    def rows(self) -> int:
        return sum(block.end - block.first for block in self.blocks)

    @property
    def seconds(self) -> float:
        return sum(block.seconds for block in self.blocks)


def to_lines(blocks: Iterable[Block]) -> bytes:
    """The blocks as lines of JSON, each with a CRC-32 of what comes before it in the line."""
    lines = []
    for block in blocks:
        value = {"rows": [block.first, block.end], "crc": block.crcs, "seconds": round(block.seconds, 4)}
        body = json.dumps(value, separators=(",", ":")).encode()[:-1]
        lines.append(body + _SUM % zlib.crc32(body) + b"\n")
    return b"".join(lines)


def read_journal(path: Path, rows: int, columns: int, mend: str) -> Journal:
    """The journal of a shard of so many rows and columns; a missing file is an empty journal. mend: what
    the user does about damage.

    Raises InputError where a line is damaged and is not the end, speaks of rows that the shard has not, or of the same rows
    again.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return Journal([], 0)
    except OSError as error:
        raise damaged(path, f"cannot be read: {error.strerror}", mend) from None
    blocks: list[Block] = []
    whole_bytes, torn_at = 0, None
    # What follows the last line break is a torn line, or nothing.
    for number, line in enumerate(lines[:-1], 1):
        if not _is_whole(line):
            torn_at = torn_at or number
            continue
        if torn_at:
            raise damaged(f"{path}:{torn_at}", "is damaged, and so are the rows it speaks of", mend)
        blocks.append(_parsed(line, rows, columns, f"{path}:{number}", mend))
        whole_bytes += len(line) + 1
    blocks.sort(key=lambda block: block.first)
    for before, after in pairwise(blocks):
        if after.first < before.end:
            raise damaged(path, f"names rows {after.first} to {before.end} more than once", mend)
    return Journal(blocks, whole_bytes)


def block_numbers(blocks: list[Block], rows: int) -> np.ndarray:
    """[rows] int32: the place of each row's block in `blocks`, -1 where it has none."""
    numbers = np.full(rows, -1, np.int32)
    for number, block in enumerate(blocks):
        numbers[block.first : block.end] = number
    return numbers


def _is_whole(line: bytes) -> bool:
    return line[-_SUM_BYTES:] == _SUM % zlib.crc32(line[:-_SUM_BYTES])


def _parsed(line: bytes, rows: int, columns: int, where: str, mend: str) -> Block:
    try:
        value = json.loads(line)
        (first, end), crcs, seconds = value["rows"], value["crc"], value["seconds"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise damaged(where, "is no line of a journal", mend) from None
    numbers = [first, end, *crcs] if isinstance(crcs, list) else [None]
    if any(type(number) is not int for number in numbers) or len(crcs) != columns or type(seconds) not in (int, float):
        raise damaged(where, "is no line of a journal", mend)
    if not 0 <= first < end <= rows or not 0 <= seconds < float("inf"):
        raise damaged(where, f"speaks of rows {first} to {end}, the shard has {rows}", mend)
    return Block(first, end, tuple(crcs), float(seconds))
