"""Records on their way to disk: counted and written one by one as a source reads them, so that none is held."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from vldistill.data.answers import majority_answer
from vldistill.data.records import Record
from vldistill.data.sources.table import ALL_SPLITS, SourceData

IMAGES_FILE = "images.jsonl"
REGIONS_FILE = "regions.jsonl"
MOST_FREQUENT = 10
_TELL_EVERY = 2000  # records


class SplitCounts:
    """What a manifest says of one split."""

    def __init__(self) -> None:
        self.records = 0
        self.unanswerable = 0
        self.labelled = False
        self.images: set[str] = set()
        self.types: Counter[str] = Counter()
        self.labels: Counter[int] = Counter()
        self.answers: Counter[str] = Counter()

    def add(self, record: Record, data: SourceData) -> None:
        self.records += 1
        self.labelled = self.labelled or any(target is not None for target in (record.label, record.answers, record.tags))
        self.images.update(record.images)
        if record.type is not None:
            self.types[record.type] += 1
        if record.label is not None:
            self.labels[record.label] += 1
        self.labels.update(record.tags or ())
        if record.answers:
            self.answers[majority_answer(record.answers)] += 1
        if data.vocabulary is not None and record.answers is not None:
            self.unanswerable += not data.vocabulary.knows(record.answers)


class RecordWriter:
    """Takes a source's records and writes `<folder>/<split>.jsonl`. Use as a context manager.

    data: what the source fills in, which adds its records here. folder: None counts only. limit: the first N records of each
    split; those after it are dropped. progress(records so far) is called now and then. `where_of`: for each image the line that
    first names it. `written`: whether records have the texts of their source.
    """

    def __init__(self, task: str, folder: Path | None, limit: int | None = None, progress: Callable[[int], None] | None = None):
        self.data = SourceData(self.take, self.take_region, task)
        self.folder, self.limit, self._progress = folder, limit, progress
        self.where_of: dict[str, str] = {}
        self._splits: dict[str, SplitCounts] = {}
        self._files: dict[str, TextIO] = {}
        self._stack = ExitStack()
        self.records = self.regions = 0
        self.written = False

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def take(self, split: str, record: Record, where: str) -> None:
        counts = self._splits.get(split)
        if counts is None:
            counts = self._splits[split] = SplitCounts()
        if counts.records == self.limit:
            return
        counts.add(record, self.data)
        self.records += 1
        self.written = self.written or record.written is not None
        if self._progress and self.records % _TELL_EVERY == 0:
            self._progress(self.records)
        for path in record.images:
            self.where_of.setdefault(path, where)
        self._write(f"{split}.jsonl", record.to_json)

    def take_region(self, row: dict[str, Any]) -> None:
        """Writes an image's annotated objects to `regions.jsonl`."""
        self.regions += 1
        self._write(REGIONS_FILE, lambda: json.dumps(row, ensure_ascii=False, allow_nan=False))

    def leave_out(self, images: set[str]) -> int:
        """Drops the records that have one of `images`, and their objects; returns how many. Nothing is taken afterwards."""
        self._stack.close()
        if not images:
            return 0
        before, splits = self.records, list(self._splits)
        self.records, self._splits = 0, {}
        for split in splits:
            counts = self._splits[split] = SplitCounts()
            for row in self._kept(f"{split}.jsonl", lambda row: images.isdisjoint(row["images"])):
                counts.add(Record(**row), self.data)
                self.records += 1
            if not counts.records:
                del self._splits[split]
                (self.folder / f"{split}.jsonl").unlink()
        if self.regions:
            self.regions = sum(1 for _ in self._kept(REGIONS_FILE, lambda row: row["image"] not in images))
        return before - self.records

    def _kept(self, name: str, good: Callable[[dict[str, Any]], bool]) -> Iterator[dict[str, Any]]:
        """Writes a file anew with the rows that are good, which are returned."""
        path, new = self.folder / name, self.folder / f".{name}.new"
        with path.open(encoding="utf-8", newline="\n") as old, new.open("w", encoding="utf-8", newline="\n") as file:
            for line in old:
                if good(row := json.loads(line)):
                    file.write(line)
                    yield row
        new.replace(path)

    def _write(self, name: str, line: Callable[[], str]) -> None:
        if self.folder is None:
            return
        if name not in self._files:
            file = (self.folder / name).open("w", encoding="utf-8", newline="\n")
            self._files[name] = self._stack.enter_context(file)
        self._files[name].write(line() + "\n")

    def counts(self) -> dict[str, Any]:
        """Records, images, types and labels of each split; for VQA the most frequent answers."""
        splits = {name: self._splits[name] for name in ALL_SPLITS if name in self._splits}
        counts: dict[str, Any] = {
            name: {
                "records": split.records,
                "images": len(split.images),
                "labelled": split.labelled,
                "by_type": dict(split.types.most_common()),
                "by_label": {label: split.labels[i] for i, label in enumerate(self.data.labels or ()) if split.labels[i]},
            }
            for name, split in splits.items()
        }
        if self.data.vocabulary is not None:
            # The same answers for every split, so that an absent one is a zero and not the eleventh.
            total = sum((split.answers for split in splits.values()), Counter())
            for name, split in splits.items():
                counts[name]["top_answers"] = {answer: split.answers[answer] for answer, _ in total.most_common(MOST_FREQUENT)}
        return counts

    def labelled(self) -> list[str]:
        """The splits that have labels or answers."""
        return [name for name, split in self._splits.items() if split.labelled]

    def unanswerable(self) -> dict[str, int] | None:
        """Of each split, the questions with no answer in the vocabulary; None without a vocabulary."""
        if self.data.vocabulary is None:
            return None
        return {name: self._splits[name].unanswerable for name in ALL_SPLITS if name in self._splits}
