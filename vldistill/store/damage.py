"""What is said of a file that is no longer what was written."""

from __future__ import annotations

from dataclasses import dataclass

from vldistill.errors import InputError
from vldistill.staging import damaged


@dataclass(frozen=True)
class Damage:
    """One fault. where: the file, and its line where it has lines. mend: what the user does about it. rows: [first, end) of the
    shard, and the first keys of these rows as hex digits, where the fault is in a block of rows."""

    where: str
    message: str
    mend: str
    rows: tuple[int, int] | None = None
    keys: str = ""

    def __str__(self) -> str:
        return str(self.error())

    def error(self) -> InputError:
        if self.rows is None:
            return damaged(self.where, self.message, self.mend)
        return damaged(self.where, f"{self.message} in rows {self.rows[0]} to {self.rows[1] - 1}, of keys {self.keys}", self.mend)
