"""What commands print: a plan, and the last line."""

from __future__ import annotations

from typing import Any

from vldistill.runtime import is_first_rank
from vldistill.terminal import Table, write_json


def plan_table(title: str, rows: dict[str, str]) -> Table:
    """Two columns: what, and which."""
    table = Table(title=title, box=None, show_header=False, pad_edge=False)
    table.words("", style="dim", no_wrap=True)
    table.words("")
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def split_list(text: str) -> tuple[str, ...]:
    """The parts of a list that an option takes: "a, b" to ("a", "b")."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def last_line(values: dict[str, Any]) -> None:
    """The result for scripts: compact JSON as the last line of standard output."""
    if is_first_rank():
        write_json(values)
