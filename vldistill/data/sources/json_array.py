"""Reading a JSON file that is one long list, an item at a time: caption files of a gigabyte are never held whole."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from vldistill.data.records import parse_json
from vldistill.data.sources.base import add_file_fault, quoted
from vldistill.errors import Problems


def iterate_array(path: Path, problems: Problems, *, chunk: int = 1 << 20, largest: int = 1 << 26) -> Iterator[tuple[str, Any]]:
    """Yields (`file:item[i]`, value) of each item of a JSON file that is one list, holding little more than an item at a time.

    chunk: bytes read at once. largest: characters that an item may have. The first fault goes to `problems` and ends the
    reading: what follows it cannot be told apart.
    """
    index, fault = 0, None
    try:
        with path.open("rb") as file:
            window = _Window(file, chunk, largest)
            if window.next() != "[":
                raise ValueError("a JSON list was expected")
            window.at += 1
            if window.next() == "]":
                raise ValueError("the list is empty")
            mark = ","
            while mark == ",":
                yield f"{path}:item[{index}]", parse_json(window.item())
                index, mark, window.at = index + 1, window.next(), window.at + 1
            if window.next():
                raise ValueError("text follows the end of the list")
    except RecursionError:
        fault = "not valid JSON: nested too deeply"
    except ValueError as error:
        fault = str(error)
    except OSError as error:
        add_file_fault(path, error, problems)
    if fault:
        problems.add(fault, where=f"{path}:item[{index}]", hint="is the file whole? fetch it again")


class _Window:
    """The part of a JSON list's text that is being read. It slides over the file, as wide as an item and a chunk."""

    # Finds where an item ends; `parse_json` reads it.
    _SCAN = json.JSONDecoder(parse_int=str, parse_float=str)
    _BLANKS = re.compile(r"[ \t\n\r]*")

    def __init__(self, file: BinaryIO, chunk: int, largest: int):
        self._file, self._chunk, self._largest = file, chunk, largest
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._text, self.at, self._ended = "", 0, False

    def next(self) -> str:
        """Moves to the next character that is not blank, and returns it; "" at the end of the file."""
        while True:
            self.at = self._BLANKS.match(self._text, self.at).end()
            if self.at < len(self._text) or not self._grow():
                return self._text[self.at : self.at + 1]

    def item(self) -> str:
        """Moves to the mark behind the item that comes next, and returns its text. Raises ValueError, RecursionError."""
        while True:
            self.next()
            try:
                end = self._SCAN.raw_decode(self._text, self.at)[1]
                after = self._BLANKS.match(self._text, end).end()
                mark = self._text[after : after + 1]
                if mark in (",", "]"):
                    item, self.at = self._text[self.at : end], after
                    return item
                fault = f"a comma or `]` was expected after it, found {quoted(mark) if mark else 'the end of the file'}"
            except json.JSONDecodeError as error:
                fault = f"not valid JSON: {error.msg} at character {error.pos - self.at + 1} of the item"
            if len(self._text) - self.at > self._largest:
                raise ValueError(f"not valid JSON: the item does not end within {self._largest:,} characters")
            # Cut off by the end of the window (a number too: only a mark shows that it is whole), or wrong: more text will tell.
            if not self._grow():
                raise ValueError(fault)

    def _grow(self) -> bool:
        """Forgets what was read, and reads on; False at the end of the file."""
        # At least doubled: an item that is tried again at each step costs twice its length, not its square.
        data = b"" if self._ended else self._file.read(max(self._chunk, len(self._text) - self.at))
        self._ended = not data
        try:
            self._text, self.at = self._text[self.at :] + self._decode(data, final=self._ended), 0
        except UnicodeDecodeError as error:
            raise ValueError(f"not UTF-8 at byte {self._file.tell() - len(error.object) + error.start}") from None
        return not self._ended
