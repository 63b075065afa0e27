"""Visual Genome's region descriptions (Krishna et al., 2017) as captions: each region's phrase, with the whole image.

5.4 million phrases of 108,077 images in one list of 700 MB, read image by image. A region's box stays in `meta`. Phrases that
are blank, and regions of images that are not there, are left out and counted.
"""

from __future__ import annotations

import math
from pathlib import Path

from vldistill.data.records import Record
from vldistill.data.sources.captions import ImageFolders
from vldistill.data.sources.rows import Row, gives_up, iterate_array, kind_of
from vldistill.data.sources.table import Source, SourceData, SourceOptions, ToyLayout, joined, wrong_layout
from vldistill.data.wording import split_words
from vldistill.errors import LINE, Problems

_FILE = "region_descriptions.json"
_ANNOTATION_FOLDERS = ("", "annotations")
# The two archives hold `VG_100K` and `VG_100K_2`; ViLT has them in `images`.
_IMAGE_FOLDERS = tuple(joined(folder, name) for folder in ("", "images", "images2") for name in ("VG_100K", "VG_100K_2"))
# A region's keys, and what the first release calls them.
_OLDER = {"region_id": "id", "image_id": "image"}
_BOX = ("x", "y", "width", "height")


def read(root: Path, options: SourceOptions, problems: Problems, data: SourceData) -> None:
    """Reads `region_descriptions.json` as train. Raises InputError where it is missing; faults go to `problems`."""
    path = next((root / folder / _FILE for folder in _ANNOTATION_FOLDERS if (root / folder / _FILE).is_file()), None)
    if path is None:
        raise wrong_layout(root, "Visual Genome", [joined(folder, _FILE) for folder in _ANNOTATION_FOLDERS])
    if not options.wants("train"):
        return
    regions = _Regions(path, ImageFolders(root, problems), data, problems)
    for where, item in iterate_array(path, problems):
        if isinstance(item, dict):
            regions.add_image(Row(item, where, problems))
        else:
            problems.add(f"a JSON object was expected, found {kind_of(item)}", where=where, hint="mend the entry", part=LINE)
        if gives_up(path, problems, regions.faults):
            break
    regions.finish()


class _Regions:
    def __init__(self, path: Path, images: ImageFolders, data: SourceData, problems: Problems):
        self._path, self._images, self._data, self._problems = path, images, data, problems
        self._seen, self._before = _Numbers(), len(problems.items)
        self._all = self._added = self._without_image = self._blank = 0

    @property
    def faults(self) -> int:
        return len(self._problems.items) - self._before

    def add_image(self, row: Row) -> None:
        number, regions = row.integer("id"), row.items("regions")
        if number is None or regions is None:
            return
        names = (f"{folder}/{number}.jpg" for folder in _IMAGE_FOLDERS)
        image = next((name for name in names if name in self._images), None)
        self._all += 1
        self._without_image += image is None
        for i, region in enumerate(regions):
            if isinstance(region, dict):
                self._add(Row(region, f"{row.where}:regions[{i}]", self._problems), number, image)
            else:
                row.fault(f"`regions[{i}]` must be an object, found {kind_of(region)}", "mend the entry")

    def _add(self, row: Row, image_id: int, image: str | None) -> None:
        for key, older in _OLDER.items():
            if key not in row.values and older in row.values:
                row.values[key] = row.values[older]
        number = row.integer("region_id")
        if number is not None:
            row.where = f"{self._path}#{number}"
            if not self._seen.add(number):
                row.fault(f"region_id {number} appears twice", "rename or drop one")
        owner, phrase = row.integer("image_id"), row.text("phrase", blank=True)
        if owner is not None and owner != image_id:
            row.fault(f"image_id is {owner}, the regions are those of image {image_id}", "mend one of them")
        box = [row.values.get(key) for key in _BOX]
        for key, value in zip(_BOX, box, strict=True):
            # Some boxes begin left of the image or above it.
            if key not in row.values:
                row.fault(f"`{key}` is missing", "a region has x, y, width and height")
            elif type(value) is not int and not (type(value) is float and math.isfinite(value)):
                row.fault(f"`{key}` must be a finite number, found {kind_of(value)}", "mend the region")
        if not row.good:
            return
        words = split_words(phrase)
        if not words:
            self._blank += 1
        elif image is not None:
            self._added += 1
            meta = {"box": box, "image_id": image_id}
            record = Record(id=str(number), task="caption", images=[image], text=words, written=phrase, meta=meta)
            self._data.add("train", record, row.where)

    def finish(self) -> None:
        if not self._added and not self.faults:
            if self._without_image:
                message, hint = f"none of its {self._all:,} images is there", "put them into VG_100K and VG_100K_2"
            else:
                message, hint = "holds no phrase", "is it the right file? fetch it again"
            self._problems.add(message, where=f"{self._path}:1", hint=hint)
        if self._without_image:
            self._data.notes.append(f"train: {self._without_image:,} of {self._all:,} images are not there; left out")
        if self._blank:
            self._data.notes.append(f"train: {self._blank:,} regions with a blank phrase left out")


class _Numbers:
    """A set of whole numbers that takes a bit for each where they lie close together, as ids do."""

    _BITS = 256

    def __init__(self) -> None:
        self._blocks: dict[int, int] = {}

    def add(self, number: int) -> bool:
        """False where the number is there already."""
        block, bit = divmod(number, self._BITS)
        known = self._blocks.get(block, 0)
        self._blocks[block] = known | 1 << bit
        return not known >> bit & 1


VISUAL_GENOME = Source(
    about="Visual Genome: descriptions of parts of images, as captions",
    layout="region_descriptions.json, VG_100K/, VG_100K_2/",
    read=read,
    task="caption",
    toy=ToyLayout("layouts:write_visual_genome", {"train": 200}),
)
