"""Image captions in Karpathy's split files: Flickr30K and COCO. Five captions an image, each a record; none is dropped.

COCO's `restval` (the part of val2014 that is in neither val nor test) is train, as in all later work.
"""

from __future__ import annotations

from pathlib import Path

from vldistill.data.records import Record
from vldistill.data.sources.rows import Row, SeenIds, kind_of, quoted, read_document
from vldistill.data.sources.table import Source, SourceData, SourceOptions, ToyLayout, first_holding, joined, wrong_layout
from vldistill.data.wording import split_words
from vldistill.errors import Problems

_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}
_ANNOTATION_FOLDERS = ("", "karpathy", "annotations")
_FLICKR_FOLDERS = ("flickr30k-images", "flickr30k_images", "images", "")


def read_flickr30k(root: Path, options: SourceOptions, problems: Problems, data: SourceData) -> None:
    """Reads `dataset_flickr30k.json` and the images beside it. Raises InputError where it is missing; faults go to `problems`."""
    _read(root, "dataset_flickr30k.json", "Flickr30K", options, problems, data)


def read_coco(root: Path, options: SourceOptions, problems: Problems, data: SourceData) -> None:
    """Reads `dataset_coco.json`, with images in `train2014/` and `val2014/`. Errors as `read_flickr30k`."""
    _read(root, "dataset_coco.json", "COCO captions", options, problems, data)


def _read(root: Path, name: str, dataset: str, options: SourceOptions, problems: Problems, data: SourceData) -> None:
    path = next((root / folder / name for folder in _ANNOTATION_FOLDERS if (root / folder / name).is_file()), None)
    if path is None:
        raise wrong_layout(root, dataset, [joined(folder, name) for folder in _ANNOTATION_FOLDERS])
    rows = read_document(path, "images", problems)
    names = [str(row.values["filename"]) for row in rows[:50] if "filepath" not in row.values and "filename" in row.values]
    folder = first_holding(root, _FLICKR_FOLDERS, names)
    files, sentences = SeenIds(), SeenIds()
    for row in rows:
        image, split = row.text("filename"), row.one_of("split", list(_SPLITS))
        place = row.text("filepath", optional=True)
        captions = row.items("sentences")
        number = row.integer("imgid")
        if captions == []:
            row.fault("has no caption", "drop the image")
        if image is not None:
            row.where = f"{path}#{image}"
            files.add(image, row, "filename")
        if not row.good:
            continue
        target = _SPLITS[list(_SPLITS)[split]]
        if options.wants(target):
            _add(row, captions, target, joined(folder if place is None else place, image), number, sentences, data)


def _add(row: Row, captions: list, split: str, image: str, number: int, sentences: SeenIds, data: SourceData) -> None:
    for caption in captions:
        if not isinstance(caption, dict):
            return row.fault(f"`sentences` holds {kind_of(caption)}", "a caption is an object with `raw` and `sentid`")
        inner = Row(caption, row.where, row.problems)
        text, name = inner.text("raw"), inner.integer("sentid")
        if name is not None:
            sentences.add(name, inner, "sentid")
        words = split_words(text) if text is not None else []
        if text is not None and not words:
            inner.fault(f"caption {quoted(text)} has no word", "drop it")
        if inner.good:
            meta = {"imgid": number}
            record = Record(id=str(name), task="caption", images=[image], text=words, written=text, meta=meta)
            data.add(split, record, row.where)


FLICKR30K = Source(
    about="Flickr30K: photographs with five captions each",
    layout="dataset_flickr30k.json (Karpathy), flickr30k-images/",
    read=read_flickr30k,
    task="caption",
    toy=ToyLayout("layouts:write_flickr30k", {"train": 500, "val": 100, "test": 100}),
)
COCO = Source(
    about="COCO captions: photographs with five captions each",
    layout="dataset_coco.json (Karpathy), train2014/, val2014/",
    read=read_coco,
    task="caption",
    toy=ToyLayout("layouts:write_coco", {"train": 3000, "val": 500, "test": 500}),
)
