"""What commands print: a plan, how far they are, and the last line."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from vldistill.runtime import is_first_rank
from vldistill.terminal import Table, console, say, show, write_json

_WORTH_TELLING = 10.0
"""Seconds between two lines of progress, at least."""


def show_plan(title: str, rows: Mapping[str, object]) -> None:
    """Two columns: what, and which."""
    table = Table(title=title, box=None, show_header=False, pad_edge=False)
    table.words("", style="dim", no_wrap=True)
    table.words("")
    for name, value in rows.items():
        table.add_row(name, str(value))
    show(table)


def last_line(values: dict[str, Any]) -> None:
    """The result for scripts: compact JSON as the last line of standard output."""
    if is_first_rank():
        write_json(values)


class Watching:
    """As a context, it hands out `watch` (see `vldistill.evaluation.captions`), and clears its bar when it is left."""

    def __init__(self) -> None:
        self._bar = None
        if console.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=console, transient=True)

    def __enter__(self) -> Watching:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, total: int, unit: str, seconds: float | None) -> Callable[[int], None]:
        if seconds is not None:
            say(f"{total:,} {unit}: about {duration(seconds)}, by a measured sample")
        if bar := self._bar:
            task = bar.add_task(unit, total=total)
            return lambda count: bar.advance(task, count)
        return _Lines(total, unit)


class _Lines:
    def __init__(self, total: int, unit: str) -> None:
        self._total, self._unit, self._done, self._told = total, unit, 0, 0
        self._started = self._last = time.perf_counter()

    def __call__(self, count: int) -> None:
        self._done += count
        tenth, now = 10 * self._done // self._total, time.perf_counter()
        if self._told < tenth < 10 and now - self._last > _WORTH_TELLING:
            self._told, self._last = tenth, now
            left = (now - self._started) * (self._total / self._done - 1)
            say(f"{self._done:,} of {self._total:,} {self._unit}, about {duration(left)} left")


def duration(seconds: float) -> str:
    """In the unit that suits it.

    >>> duration(0.42), duration(754), duration(40398), duration(1.6e6)
    ('0.4 s', '13 minutes', '11.2 hours', '18.5 days')
    """
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 172800 else f"{seconds / 86400:.1f} days"
