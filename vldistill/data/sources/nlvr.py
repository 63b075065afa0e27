"""NLVR (2017): is the sentence true of three boxes of shapes? One record for each of the six box orders of an image.

The six orders, and sentences of one presentation, are near copies: a validation split is made of whole image
directories, never drawn at random.
"""

from __future__ import annotations

import re
from pathlib import Path

from vldistill.data.records import Record, split_words
from vldistill.data.sources.base import Seen, SourceData, SourceOptions, listed, quoted, read_rows, wrong_layout
from vldistill.errors import InputError, Problems

LABELS = ["false", "true"]
PERMUTATIONS = 6
_OFFICIAL = {"train": "train", "val": "dev", "test": "test"}


def read(root: Path, options: SourceOptions, problems: Problems) -> SourceData:
    """Reads the splits that are there and holds `options.val_directories` out.

    With directories held out of train, dev serves as test where there is no test split; without a train split they
    are held out of dev, which becomes train. Raises InputError where no split is there, or for a directory that is
    not in the data; faults go to `problems`.
    """
    data = SourceData(task="nlvr", labels=list(LABELS))
    files = {
        split: root / name / f"{name}.json"
        for split, name in _OFFICIAL.items()
        if (root / name / f"{name}.json").is_file()
    }
    if not files:
        raise wrong_layout(root, "NLVR", ["train/train.json, dev/dev.json, test/test.json"])
    for split, path in files.items():
        _read_split(path, split, data, problems)
    if options.val_directories:
        _hold_out(options.val_directories, data, root)
    elif "train" not in files and "val" in files:
        data.notes.append("there is no train split: hold whole directories of dev out as val to train on the others")
    for split in [split for split in data.splits if not options.wants(split)]:
        del data.splits[split], data.where[split]
    return data


def _read_split(path: Path, split: str, data: SourceData, problems: Problems) -> None:
    seen, official = Seen(), _OFFICIAL[split]
    for row in read_rows(path, problems):
        identifier, sentence, label = row.text("identifier"), row.text("sentence"), row.one_of("label", LABELS)
        directory = row.values.get("directory")
        if isinstance(directory, bool) or not re.fullmatch(r"\d+", str(directory)):
            row.fault(f"`directory` {quoted(directory)} is not a number", "expected the number of an image folder")
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
                label=label,
                meta={"identifier": identifier, "directory": str(directory)},
            )
            data.add(split, record, row.where)


def _hold_out(directories: tuple[str, ...], data: SourceData, root: Path) -> None:
    source = "train" if "train" in data.splits else "val"
    official = _OFFICIAL[source]
    pairs = list(zip(data.splits.get(source, []), data.where.get(source, []), strict=True))
    present = {record.meta["directory"] for record, _ in pairs}
    unknown = [directory for directory in directories if directory not in present]
    if pairs and (unknown or present <= set(directories)):
        message = (
            f"has no directory {listed(unknown)}"
            if unknown
            else "would be held out whole, and nothing is left to train on"
        )
        raise InputError(
            message, where=str(root / official), hint=f"choose some of {listed(sorted(present, key=int), most=20)}"
        )
    kept = [pair for pair in pairs if pair[0].meta["directory"] not in directories]
    held = [pair for pair in pairs if pair[0].meta["directory"] in directories]
    if source == "train" and "val" in data.splits:
        _move_dev(data)
    for split, part in (("train", kept), ("val", held)):
        data.splits[split], data.where[split] = [record for record, _ in part], [where for _, where in part]
    if source == "val":
        data.notes.append("there is no train split: dev is read as train, less the directories held out as val")
    data.notes.append(f"val: directories {listed(directories, most=20)} of {official}, {len(held):,} records")


def _move_dev(data: SourceData) -> None:
    records, where = data.splits.pop("val"), data.where.pop("val")
    if "test" in data.splits:
        data.notes.append(f"dev ({len(records):,} records) is left out, since val is held out of train")
    else:
        data.splits["test"], data.where["test"] = records, where
        data.notes.append("dev is read as test, since val is held out of train")
