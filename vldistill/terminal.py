"""Standard output: the one place from where the tool prints.

Whatever stands behind it (a terminal of 20 columns, a log, a pipe that somebody closed, an encoding without the letters of a
label), nothing of what a command found is cut off, and no work is lost to it: a stream that cannot be written is given up, and
the command goes on. Text of others, such as labels, questions and file names, is shown as it is: without mark-up, and with its
control characters escaped.
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.segment import Segments
from rich.table import Table as RichTable
from rich.text import Text

_LEAST_FOLDED = 12
"""Columns of the terminal that a column of words keeps, at least."""
_WIDEST = 1 << 16
_HIDDEN = {"Cc", "Cs", "Zl", "Zp"}
_TURNED = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}
_failure: OSError | None = None
_complaints: set[str] = set()


def escaped(text: str) -> str:
    r"""The text without what a terminal would obey instead of show: control characters and changes of direction become `\u001b`;
    line breaks and tabs stay.

    >>> escaped("red\x1b[31m\n")
    'red\\u001b[31m\n'
    """
    if text.isprintable():
        return text
    return "".join(
        f"\\u{ord(one):04x}" if one not in "\n\t" and (unicodedata.category(one) in _HIDDEN or ord(one) in _TURNED) else one
        for one in text
    )


class _Output(Console):
    """Without mark-up in text, and without an end of the program where nobody reads any more."""

    def on_broken_pipe(self) -> None:
        _give_up(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))


console = _Output(markup=False, highlight=False, emoji=False)


class Table(RichTable):
    """A table whose figures are never cut off. words: headings of its first columns."""

    def __init__(self, *words: str, title: str | None = None, **style: Any):
        super().__init__(title=title and Text(escaped(title)), title_justify="left", caption_justify="left", **style)
        self._longest: list[int] = []
        self.words(*words)

    @property
    def spare(self) -> int:
        """Columns of the terminal that folding can save."""
        widths = zip(self.columns, self._longest, strict=True)
        return sum(max(0, longest - _LEAST_FOLDED) for column, longest in widths if not column.no_wrap)

    def words(self, *headings: str, **style: Any) -> None:
        """Columns of text, which is folded where there is no room."""
        for heading in headings:
            self._add(heading, overflow="fold", **style)

    def figures(self, *headings: str, **style: Any) -> None:
        """Columns of figures."""
        for heading in headings:
            self._add(heading, justify="right", no_wrap=True, **style)

    def add_row(self, *cells: Any, **style: Any) -> None:
        """Texts, plain or styled; None leaves a cell empty."""
        texts = [_shown(cell) for cell in cells]
        for place, cell in enumerate(texts):
            self._longest[place] = max(self._longest[place], _length(cell))
        super().add_row(*texts, **style)

    def _add(self, heading: str, **style: Any) -> None:
        super().add_column(_shown(heading), **style)
        self._longest.append(cell_len(heading))


def _shown(cell: str | Text | None) -> Text:
    if isinstance(cell, Text):
        return cell if cell.plain.isprintable() else Text(escaped(cell.plain), style=cell.style)
    return Text(escaped(cell or ""))


def _length(cell: Text) -> int:
    return max((cell_len(line) for line in cell.plain.splitlines()), default=0)


def say(text: str | Text = "", style: str | None = None) -> None:
    """A line."""
    with _written():
        console.print(_shown(text), style=style, soft_wrap=True)


def show(table: Table) -> None:
    """A table: as wide as it is where there is no terminal, else with its words folded to the terminal's width, but never with
    its figures cut."""
    with _written():
        width = _width(table)
        console.print(Segments(console.render(table, console.options.update(width=width))), crop=False, soft_wrap=True, end="")


def _width(table: Table) -> int:
    unbounded = console.options.update(width=_WIDEST)
    whole = Measurement.get(console, unbounded, table).maximum
    if not console.is_terminal or whole <= console.width:
        return max(whole, cell_len(str(table.title)) if table.title else 0)
    return max(console.width, whole - table.spare)


def write(text: str) -> None:
    """Text for other programs, and a line break: as it is, but for what a terminal would obey."""
    with _written():
        if sys.stdout is not None:
            sys.stdout.write(escaped(text) + "\n")
            sys.stdout.flush()


def write_json(values: dict[str, Any]) -> None:
    """Compact JSON as a line, with ASCII escapes where the output's encoding lacks a letter."""
    text = json.dumps(values, separators=(",", ":"), ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(values, separators=(",", ":"))
    write(text)


def complain(text: str) -> None:
    """A line on standard error."""
    if sys.stderr is not None:
        print(escaped(text), file=sys.stderr)


def complain_once(text: str) -> None:
    """The same, where this command has not said it yet."""
    if text not in _complaints:
        _complaints.add(text)
        complain(text)


def open_streams() -> None:
    """Gives a program that was started without some standard stream one that leads nowhere, so that no file which is opened later
    takes its place, and lets an encoding that lacks a letter show it escaped. From here on nothing was complained of yet."""
    _complaints.clear()
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != descriptor:
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
            if getattr(sys, name) is None:
                setattr(sys, name, os.fdopen(descriptor, "r" if name == "stdin" else "w", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def output_failure() -> OSError | None:
    """Why standard output was given up, unless its reader only went away."""
    gone = (errno.EPIPE, errno.EBADF)
    return None if _failure is None or _failure.errno in gone else _failure


@contextmanager
def _written() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _give_up(error)


def _give_up(error: OSError) -> None:
    """Nothing more is written, nor at the end, when Python flushes what is left."""
    global _failure
    _failure = _failure or error
    console.quiet = True
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        sys.stdout = os.fdopen(os.dup(nowhere), "w")
    finally:
        os.close(nowhere)
