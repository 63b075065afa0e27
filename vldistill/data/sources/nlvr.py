"""NLVR (2017): is the sentence true of three boxes of shapes? One record for each of the six box orders of an image.

The six orders, and sentences of one presentation, are near copies: a validation split is made of whole image
directories, never drawn at random.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from vldistill.data.records import Record
from vldistill.data.sources.rows import SeenIds, listed, quoted, read_rows
from vldistill.data.sources.table import Flag, Source, SourceData, SourceOptions, wrong_layout
from vldistill.data.wording import split_words
from vldistill.errors import InputError, Problems

LABELS = ["false", "true"]
PERMUTATIONS = 6
Splits = dict[str, list[tuple[Record, str]]]  # records with their `file:line`; few enough to be held
_OFFICIAL = {"train": "train", "val": "dev", "test": "test"}


@dataclass(frozen=True)
class Nlvr(SourceOptions):
    """val_directories: image directories held out as val."""

    val_directories: Annotated[tuple[str, ...], Flag("--val-directories", "4,5", "Image directories to hold out as val.")] = ()


def read(root: Path, options: Nlvr, problems: Problems, data: SourceData) -> None:
    """Reads the splits that are there and holds `options.val_directories` out.

    With directories held out of train, dev serves as test where there is no test split; without a train split they
    are held out of dev, which becomes train. Raises InputError where no split is there, or for a directory that is
    not in the data; faults go to `problems`.
    """
    data.labels = list(LABELS)
    files = {split: root / name / f"{name}.json" for split, name in _OFFICIAL.items() if (root / name / f"{name}.json").is_file()}
    if not files:
        raise wrong_layout(root, "NLVR", ["train/train.json, dev/dev.json, test/test.json"])
    splits: Splits = {split: list(_read_split(path, split, problems)) for split, path in files.items()}
    if options.val_directories:
        splits = _hold_out(options.val_directories, splits, root, data.notes)
    elif "train" not in files and "val" in files:
        data.notes.append("there is no train split: hold whole directories of dev out as val to train on the others")
    for split in filter(options.wants, splits):
        for record, where in splits[split]:
            data.add(split, record, where)


def _read_split(path: Path, split: str, problems: Problems) -> Iterator[tuple[Record, str]]:
    seen, official = SeenIds(), _OFFICIAL[split]
    for row in read_rows(path, problems):
        identifier, sentence, label = row.text("identifier"), row.text("sentence"), row.one_of("label", LABELS)
        directory = row.number_of_folder("directory")
        if identifier is not None:
            seen.add(identifier, row, "identifier")
            if not re.fullmatch(r"\d+-\d+", identifier):
                row.fault(f"identifier {quoted(identifier)} is not `number-position`", "expected one like 72-0")
        if not row.good:
            continue
        words = split_words(sentence)
        for k in range(PERMUTATIONS):
            name = f"{official}-{identifier}-{k}"
            record = Record(
                id=name,
                task="nlvr",
                images=[f"{official}/images/{directory}/{name}.png"],
                text=list(words),
                written=sentence,
                label=label,
                meta={"identifier": identifier, "directory": directory},
            )
            yield record, row.where


def _hold_out(directories: tuple[str, ...], splits: Splits, root: Path, notes: list[str]) -> Splits:
    """Whole directories of train become val, and dev then becomes test; without train, dev is split so."""
    source = "train" if "train" in splits else "val"
    official, pairs = _OFFICIAL[source], splits[source]
    present = {record.meta["directory"] for record, _ in pairs}
    unknown = [directory for directory in directories if directory not in present]
    if pairs and (unknown or present <= set(directories)):
        raise InputError(
            f"has no directory {listed(unknown)}" if unknown else "would be held out whole, and nothing is left to train on",
            where=str(root / official),
            hint=f"choose some of {listed(sorted(present, key=int), most=20)}",
        )
    held = [pair for pair in pairs if pair[0].meta["directory"] in directories]
    divided = {"train": [pair for pair in pairs if pair[0].meta["directory"] not in directories], "val": held}
    if "test" in splits:
        divided["test"] = splits["test"]
    if source == "val":
        notes.append("there is no train split: dev is read as train, less the directories held out as val")
    elif "val" in splits and "test" in splits:
        notes.append(f"dev ({len(splits['val']):,} records) is left out, since val is held out of train")
    elif "val" in splits:
        divided["test"] = splits["val"]
        notes.append("dev is read as test, since val is held out of train")
    notes.append(f"val: directories {listed(directories, most=20)} of {official}, {len(held):,} records")
    return divided


NLVR = Source(
    about="NLVR (2017): whether a sentence is true of boxes of shapes",
    layout="train/, dev/, test/, each with its .json and images/",
    read=read,
    task="nlvr",
    options=Nlvr,
)
