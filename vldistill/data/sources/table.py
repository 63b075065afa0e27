"""The data sets that `vldistill prepare` reads: what each says of itself, and one table of them. A new one is a file beside this
one and a line in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from vldistill.data.answers import AnswerVocabulary
from vldistill.data.records import TASKS, Record, read_jsonl
from vldistill.data.sources.rows import listed, nearest
from vldistill.errors import InputError, Problems

SPLITS = ("train", "val", "test")
# With the subsets that some data sets name, in the order in which they are shown.
ALL_SPLITS = ("train", "val", "val-balanced", "val-unbalanced", "test", "test-dev", "test-balanced", "test-unbalanced")
SOURCES = {
    "vqa": "vqa:VQA",
    "vcr": "vcr:VCR",
    "snli_ve": "snli_ve:SNLI_VE",
    "nlvr2": "nlvr2:NLVR2",
    "nlvr": "nlvr:NLVR",
    "flickr30k": "karpathy:FLICKR30K",
    "coco": "karpathy:COCO",
    "gcc": "captions:GCC",
    "sbu": "captions:SBU",
    "visual_genome": "visual_genome:VISUAL_GENOME",
    "jsonl": "jsonl:JSONL",
}
"""Of each name, the `Source` below this package that says what it is."""


@dataclass
class SourceData:
    """A data set as its source reads it: the source fills in the fields, then adds records one by one, so that a large data set
    is never held whole.

    add(split, record, where): takes a record; where: its `file:line` (or `file#question_id`), by which faults of its images are
    named. add_region(row): takes what is annotated of one image: `image` (its path), `width`, `height`, `names`, `boxes` and
    `polygons`. task, labels and vocabulary are set before the first record. root: what image paths are relative to (None: the raw
    folder). notes: lines to print for the user.
    """

    add: Callable[[str, Record, str], None]
    add_region: Callable[[dict[str, Any]], None]
    task: str = ""
    labels: list[str] | None = None
    vocabulary: AnswerVocabulary | None = None
    root: Path | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Flag:
    """How a field of a source's options is given on the command line, several values as a list with commas. metavar: what it
    takes, in help. least: the smallest number."""

    name: str
    metavar: str
    help: str
    least: int | None = None


@dataclass(frozen=True)
class SourceOptions:
    """How to read a data set; a source with options of its own adds fields, each with its `Flag`. splits: of ALL_SPLITS; None for
    all that are there."""

    splits: Annotated[tuple[str, ...] | None, Flag("--splits", "A,B", "Only these splits: train, val, test, ...")] = None

    def wants(self, split: str) -> bool:
        return self.splits is None or split in self.splits

    def check(self) -> None:
        """Raises InputError for values that cannot be."""
        for split in self.splits or ():
            if split not in ALL_SPLITS:
                raise InputError(f"split {split!r} is not known", hint=nearest(split, ALL_SPLITS))


@dataclass(frozen=True)
class Answers(SourceOptions):
    """Of a source with free answers. min_answer_count: how often an answer occurs to be a class."""

    min_answer_count: Annotated[int, Flag("--min-count", "N", "Least occurrences of an answer.", least=1)] = 9

    def check(self) -> None:
        super().check()
        if self.min_answer_count < 1:
            raise InputError(f"min_answer_count is {self.min_answer_count}", hint="give 1 or more")


@dataclass(frozen=True)
class ToyLayout:
    """How the toy world is written in a source's layout. write: a function, "module:name" below `vldistill.data.toy`. sizes:
    scenes of each split. group: scenes that balance each other; sizes are multiples of it."""

    write: str
    sizes: dict[str, int]
    group: int = 1


@dataclass(frozen=True)
class Source:
    """A data set in its raw layout.

    about: what it is, in a line. layout: the files that it reads. read(root, options, problems, data) adds its records to `data`;
    it raises InputError where `root` does not look like the data set, and all other faults go to `problems`. task: of its
    records; None where the files say it. options: what its reader may be asked. variants: whether its tasks have ADVL's low-shot
    draws, domain shift and statements. one_file: whether `root` may be a file. worded: whether its texts come as words, so that
    there is no text as written. toy: how the toy world is written in its layout, where it is.
    """

    about: str
    layout: str
    read: Callable[[Path, Any, Problems, SourceData], None]
    task: str | None
    options: type[SourceOptions] = SourceOptions
    variants: bool = False
    one_file: bool = False
    worded: bool = False
    toy: ToyLayout | None = None


def source_name(given: str) -> str:
    """The name in the table of what a user may have written as `SNLI-VE`. Raises InputError where there is none."""
    name = given.replace("-", "_").lower()
    if name not in SOURCES:
        raise InputError(f"data set {given!r} is not known", hint=nearest(name, SOURCES))
    return name


def labelled() -> list[str]:
    """The data sets whose records have labels, or may have."""
    tasks = {name: source_of(name).task for name in SOURCES}
    return [name.replace("_", "-") for name, task in tasks.items() if task is None or TASKS[task].target != "none"]


@cache
def source_of(name: str) -> Source:
    """Raises KeyError for a name that is not in the table."""
    module, _, attribute = SOURCES[name].partition(":")
    return getattr(import_module(f"{__package__}.{module}"), attribute)


def wrong_layout(root: Path, dataset: str, expected: Sequence[str]) -> InputError:
    """The folder does not look like the data set: what was expected and what is there."""
    from vldistill.data.unpack import is_archive  # no help waits for it

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
