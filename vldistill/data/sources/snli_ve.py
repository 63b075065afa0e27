"""SNLI-VE: does a Flickr30K photograph entail the sentence? Labels in alphabetical order, as in UNITER, ViLT and DiDE
(METER's order differs: map by name)."""

from __future__ import annotations

import re
from pathlib import Path

from vldistill.data.records import Record
from vldistill.data.sources.rows import SeenIds, quoted, read_rows
from vldistill.data.sources.table import (
    Source,
    SourceData,
    SourceOptions,
    ToyLayout,
    first_holding,
    first_objects,
    joined,
    wrong_layout,
)
from vldistill.data.wording import split_words
from vldistill.errors import Problems

LABELS = ["contradiction", "entailment", "neutral"]
_FILES = {"train": "snli_ve_train.jsonl", "val": "snli_ve_dev.jsonl", "test": "snli_ve_test.jsonl"}
# Older releases misspell the key.
_IMAGE_KEYS = ("Flickr30K_ID", "Flikr30kID")
_IMAGE_FOLDERS = ("flickr30k-images", "images", "")
_IMAGE_ID = re.compile(r"[\w\-][\w.\-]*")


def read(root: Path, options: SourceOptions, problems: Problems, data: SourceData) -> None:
    """Reads the splits that are there; a folder with one other .jsonl is read as `test`.

    Raises InputError where the folder holds neither; faults go to `problems`.
    """
    data.labels = list(LABELS)
    files = {split: root / name for split, name in _FILES.items() if (root / name).exists()}
    if not files:
        others = sorted(root.glob("*_data.jsonl")) or sorted(root.glob("*.jsonl"))
        if len(others) != 1:
            raise wrong_layout(root, "SNLI-VE", [", ".join(_FILES.values()), "a single .jsonl file"])
        files = {"test": others[0]}
        data.notes.append(f"{others[0].name} is not named as a split of SNLI-VE: read as test")
    names = [_image_name(row[key]) for path in files.values() for row in first_objects(path) for key in _IMAGE_KEYS if key in row]
    folder = first_holding(root, _IMAGE_FOLDERS, names)
    for split, path in files.items():
        if options.wants(split):
            _read_split(path, split, folder, data, problems)


def _image_name(image: object) -> str:
    return f"{str(image).removesuffix('.jpg')}.jpg"


def _read_split(path: Path, split: str, folder: str, data: SourceData, problems: Problems) -> None:
    seen, undecided = SeenIds(), 0
    for row in read_rows(path, problems):
        key = next((key for key in _IMAGE_KEYS if key in row.values), _IMAGE_KEYS[0])
        pair, image, hypothesis = row.name("pairID"), row.name(key), row.text("sentence2")
        premise = row.text("sentence1", optional=True, blank=True)
        # "-": the annotators did not agree; the official numbers leave these out.
        no_majority = row.values.get("gold_label") == "-"
        label = None if no_majority else row.one_of("gold_label", LABELS)
        if pair is not None:
            seen.add(pair, row, "pairID")
        if image is not None and not _IMAGE_ID.fullmatch(image):
            row.fault(f"`{key}` {quoted(image)} is not an image number", "expected one like 4804607632, with or without .jpg")
        if no_majority:
            undecided += 1
        elif row.good:
            meta = {"premise": premise} if premise else {}
            words, images = split_words(hypothesis), [joined(folder, _image_name(image))]
            record = Record(id=pair, task="snli_ve", images=images, text=words, written=hypothesis, label=label, meta=meta)
            data.add(split, record, row.where)
    if undecided:
        data.notes.append(f'{split}: {undecided:,} pairs without an agreed label ("-") left out')


SNLI_VE = Source(
    about="SNLI-VE: whether a photograph entails a sentence",
    layout="snli_ve_{train,dev,test}.jsonl, flickr30k-images/",
    read=read,
    task="snli_ve",
    toy=ToyLayout("layouts:write_snli_ve", {"train": 6000, "dev": 700, "test": 700}, group=3),
    variants=True,
)
