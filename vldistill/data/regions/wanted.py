"""Which boxes of which images of a data artifact are to have features: annotated ones, or the cells of a grid."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from vldistill.data.artifact import DataArtifact
from vldistill.data.records import read_jsonl
from vldistill.data.regions.extract import Boxes, grid_boxes
from vldistill.data.regions.keys import image_key
from vldistill.data.writing import IMAGES_FILE, REGIONS_FILE
from vldistill.errors import IMAGE, InputError, Problems

GRID = 6
_MEND = "mend it in the raw data and prepare it again, or pass --grid"


def boxes_of(artifact: DataArtifact, grid: int | None, limit: int | None) -> tuple[Callable[[Problems], list[Boxes]], str]:
    """A function that reads the boxes of the first `limit` images, and where they are from: the artifact's own (VCR's), or a grid
    of G x G cells where one is asked for or there are none. It leaves out images that would have the key of another in a store,
    or whose boxes are not of them, and adds these faults to what it is given.

    Raises InputError where the artifact has no list of images, or it or its boxes were edited.
    """
    files = artifact.manifest["files"]
    annotated = grid is None and REGIONS_FILE in files
    if not annotated and IMAGES_FILE not in files:
        raise InputError("has no list of images", where=str(artifact.folder), hint="prepare it without --images none")
    for name in {REGIONS_FILE, IMAGES_FILE} & files.keys():
        artifact.verified(name)
    side = grid or GRID

    def read(problems: Problems) -> list[Boxes]:
        seen, boxes = {}, []
        for one in islice(_annotated(artifact, problems) if annotated else _cells(artifact, side), limit):
            first = seen.setdefault(image_key(one.path), one.path)
            if first != one.path:
                problems.add(
                    f"has the same name as {first}, and regions are found by it",
                    where=one.path,
                    hint="rename one of them in the raw data and prepare it again",
                    part=IMAGE,
                )
            else:
                boxes.append(one)
        return boxes

    return read, "annotated" if annotated else f"grid {side}"


def _cells(artifact: DataArtifact, side: int) -> Iterator[Boxes]:
    for _, row in _rows(artifact, IMAGES_FILE):
        yield Boxes(row["path"], grid_boxes(row["width"], row["height"], side), None)


def _annotated(artifact: DataArtifact, problems: Problems) -> Iterator[Boxes]:
    sizes = {}
    if IMAGES_FILE in artifact.manifest["files"]:
        sizes = {row["path"]: (row["width"], row["height"]) for _, row in _rows(artifact, IMAGES_FILE)}
    for where, row in _rows(artifact, REGIONS_FILE):
        rows, size = np.array(row["boxes"], dtype=np.float32).reshape(-1, 5), (row["width"], row["height"])
        boxes = np.minimum(rows[:, :4].clip(0), np.array(size * 2, dtype=np.float32))
        name, real = row["image"], sizes.get(row["image"], size)
        if real != size:
            problems.add(
                f"{name} is {real[0]} x {real[1]}, its metadata says {size[0]:g} x {size[1]:g}",
                where=where,
                hint=_MEND,
                part=IMAGE,
            )
        elif (flat := (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)).any():
            problems.add(f"{name}: box {int(flat.argmax())} has no area inside the image", where=where, hint=_MEND, part=IMAGE)
        elif ((rows[:, 4] < 0) | (rows[:, 4] > 1)).any():
            problems.add(f"{name}: a confidence is not in 0 to 1", where=where, hint=_MEND, part=IMAGE)
        elif len(rows):
            yield Boxes(name, boxes, rows[:, 4])


def _rows(artifact: DataArtifact, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    # `prepare` wrote these lines, and they are as it left them, so the plain reader is strict enough.
    return read_jsonl(artifact.folder / name, Problems(), parse=json.loads)
