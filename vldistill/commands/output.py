"""What all commands print with."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vldistill.runtime import is_first_rank

console = Console()


def plan_table(title: str, rows: dict[str, str]) -> Table:
    """Two columns: what, and which."""
    table = Table(title=title, box=None, show_header=False, title_justify="left", pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, Text(str(value)))
    return table


def split_list(text: str) -> tuple[str, ...]:
    """The parts of a list that an option takes: "a, b" to ("a", "b")."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def last_line(values: dict[str, Any]) -> None:
    """The result for scripts: compact JSON as the last line of standard output."""
    if is_first_rank():
        print(json.dumps(values, separators=(",", ":"), ensure_ascii=False), flush=True)
