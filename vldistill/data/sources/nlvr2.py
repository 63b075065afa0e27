"""NLVR2: is the sentence true of a pair of photographs? JSON lines; image names follow from the identifier.

The official balanced and unbalanced subsets of dev and test1 are splits of their own, with the identifiers of the whole.
"""

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

LABELS = ["False", "True"]
_OFFICIAL = {"train": "train", "val": "dev", "test": "test1"}
_SUBSETS = ("balanced", "unbalanced")
# Where a split's file may lie: the official repository has the subsets in folders of their own.
_FILES = {split: (f"{official}.json",) for split, official in _OFFICIAL.items()} | {
    f"{split}-{subset}": (f"{subset}/{subset}_{_OFFICIAL[split]}.json", f"{subset}_{_OFFICIAL[split]}.json")
    for split in ("val", "test")
    for subset in _SUBSETS
}
_ANNOTATION_FOLDERS = ("", "nlvr2/data", "data")
_IDENTIFIER = re.compile(r"(train|dev|test1)-(\d+)-(\d+)-(\d+)")


def read(root: Path, options: SourceOptions, problems: Problems, data: SourceData) -> None:
    """Reads the splits that are there. Raises InputError where none is; faults go to `problems`.

    meta has `set`, `pair` and `sentence`: consistency groups the records that differ in `pair` only.
    """
    data.labels = list(LABELS)
    present = [_present(root / folder) for folder in _ANNOTATION_FOLDERS]
    # A folder with a whole split before one that has subsets only.
    files = next((files for files in present if not _OFFICIAL.keys().isdisjoint(files)), None) or next(
        filter(None, present), None
    )
    if files is None:
        whole = ", ".join(names[0] for split, names in _FILES.items() if split in _OFFICIAL)
        raise wrong_layout(root, "NLVR2", [whole, "these in nlvr2/data/", "in data/"])
    for split, path in files.items():
        if options.wants(split):
            _read_split(path, root, split, data, problems)


def _present(folder: Path) -> dict[str, Path]:
    """The files of a folder by split."""
    places = {split: [folder / name for name in names if (folder / name).is_file()] for split, names in _FILES.items()}
    return {split: paths[0] for split, paths in places.items() if paths}


def _read_split(path: Path, root: Path, split: str, data: SourceData, problems: Problems) -> None:
    seen, official = SeenIds(), _OFFICIAL[split.partition("-")[0]]
    first = [row for row in first_objects(path) if _IDENTIFIER.fullmatch(str(row.get("identifier")))]
    names = [name for row in first for name in _image_names(row["identifier"], str(row.get("directory") or ""))]
    folder = first_holding(root, (f"images/{official}", official), names)
    for row in read_rows(path, problems):
        identifier, sentence = row.text("identifier"), row.text("sentence")
        label, synset = row.one_of("label", LABELS), row.text("synset", optional=True)
        # The numbered folder of a training pair; dev and test1 have none.
        directory = "" if row.values.get("directory") is None else row.number_of_folder("directory")
        parts = _IDENTIFIER.fullmatch(identifier) if identifier is not None else None
        if identifier is not None:
            seen.add(identifier, row, "identifier")
            if parts is None:
                row.fault(
                    f"identifier {quoted(identifier)} is not `split-set-pair-sentence`", f"expected one like {official}-850-0-1"
                )
            elif parts[1] != official:
                row.fault(f"identifier {quoted(identifier)} is not of {path.name}", f"expected it to begin with {official}-")
        if not row.good:
            continue
        names = [joined(folder, name) for name in _image_names(identifier, directory)]
        meta = {"set": parts[2], "pair": parts[3], "sentence": parts[4]}
        record = Record(
            id=identifier,
            task="nlvr2",
            images=names,
            text=split_words(sentence),
            written=sentence,
            label=label,
            type=synset,
            meta=meta,
        )
        data.add(split, record, row.where)


def _image_names(identifier: str, directory: str) -> list[str]:
    """The two images of `split-set-pair-sentence`, whose sentences share them."""
    return [joined(directory, f"{identifier.rpartition('-')[0]}-img{side}.png") for side in (0, 1)]


NLVR2 = Source(
    about="NLVR2: whether a sentence is true of two photographs",
    layout="train.json, dev.json, test1.json, images/train/, dev/, test1/",
    read=read,
    task="nlvr2",
    toy=ToyLayout("layouts:write_nlvr2", {"train": 6000, "dev": 250, "test1": 500}),
)
