"""The record: one image-text example, one JSON object a line, the same for every dataset and both papers; read as a list, or one
by one from splits too large to hold (millions of captions).

Text is a list of words; a tag (VCR's person or object mention) stays a list of object indices, so that whatever crosses
tokenizers is aligned by word index. A source that writes text has it kept beside the words, for tokenizers to read. Image paths
are relative to the raw root, which the artifact's manifest names.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from vldistill.errors import LINE, InputError, Problems
from vldistill.places import open_regular, read_regular

if TYPE_CHECKING:
    import numpy as np

Word = str | list[int]
CHOICES = 4
"""Choices of a record whose target is one of them (VCR)."""
# One encoder: `json.dumps` makes a new one for every record.
_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_NEEDED = {"id", "task", "images", "text"}
LARGE = 200_000
"""A split of more records is not held: in memory a caption takes about 1 KB, and its tokens as much again."""
_CHUNK = 1 << 24
Found = TypeVar("Found")


def copy_words(words: Sequence[Word]) -> list[Word]:
    """The words in a list of their own, with tags of their own."""
    return [list(word) if isinstance(word, list) else word for word in words]


@dataclass(frozen=True)
class TaskSpec:
    """What a task's records hold. `images`: images per record; `target`: "label" (one class of the artifact's label
    map), "answers" (VQA: annotators' answers, scored softly), "choice" (VCR: one of the record's own `choices`), "tags" (any
    number of the label map's classes) or "none" (captions, text alone). `text`: whether records have text."""

    images: int
    target: str
    text: bool = True


TASKS: dict[str, TaskSpec] = {
    "vqa": TaskSpec(images=1, target="answers"),
    "snli_ve": TaskSpec(images=1, target="label"),
    "nlvr2": TaskSpec(images=2, target="label"),
    "nlvr": TaskSpec(images=1, target="label"),
    "classification": TaskSpec(images=1, target="label"),
    "pair_classification": TaskSpec(images=2, target="label"),
    "vcr": TaskSpec(images=1, target="choice"),
    "caption": TaskSpec(images=1, target="none"),
    "text": TaskSpec(images=0, target="none"),
    "tagging": TaskSpec(images=1, target="tags", text=False),
}


@dataclass(slots=True)
class Record:
    """One example.

    id: unique within a data artifact's split. images: paths relative to the raw root (1, or 2 for pairs, none of text alone).
    text: words, none of an image alone. written: what the source wrote, of which `text` are the words; None where the source has
    words (VCR), and in artifacts of earlier versions. choices: what is chosen from (VCR). label: index into the artifact's label
    names, or into `choices`; None where the split has none.
    answers: the annotators' raw answers (VQA), None where the split has none.
    type: the dataset's own category of the example, by which results are broken down. objects: the class of each object of the
    image, which tags index. given: words that stand between text and choices (VCR's QA->R: the answer to be justified).
    meta: whatever else a metric needs. tags: indices of all label names that hold, None where the split has none.
    """

    id: str
    task: str
    images: list[str]
    text: list[Word]
    choices: list[list[Word]] | None = None
    label: int | None = None
    answers: list[str] | None = None
    type: str | None = None
    objects: list[str] | None = None
    given: list[Word] | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    tags: list[int] | None = None
    written: str | None = None

    def to_json(self) -> str:
        """One line of JSON; fields that are None or empty are left out."""
        row: dict[str, Any] = {"id": self.id, "task": self.task, "images": self.images, "text": self.text}
        for key in ("choices", "label", "answers", "type", "objects", "given", "tags", "written"):
            value = getattr(self, key)
            if value is not None:
                row[key] = value
        if self.meta:
            row["meta"] = self.meta
        return _ENCODE(row)


def _refuse_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for key, value in pairs:
        if key in row:
            raise ValueError(f"key {key!r} appears twice")
        row[key] = value
    return row


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not valid JSON")


def parse_json(text: str) -> Any:
    """`json.loads` that refuses duplicate keys and NaN/Infinity, which the standard reader lets through silently."""
    try:
        return json.loads(text, object_pairs_hook=_refuse_duplicate_keys, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ValueError("not valid JSON: nested too deeply") from None


@contextmanager
def _there(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InputError("no such file", where=str(path)) from None
    except IsADirectoryError:
        raise InputError("is a folder, a file was expected", where=str(path)) from None


def read_text(path: Path) -> str:
    """A file's text as UTF-8 (a byte-order mark is dropped). Raises InputError where it is missing or not UTF-8."""
    with _there(path):
        content = read_regular(path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 at byte {error.start}", where=str(path), hint="save the file as UTF-8") from None


def read_json(path: Path) -> Any:
    """A whole JSON file. Raises InputError naming the file."""
    try:
        return parse_json(read_text(path))
    except ValueError as error:
        raise InputError(str(error), where=str(path)) from None


def _lines(path: Path) -> Iterator[bytes]:
    """A file's lines; bytes, since text would also break at U+2028 and the like, which may stand inside a JSON string."""
    with _there(path), open_regular(path) as file:
        yield from file


def read_jsonl(path: Path, problems: Problems, *, parse=parse_json) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (`file:line`, object) of each non-empty line; faulty lines go to `problems` and are skipped."""
    for where, row, _ in parsed_lines(path, problems, parse=parse):
        yield where, row


def parsed_lines(path: Path, problems: Problems, *, parse=parse_json) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """The same, and whether all texts of the line can be written as UTF-8: only an escape can bring half a surrogate pair."""
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = parse(line.decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            problems.add(f"not UTF-8 at byte {error.start} of the line", where=where, hint="save the file as UTF-8", part=LINE)
            continue
        except ValueError as error:
            problems.add(str(error), where=where, part=LINE)
            continue
        if not isinstance(row, dict):
            problems.add(f"a JSON object was expected, found {type(row).__name__}", where=where, part=LINE)
            continue
        yield where, row, b"\\u" not in line


def record_of(row: dict[str, Any]) -> Record:
    """The record of an object that `Record.to_json` wrote. Raises ValueError where a field is unknown or missing."""
    unknown, missing = sorted(row.keys() - _FIELDS), sorted(_NEEDED - row.keys())
    if unknown or missing:
        raise ValueError(f"not a record: unknown fields {unknown}, missing fields {missing}")
    return Record(**row)


_FIELDS = set(Record.__dataclass_fields__)


def read_records(path: Path) -> list[Record]:
    """Reads a split that `prepare` wrote. Raises InputError listing every line that is not a record."""
    problems, records = Problems(), []
    # `prepare` wrote these lines, so the plain reader is strict enough, and four times as fast.
    for where, row in read_jsonl(path, problems, parse=json.loads):
        try:
            records.append(record_of(row))
        except ValueError as error:
            problems.add(str(error), where=where, hint="make the artifact again with `vldistill prepare`")
    problems.raise_if_any(str(path))
    return records


class RecordFile(Sequence[Record]):
    """The records of a split that `prepare` wrote, in file order, the first `limit` of them; 8 bytes each are held."""

    def __init__(self, path: Path, limit: int | None = None):
        self.path = path
        self._starts = line_starts(path)
        self._count = min(len(self._starts) - 1, limit or len(self._starts))
        self._bytes: mmap.mmap | None = None
        self._last: tuple[int, Record] | None = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        """Raises InputError where the line is no record."""
        if not 0 <= index < self._count:
            raise IndexError(index)
        if self._last is None or self._last[0] != index:
            self._last = index, self._read(index)
        return self._last[1]

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(self._count))

    def __getstate__(self) -> dict[str, Any]:
        """What another process is given: it maps the file for itself."""
        return self.__dict__ | {"_bytes": None, "_last": None}

    def _read(self, index: int) -> Record:
        if self._bytes is None:
            with self.path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        line = self._bytes[self._starts[index] : self._starts[index + 1]]
        try:
            return record_of(json.loads(line))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"is not a record: {error}",
                where=f"{self.path}:{index + 1}",
                hint="make the artifact again with `vldistill prepare`",
            ) from None


class Mapped(Sequence, Generic[Found]):
    """A function of each record, computed when it is asked for."""

    def __init__(self, function: Callable[[Record], Found], records: Sequence[Record]):
        self._function, self._records = function, records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Found:
        return self._function(self._records[index])


def mapped(function: Callable[[Record], Found], records: Sequence[Record]) -> Sequence[Found]:
    """A function of each record: computed now where the records are held, else when it is asked for."""
    return [function(record) for record in records] if isinstance(records, list) else Mapped(function, records)


def line_starts(path: Path) -> np.ndarray:
    """[lines + 1] int64: where each line begins, and where the file ends. Raises InputError where it cannot be read."""
    import numpy as np  # no help waits for it

    pieces, place = [np.zeros(1, dtype=np.int64)], 0
    try:
        with open_regular(path) as file:
            while chunk := file.read(_CHUNK):
                pieces.append(np.flatnonzero(np.frombuffer(chunk, dtype=np.uint8) == ord("\n")) + place + 1)
                place += len(chunk)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from None
    starts = np.concatenate(pieces)
    return starts if starts[-1] == place else np.append(starts, place)
