"""A data set's own objects: masks by hand, mirror images, and reading them where they stand."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from raw_worlds import write_lines

from vldistill.data.artifact import open_data
from vldistill.data.regions.objects import CLASSES, MASK, UNKNOWN, ObjectIndex, object_mask, objects_of
from vldistill.errors import InputError

BOX = [0, 0, 13, 13]  # one pixel a cell


def cells(*ranges: tuple[int, int, int, int]) -> np.ndarray:
    """True in x1 to x2 and y1 to y2, both ends included."""
    mask = np.zeros((MASK, MASK), dtype=bool)
    for x1, x2, y1, y2 in ranges:
        mask[y1 : y2 + 1, x1 : x2 + 1] = True
    return mask


@pytest.mark.parametrize(
    "polygons, expected",
    [
        ([[[2, 3], [5, 3], [5, 7], [2, 7]]], cells((2, 5, 3, 7))),
        ([[[2, 7], [5, 7], [5, 3], [2, 3]]], cells((2, 5, 3, 7))),  # the other way round
        ([[[0, 0], [1, 0], [1, 1], [0, 1]], [[12, 12], [13, 12], [13, 13], [12, 13]]], cells((0, 1, 0, 1), (12, 13, 12, 13))),
        ([[[0, 0], [3, 0], [0, 3]]], cells((0, 3, 0, 0), (0, 2, 1, 1), (0, 1, 2, 2), (0, 0, 3, 3))),
        ([[[1, 1], [9, 1], [9, 9], [6, 9], [6, 4], [4, 4], [4, 9], [1, 9]]], cells((1, 9, 1, 4), (1, 4, 4, 9), (6, 9, 4, 9))),
        ([[[-50, -50], [50, -50], [50, 50], [-50, 50]]], cells((0, 13, 0, 13))),  # none may leave the box
        ([[]], cells()),
        ([], cells()),
        ([[[4, 5]]], cells((4, 4, 5, 5))),
    ],
)
def test_masks_by_hand(polygons, expected):
    np.testing.assert_array_equal(object_mask(polygons, BOX), expected)


def test_a_mask_is_drawn_inside_its_box():
    """The left half of a box of 28 pixels from (10, 20): 2 pixels a cell."""
    half = [[[10, 20], [23, 20], [23, 47], [10, 47]]]
    np.testing.assert_array_equal(object_mask(half, [10, 20, 37, 47]), cells((0, 6, 0, 13)))


ROW = {
    "image": "vcr1images/m/1.jpg",
    "width": 20,
    "height": 10,
    "names": ["person", "gizmo"],
    "boxes": [[0, 0, 13, 9, 0.9], [-5, 2, 30, 4, 0.5]],
    "polygons": [[[[0, 0], [3, 0], [3, 9], [0, 9]]], []],
}


def test_objects_of_a_line():
    found = objects_of(ROW)
    assert found.boxes.tolist() == [pytest.approx([0, 0, 0.65, 0.9]), pytest.approx([0, 0.2, 1, 0.4])] and len(found) == 2
    assert found.classes.tolist() == [1, UNKNOWN] and CLASSES[0] == "person" and len(CLASSES) == len(set(CLASSES)) == 80
    assert found.masks[0].any() and not found.masks[1].any()


def test_a_mirrored_image_has_mirrored_objects():
    found, again = objects_of(ROW).flipped(), objects_of(ROW).flipped().flipped()
    assert found.boxes[0].tolist() == pytest.approx([0.35, 0, 1, 0.9])
    np.testing.assert_array_equal(found.masks[0], objects_of(ROW).masks[0][:, ::-1])
    np.testing.assert_allclose(again.boxes, objects_of(ROW).boxes, atol=1e-7)
    np.testing.assert_array_equal(again.masks, objects_of(ROW).masks)


def test_an_image_without_objects():
    found = objects_of({**ROW, "names": [], "boxes": [], "polygons": []})
    assert (found.boxes.shape, found.masks.shape, found.classes.shape) == ((0, 4), (0, MASK, MASK), (0,))


def test_each_image_is_read_where_it_stands(tmp_path):
    names = ['a "quoted" \\ é.jpg', "b.jpg", "c.jpg"]
    rows = [
        {**ROW, "image": name, **{part: ROW[part][:place] for part in ("boxes", "names", "polygons")}}
        for place, name in enumerate(names)
    ]
    write_lines(tmp_path / "regions.jsonl", [json.dumps(row, ensure_ascii=False) for row in rows])
    index = pickle.loads(pickle.dumps(ObjectIndex(tmp_path / "regions.jsonl")))
    assert list(index) == names and [index.count(name) for name in names] == [len(index[name]) for name in names] == [0, 1, 2]
    with pytest.raises(InputError, match=r"has no objects of d\.jpg"):
        index["d.jpg"]


def test_an_artifact_has_those_of_its_images_or_none(world):
    data = open_data(world / "artifacts/data/toy-vcr")
    images = {record.images[0]: record.objects for record in data.records("train")}
    assert all(len(data.objects[image]) == len(objects) for image, objects in images.items())
    assert (data.objects[next(iter(images))].classes > 0).all()
    assert open_data(world / "artifacts/data/toy-vqa").objects is None
