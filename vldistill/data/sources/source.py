"""What a data set says of itself: what `vldistill prepare` reads, what it may be asked, and its reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from vldistill.data.sources.base import ALL_SPLITS, SourceData, nearest
from vldistill.errors import InputError, Problems


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
