"""What commands print: a plan, and the last line."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from typing import Any

from vldistill.errors import InputError
from vldistill.runtime import is_first_rank
from vldistill.terminal import Table, show, write_json

_MOST_DIGITS = 18


def show_plan(title: str, rows: Mapping[str, object]) -> None:
    """Two columns: what, and which."""
    table = Table(title=title, box=None, show_header=False, pad_edge=False)
    table.words("", style="dim", no_wrap=True)
    table.words("")
    for name, value in rows.items():
        table.add_row(name, str(value))
    show(table)


def split_list(text: str) -> tuple[str, ...]:
    """The parts of a list that an option takes: "a, b" to ("a", "b"); a part with a comma stands in double quotes."""
    if '"' not in text:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        [parts] = csv.reader([text], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError):
        raise InputError(f"{text[:80]} has a quote that does not end", hint="as in: --labels '\"yes, sir\",no'") from None
    return tuple(part.strip() for part in parts if part.strip())


def numbers(option: str, text: str) -> tuple[int, ...]:
    """A list of whole numbers, as an option takes it."""
    values = split_list(text)
    if not all(value.isascii() and value.isdigit() and len(value) <= _MOST_DIGITS for value in values):
        raise InputError(f"{option} {text[:60]} is not a list of whole numbers", hint=f"{option} 100,1000")
    return tuple(map(int, values))


def last_line(values: dict[str, Any]) -> None:
    """The result for scripts: compact JSON as the last line of standard output."""
    if is_first_rank():
        write_json(values)
