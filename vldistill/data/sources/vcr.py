"""VCR (Zellers et al., 2019): a question about people in a film still, four answers, and four rationales for the right answer.

A question makes two records: Q->A under its `annot_id` (choices are the answers), and QA->R under `<annot_id>:r` (choices are
the rationales; `given` is the right answer). The test split has no labels, so its QA->R is there for each of the four answers
(`<annot_id>:r0` to `:r3`), as the leaderboard asks. Tags stay lists of object indices. The objects' boxes and polygons come
from the image's metadata file.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

from vldistill.data.lowshot import vcr_question_type
from vldistill.data.records import CHOICES, Record, Word, read_json
from vldistill.data.sources.rows import Row, SeenIds, kind_of, quoted, read_rows
from vldistill.data.sources.table import Source, SourceData, SourceOptions, ToyLayout, wrong_layout
from vldistill.errors import LINE, InputError, Problems

MOST_PIXELS = 1e6  # along a side
_NUMBERS = {int, float}
IMAGES = "vcr1images"
_FILES = {split: f"{split}.jsonl" for split in ("train", "val", "test")}


def read(root: Path, options: SourceOptions, problems: Problems, data: SourceData) -> None:
    """Reads the splits that are there. Raises InputError where none is; faults go to `problems`."""
    files = {split: root / name for split, name in _FILES.items() if (root / name).exists()}
    if not files:
        raise wrong_layout(root, "VCR", [", ".join(_FILES.values())])
    images = _Images(root, data, problems)
    for split, path in files.items():
        if options.wants(split):
            _read_split(path, split, images, data, problems)


def _read_split(path: Path, split: str, images: _Images, data: SourceData, problems: Problems) -> None:
    seen = SeenIds()
    for row in read_rows(path, problems):
        name, image, metadata = row.name("annot_id"), row.text("img_fn"), row.text("metadata_fn")
        objects = row.texts("objects")
        question = _words(row, "question", objects)
        answers, rationales = _choices(row, "answer_choices", objects), _choices(row, "rationale_choices", objects)
        answer = None if split == "test" else _label(row, "answer_label")
        rationale = None if split == "test" else _label(row, "rationale_label")
        # One for each record: another question may be called as a rationale of this one.
        suffixes = [f":r{i}" for i in range(CHOICES)] if split == "test" else [":r"]
        if name is not None and name in seen.first:
            seen.add(name, row, "annot_id")
        elif name is not None:
            for suffix in ("", *suffixes):
                seen.add(name + suffix, row, "id" if suffix else "annot_id")
        if not row.good:
            continue
        images.check(image, metadata, objects, row)
        if not row.good:
            continue
        common = {
            "task": "vcr",
            "images": [f"{IMAGES}/{image}"],
            "text": question,
            "type": vcr_question_type(question),
            "objects": objects,
        }
        data.add(split, Record(id=name, choices=answers, label=answer, **common), row.where)
        for suffix, words in zip(suffixes, answers if answer is None else [answers[answer]], strict=True):
            data.add(split, Record(id=name + suffix, choices=rationales, label=rationale, given=words, **common), row.where)


def _words(row: Row, key: str, objects: list[str] | None) -> list[Word] | None:
    values = row.items(key)
    return None if values is None or objects is None else _check_words(row, key, values, len(objects))


def _choices(row: Row, key: str, objects: list[str] | None) -> list[list[Word]] | None:
    values = row.items(key)
    if values is None or objects is None:
        return None
    if len(values) != CHOICES:
        return row.fault(f"`{key}` has {len(values)} entries, VCR has {CHOICES}", "mend the line")
    for i, words in enumerate(values):
        if not isinstance(words, list):
            return row.fault(f"`{key}[{i}]` must be a list, found {kind_of(words)}", "put it in square brackets")
        if _check_words(row, f"{key}[{i}]", words, len(objects)) is None:
            return None
    return values


def _check_words(row: Row, key: str, words: list[Any], objects: int) -> list[Word] | None:
    """The words, or None after adding a problem: each is a text, or a tag of object indices."""
    if not words:
        return row.fault(f"`{key}` is empty", "give it words, or drop the line")
    texts = [word for word in words if type(word) is str]
    # All at once, since there are millions of words.
    if not row.plain and row.writable(" ".join(texts), key) is None:
        return None
    if len(texts) == len(words):
        return words
    for word in words:
        if type(word) is str:
            continue
        if type(word) is not list:
            return row.fault(f"`{key}` holds {kind_of(word)}", "a word is a text or a list of object indices")
        if not word:
            return row.fault(f"`{key}` has an empty tag", "a tag names one object or more")
        for index in word:
            if type(index) is not int or not 0 <= index < objects:
                return row.fault(
                    f"`{key}` has a tag of object {quoted(index)}, there are {objects}", f"an index is 0 to {objects - 1}"
                )
    return words


def _label(row: Row, key: str) -> int | None:
    value = row.integer(key)
    if value is not None and value >= CHOICES:
        return row.fault(f"`{key}` is {value}", f"there are {CHOICES} choices, counted from 0")
    return value


class _Images:
    """The metadata of each image, checked and passed on once."""

    def __init__(self, root: Path, data: SourceData, problems: Problems):
        self._root, self._data, self._problems = root, data, problems
        self._objects: dict[str, int | None] = {}

    def check(self, image: str, metadata: str, objects: list[str], row: Row) -> None:
        """Adds a problem where the metadata is missing or faulty, or its objects are not those of the row."""
        if image not in self._objects:
            self._objects[image] = None
            path = f"{self._root}/{IMAGES}/{metadata}"
            if metadata.startswith("/") or ".." in metadata.split("/"):
                row.fault(f"`metadata_fn` {quoted(metadata)} leaves the raw folder", "give it relative to vcr1images")
                return
            region = _read_metadata(path, row.where, self._problems)
            if region is None:
                row.good = False
                return
            self._objects[image] = hash(tuple(region["names"]))
            self._data.add_region({"image": f"{IMAGES}/{image}", **region})
        known = self._objects[image]
        if known is None:
            row.good = False  # told at the image's first row
        elif known != hash(tuple(objects)):
            row.fault("`objects` are not the names in the image's metadata", f"compare {metadata}")


def _read_metadata(path: str, where: str, problems: Problems) -> dict[str, Any] | None:
    """names [N], boxes [N][x1, y1, x2, y2, confidence] in pixels, polygons [N][..][..][x, y], width and height."""
    try:
        value = read_json(Path(path))
    except InputError as error:
        problems.add(f"metadata {error.where}: {error.message}", where=where, hint=error.hint or "put the file there", part=LINE)
        return None
    fault = _metadata_fault(value)
    if fault:
        problems.add(fault, where=path, hint="fetch it again", part=LINE)
        return None
    return {
        "width": value["width"],
        "height": value["height"],
        "names": value["names"],
        "boxes": value["boxes"],
        "polygons": value["segms"],
    }


def _metadata_fault(value: Any) -> str | None:
    if not isinstance(value, dict):
        return f"a JSON object was expected, found {kind_of(value)}"
    for key in ("width", "height"):
        if not _numbers([value.get(key)]) or value[key] <= 0:
            return f"`{key}` is not a positive number"
    for key in ("names", "boxes", "segms"):
        if not isinstance(value.get(key), list):
            return f"has no list of `{key}`"
    names, boxes, segments = value["names"], value["boxes"], value["segms"]
    if not len(names) == len(boxes) == len(segments):
        return f"has {len(names)} names, {len(boxes)} boxes and {len(segments)} polygon lists"
    for i, (name, box, polygons) in enumerate(zip(names, boxes, segments, strict=True)):
        if not isinstance(name, str) or not name:
            return f"`names[{i}]` is not a text"
        if not isinstance(box, list) or len(box) != 5 or not _numbers(box):
            return f"`boxes[{i}]` is not [x1, y1, x2, y2, confidence]"
        if box[2] < box[0] or box[3] < box[1]:
            return f"`boxes[{i}]` ends before it begins"
        if not isinstance(polygons, list) or not all(map(_is_polygon, polygons)):
            return f"`segms[{i}]` is not a list of polygons of [x, y]"
    return None


def _numbers(values: list[Any]) -> bool:
    """Whether all are numbers that can be a place in an image; by the whole list, since polygons have hundreds of points."""
    # An integer of hundreds of digits is no float, and 1e999 is infinite.
    return _NUMBERS.issuperset(map(type, values)) and (not values or (min(values) > -MOST_PIXELS and max(values) < MOST_PIXELS))


def _is_polygon(value: Any) -> bool:
    return (
        isinstance(value, list)
        and all(type(point) is list and len(point) == 2 for point in value)
        and _numbers(list(chain.from_iterable(value)))
    )


VCR = Source(
    about="VCR: questions about film stills, answers, rationales",
    layout="train.jsonl, val.jsonl, test.jsonl, vcr1images/ with a .json beside each image",
    read=read,
    task="vcr",
    toy=ToyLayout("vcr:write", {"train": 1500, "val": 300, "test": 300}),
    variants=True,
    worded=True,
)
