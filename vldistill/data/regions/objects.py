"""A data set's own objects, as `prepare vcr` stores them: boxes, masks inside their boxes, classes (COCO's, as VCR spells them);
read image by image."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vldistill.errors import InputError

CLASSES = tuple(
    """
    person bicycle car motorcycle airplane bus train truck boat trafficlight firehydrant stopsign parkingmeter bench bird cat
    dog horse sheep cow elephant bear zebra giraffe backpack umbrella handbag tie suitcase frisbee skis snowboard sportsball
    kite baseballbat baseballglove skateboard surfboard tennisracket bottle wineglass cup fork knife spoon bowl banana apple
    sandwich orange broccoli carrot hotdog pizza donut cake chair couch pottedplant bed diningtable toilet tv laptop mouse
    remote keyboard cellphone microwave oven toaster sink refrigerator book clock vase scissors teddybear hairdrier toothbrush
    """.split()
)
"""An object's class is its place here, counted from 1."""
BACKGROUND, UNKNOWN = 0, -1


MASK = 14
"""Cells of a mask along a side."""
_PLACES = {name: place for place, name in enumerate(CLASSES, start=1)}
_IMAGE = re.compile(rb'\{"image": ("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True)
class Objects:
    """boxes: [N, 4] float32, x1, y1, x2, y2 as shares of the image's sides. masks: [N, MASK, MASK] bool, inside the boxes.
    classes: [N] int64, 1 to 80 or UNKNOWN."""

    boxes: np.ndarray
    masks: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)

    def flipped(self) -> Objects:
        """Of the mirrored image."""
        left, top, right, bottom = self.boxes.T
        return replace(self, boxes=np.stack([1 - right, top, 1 - left, bottom], axis=1), masks=self.masks[:, :, ::-1])


def objects_of(row: dict[str, Any]) -> Objects:
    """From a line of `regions.jsonl`."""
    pixels = np.array(row["boxes"], dtype=np.float32).reshape(-1, 5)[:, :4]
    sides = np.array([row["width"], row["height"]] * 2, dtype=np.float32)
    masks = [object_mask(polygons, box) for polygons, box in zip(row["polygons"], pixels.tolist(), strict=True)]
    classes = [_PLACES.get(name, UNKNOWN) for name in row["names"]]
    return Objects((pixels / sides).clip(0, 1), np.array(masks, dtype=bool).reshape(-1, MASK, MASK), np.array(classes, np.int64))


def object_mask(polygons: list[list[list[float]]], box: list[float]) -> np.ndarray:
    """[MASK, MASK] bool: the cells of a box that its polygons cover, their edges included. A polygon's corners are moved to the
    box's cells as VL-BERT does it, and none may leave it."""
    mask = np.zeros((MASK, MASK), dtype=bool)
    for polygon in polygons:
        if polygon:
            points = (np.array(polygon, dtype=np.float64) - box[:2]) * MASK / (np.array(box[2:]) - box[:2] + 1)
            mask |= _inside(points.clip(0, MASK - 1))
    return mask


def _inside(corners: np.ndarray) -> np.ndarray:
    """Which whole numbers (row, column) lie inside a polygon of [P, 2] corners (x, y), or on its edge: even-odd rule."""
    rows, columns = (axis.reshape(-1, 1) for axis in np.mgrid[:MASK, :MASK].astype(np.float64))
    (x1, y1), (x2, y2) = corners.T, np.roll(corners, -1, axis=0).T
    side = (x2 - x1) * (rows - y1) - (y2 - y1) * (columns - x1)
    # A ray to the right crosses the edge.
    crossed = ((y1 > rows) != (y2 > rows)) & ((side > 0) != (y2 < y1))
    between = (
        (np.minimum(x1, x2) <= columns)
        & (columns <= np.maximum(x1, x2))
        & (np.minimum(y1, y2) <= rows)
        & (rows <= np.maximum(y1, y2))
    )
    touched = (np.abs(side) < 1e-9) & between
    return ((crossed.sum(axis=1) % 2 == 1) | touched.any(axis=1)).reshape(MASK, MASK)


class ObjectIndex:
    """The objects of each image of a `regions.jsonl`, by its path, read where they stand: polygons of all images are too many to
    be held."""

    def __init__(self, path: Path):
        self.path, self._places = path, {}
        place = 0
        with path.open("rb") as file:
            for line in file:
                self._places[json.loads(_IMAGE.match(line)[1])] = place
                place += len(line)

    def __iter__(self):
        return iter(self._places)

    def __getitem__(self, image: str) -> Objects:
        """Raises InputError where an image has none."""
        return objects_of(self._row(image))

    def count(self, image: str) -> int:
        """How many objects an image has."""
        return len(self._row(image)["boxes"])

    def _row(self, image: str) -> dict[str, Any]:
        if image not in self._places:
            raise InputError(f"has no objects of {image}", where=str(self.path), hint="prepare the data again")
        with self.path.open("rb") as file:
            file.seek(self._places[image])
            return json.loads(file.readline())
