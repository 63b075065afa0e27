"""Strict reading of raw files: JSON lines, documents and long lists, row by row, with `file:line` in each fault."""

from __future__ import annotations

import codecs
import difflib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from vldistill.data.records import parse_json, parsed_lines, read_text
from vldistill.errors import LINE, InputError, Problems
from vldistill.places import open_regular

MOST_FAULTS = 1000
_ONE_A_LINE = 'write lines of {"image": ..., "text": ...}; in Python: json.dumps(row), one row a line'


class Row:
    """One JSON object under examination. Each getter returns the value, or None after adding a problem; `good` tells
    whether all went well. plain: whether all texts in it are known to be writable as UTF-8."""

    def __init__(self, values: dict[str, Any], where: str, problems: Problems, plain: bool = False):
        self.values, self.where, self.problems, self.plain, self.good = values, where, problems, plain, True

    def fault(self, message: str, hint: str | None = None) -> None:
        self.good = False
        self.problems.add(message, where=self.where, hint=hint, part=LINE)

    def text(self, key: str, *, optional: bool = False, blank: bool = False) -> str | None:
        """A string; `blank` also lets an empty one pass. Never one that cannot be written as UTF-8."""
        value = self._get(key, optional)
        if value is None:
            return None
        if not isinstance(value, str):
            return self.fault(
                f"`{key}` must be a text, found {kind_of(value)}", "put it in quotes" if is_number(value) else "mend the line"
            )
        if not blank and not value.strip():
            return self.fault(f"`{key}` is empty", "give it a text, or drop the line")
        return value if self.plain else self.writable(value, key)

    def name(self, key: str, *, optional: bool = False, blank: bool = False) -> str | None:
        """A text, or a whole number, which is taken as its digits."""
        value = self.values.get(key)
        return str(value) if type(value) is int else self.text(key, optional=optional, blank=blank)

    def names(self, key: str, most: int | None = None) -> list[str] | None:
        """A list of them."""
        values = self.values.get(key)
        if isinstance(values, list) and any(type(value) is int for value in values):
            self.values = {**self.values, key: [str(value) if type(value) is int else value for value in values]}
        return self.texts(key, most)

    def writable(self, value: str, key: str) -> str | None:
        """The text, or None after adding a problem where it cannot be written as UTF-8."""
        try:
            value.encode()
        except UnicodeEncodeError:
            return self.fault(f"`{key}` has half of a surrogate pair", "mend the \\u escape")
        return value

    def integer(self, key: str) -> int | None:
        value = self._get(key, False)
        if value is None:
            return None
        if type(value) is not int or value < 0:
            actual = value if type(value) is int else kind_of(value)
            return self.fault(f"`{key}` must be a whole number, 0 or more, found {actual}", "mend the line")
        return value

    def number_of_folder(self, key: str) -> str:
        """The name of a numbered folder, "" after adding a problem."""
        value = self.values.get(key)
        if type(value) not in (int, str) or not re.fullmatch(r"\d+", str(value)):
            self.fault(f"`{key}` {quoted(value)} is not a number", "expected the number of an image folder")
            return ""
        return str(value)

    def items(self, key: str, *, optional: bool = False) -> list[Any] | None:
        value = self._get(key, optional)
        if value is None:
            return None
        if not isinstance(value, list):
            return self.fault(f"`{key}` must be a list, found {kind_of(value)}", "put it in square brackets")
        return value

    def texts(self, key: str, most: int | None = None) -> list[str] | None:
        """A list of one non-blank string or more, `most` at most."""
        values = self.items(key)
        if values is None:
            return None
        if not values or (most is not None and len(values) > most):
            wanted = "one text or more" if most is None else f"1 to {most} texts"
            return self.fault(f"`{key}` must hold {wanted}, found {len(values)}", "mend the line")
        if self.plain and all(type(value) is str and not value.isspace() and value for value in values):
            return values
        entries = Row({f"{key}[{i}]": value for i, value in enumerate(values)}, self.where, self.problems)
        for entry in entries.values:
            entries.text(entry)
        self.good = self.good and entries.good
        return values if entries.good else None

    def one_of(self, key: str, names: Sequence[str]) -> int | None:
        """The index of a label among `names`."""
        value = self.text(key)
        if value is None:
            return None
        if value not in names:
            return self.fault(f"`{key}` {quoted(value)} is not a label", nearest(value, names))
        return names.index(value)

    def _get(self, key: str, optional: bool) -> Any:
        value = self.values.get(key)
        if value is None and not optional:
            if key in self.values:
                return self.fault(f"`{key}` is null", "give it a value, or drop the line")
            near = difflib.get_close_matches(key, self.values, 1)
            hint = f"did you mean `{near[0]}`? rename it" if near else f"found {listed(self.values)}"
            return self.fault(f"`{key}` is missing", hint)
        return value


class SeenIds:
    """Ids seen so far in a split; a second occurrence is a fault that names the first."""

    def __init__(self) -> None:
        self.first: dict[Any, str] = {}

    def add(self, value: Any, row: Row, key: str = "id") -> None:
        if value in self.first:
            row.fault(f"{key} {quoted(value)} appears twice", f"first at {self.first[value]}; rename or drop one")
        else:
            self.first[value] = row.where


def read_rows(path: Path, problems: Problems) -> Iterator[Row]:
    """The objects of a JSON-lines file; every fault of the file goes to `problems`, an empty file too."""
    empty = True
    before = len(problems.items)
    if (other := _other_format(path)) is not None:
        problems.add(f"{other}, one JSON object a line was expected", where=f"{path}:1", hint=_ONE_A_LINE)
        return
    try:
        for where, values, plain in parsed_lines(path, problems):
            empty = False
            yield Row(values, where, problems, plain)
    except (InputError, OSError) as error:
        add_file_fault(path, error, problems)
    for problem in problems.items[before:]:
        problem.hint = problem.hint or "mend the line, or drop it"
    if empty and len(problems.items) == before:
        problems.add("holds no line", where=f"{path}:1", hint="remove the file, or fetch it again")


def _other_format(path: Path) -> str | None:
    """What a file that is no JSON lines seems to be, by its beginning."""
    try:
        with open_regular(path) as file:
            first = file.read(1 << 16).decode("utf-8-sig", errors="replace").lstrip()
    except OSError:
        return None
    line, _, rest = first.partition("\n")
    if line.startswith("["):
        return "is a JSON list"
    if line.startswith("{") and line.rstrip().endswith(("{", ",")) and rest.lstrip().startswith('"'):
        return "has its objects spread over several lines"
    mark = next((mark for mark in ("\t", ",", ";") if mark in line), None)
    if (mark is not None and line[:1] not in '{"') or (mark is not None and line.startswith('"') and rest[:1] != "{"):
        columns = [len(one.split(mark)) for one in (line, rest.partition("\n")[0])]
        if columns[0] > 1 and columns[1] >= columns[0]:
            return f"looks like a table ({'TSV' if mark == chr(9) else 'CSV'})"
    return None


def read_document(path: Path, key: str, problems: Problems) -> list[Row]:
    """The objects in the list `key` of a JSON file (VQA's layout); faults go to `problems`."""
    try:
        text = read_text(path)
    except (InputError, OSError) as error:
        add_file_fault(path, error, problems)
        return []
    try:
        document = parse_json(text)
    except ValueError as error:
        problems.add(str(error), where=f"{path}:{_faulty_line(text)}", hint="fetch the file again")
        return []
    entries = document.get(key) if isinstance(document, dict) else None
    if not isinstance(entries, list) or not entries:
        problems.add(f"has no list of `{key}`", where=f"{path}:1", hint="is it the right file? fetch it again")
        return []
    rows = []
    for i, entry in enumerate(entries):
        where = f"{path}:{key}[{i}]"
        if isinstance(entry, dict):
            rows.append(Row(entry, where, problems))
        else:
            problems.add(f"a JSON object was expected, found {kind_of(entry)}", where=where, hint="mend the entry", part=LINE)
    return rows


def gives_up(path: Path, problems: Problems, faults: int) -> bool:
    """Whether a file of millions of rows has MOST_FAULTS faults: it is then given up as another file, and the fault said."""
    if faults < MOST_FAULTS or problems.every:
        return False
    problems.add(f"has {MOST_FAULTS:,} faults; the rest was not read", where=f"{path}:1", hint="is it the right file?")
    return True


def add_file_fault(path: Path, error: Exception, problems: Problems) -> None:
    """Adds the fault of a file that cannot be read; one that is not UTF-8 with its line."""
    if isinstance(error, InputError) and "UTF-8" in error.message:
        data = path.read_bytes()
        try:
            data.decode("utf-8")
        except UnicodeDecodeError as fault:
            line = data.count(b"\n", 0, fault.start) + 1
            problems.add(error.message, where=f"{path}:{line}", hint=error.hint)
            return
    if isinstance(error, InputError):
        problems.add(error.message, where=error.where, hint=error.hint or "put it there")
    else:
        problems.add(
            f"cannot be read: {getattr(error, 'strerror', None) or error}", where=str(path), hint="check its permissions"
        )


def _faulty_line(text: str) -> int:
    # The strict reader reports a column; the line is what an editor asks for.
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.lineno
    except (ValueError, RecursionError):
        pass
    return 1


def kind_of(value: Any) -> str:
    """A JSON value's type in words."""
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "true/false",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
    return names[type(value)]


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def quoted(value: Any) -> str:
    """A value for a one-line message: quoted, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]}...{text[0]}"


def nearest(value: str, names: Iterable[str]) -> str:
    """A hint for a name that is not among `names`."""
    names = list(names)
    lowered = {name.lower(): name for name in names}
    near = difflib.get_close_matches(value.lower(), lowered, 1)
    return f"did you mean {lowered[near[0]]!r}?" if near else f"expected one of {listed(names)}"


def listed(names: Iterable[str], most: int = 8) -> str:
    """Names for a message, the first few."""
    names = list(names)
    text = ", ".join(name[:60] if name.isprintable() else quoted(name) for name in names[:most])
    return (text + (f", ... ({len(names):,} in all)" if len(names) > most else "")) or "nothing"


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
