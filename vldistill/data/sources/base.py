"""What every source shares: its options, what it returns, and strict reading of rows with `file:line` in each fault."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from vldistill.data.answers import AnswerVocabulary
from vldistill.data.records import Record, parse_json, parsed_lines, read_jsonl, read_text
from vldistill.errors import LINE, InputError, Problems
from vldistill.places import open_regular

SPLITS = ("train", "val", "test")
# With the subsets that some data sets name, in the order in which they are shown.
ALL_SPLITS = ("train", "val", "val-balanced", "val-unbalanced", "test", "test-dev", "test-balanced", "test-unbalanced")


@dataclass
class SourceData:
    """A data set as its source reads it: the source fills in the fields, then adds records one by one.

    task, labels and vocabulary are set before the first record. root: what image paths are relative to (None: the raw
    folder). notes: lines to print for the user. take(split, record, where) gets each record, so that a large data set is
    never held whole, and take_region each image's annotated objects; without them they are kept in `splits`, with the `where`
    of each, and in `regions`.
    """

    task: str = ""
    labels: list[str] | None = None
    vocabulary: AnswerVocabulary | None = None
    root: Path | None = None
    notes: list[str] = field(default_factory=list)
    take: Callable[[str, Record, str], None] | None = None
    take_region: Callable[[dict[str, Any]], None] | None = None
    splits: dict[str, list[Record]] = field(default_factory=dict)
    where: dict[str, list[str]] = field(default_factory=dict)
    regions: list[dict[str, Any]] = field(default_factory=list)

    def add(self, split: str, record: Record, where: str) -> None:
        """Adds a record. where: its `file:line` (or `file#question_id`), by which faults of its images are named."""
        if self.take is not None:
            self.take(split, record, where)
            return
        self.splits.setdefault(split, []).append(record)
        self.where.setdefault(split, []).append(where)

    def add_region(self, row: dict[str, Any]) -> None:
        """Adds what is annotated of one image: `image` (its path), `width`, `height`, `names`, `boxes` and `polygons`."""
        if self.take_region is not None:
            self.take_region(row)
        else:
            self.regions.append(row)


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


_ONE_A_LINE = 'write lines of {"image": ..., "text": ...}; in Python: json.dumps(row), one row a line'


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


def wrong_layout(root: Path, dataset: str, expected: Sequence[str]) -> InputError:
    """The folder does not look like the data set: what was expected and what is there."""
    from vldistill.data.archives.unpack import is_archive  # no help waits for it

    content = listed(sorted(entry.name + ("/" if entry.is_dir() else "") for entry in root.iterdir()))
    hint = f"expected {' or '.join(expected)}"
    if any(map(is_archive, root.iterdir())):
        hint += "; its archives can be unpacked first: --unpack DIR"
    return InputError(f"does not look like {dataset}: found {content}", where=str(root), hint=hint)


def first_objects(path: Path, most: int = 50) -> list[dict[str, Any]]:
    """The first objects of a JSON-lines file, for a look ahead; its faults are left for the reading proper."""
    try:
        return [row for _, row in islice(read_jsonl(path, Problems()), most)]
    except (InputError, OSError):
        return []


def first_holding(root: Path, folders: Sequence[str], names: Iterable[str]) -> str:
    """Which folder holds the images: the one with most of the first names, else one that exists, else the first."""
    sample = list(names)[:50]
    # `Path.is_file` would raise for a name that is too long.
    counts = [sum(os.path.isfile(root / folder / name) for name in sample) for folder in folders]  # noqa: PTH113
    if max(counts, default=0):
        return folders[counts.index(max(counts))]
    return next((folder for folder in folders if folder and (root / folder).is_dir()), folders[0])


def joined(folder: str, name: str) -> str:
    """A path relative to the raw root, with forward slashes on every system."""
    return f"{folder}/{name}" if folder else name
