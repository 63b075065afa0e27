"""The toy world's caption data: true captions, regions around their objects, addresses without a picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vldistill.data.prepare import prepare
from vldistill.data.toy.layouts import write_toy
from vldistill.data.toy.world import COLOURS, SHAPES

PALETTE = {"red": (222, 48, 48), "green": (52, 178, 76), "blue": (66, 104, 240), "yellow": (240, 214, 52)}


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("toy")
    write_toy(root, scale=0.2, datasets=("flickr30k", "gcc", "sbu", "visual_genome"))
    return root


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_flickr30k_has_five_captions_a_picture(toy):
    data = json.loads((toy / "flickr30k" / "dataset_flickr30k.json").read_text())
    assert data["dataset"] == "flickr30k" and {image["split"] for image in data["images"]} == {"train", "val", "test"}
    for image in data["images"]:
        assert len(image["sentences"]) == 5 and "filepath" not in image and "cocoid" not in image
        assert (toy / "flickr30k" / "flickr30k-images" / image["filename"]).is_file()


@pytest.mark.parametrize(
    "split, name, folder, rows",
    [
        ("train", "Train_GCC-training.tsv", "training", 100),
        ("val", "Validation_GCC-1.1.0-Validation.tsv", "validation", 10),
    ],
)
def test_gcc_is_a_list_of_addresses_some_of_which_are_dead(toy, split, name, folder, rows):
    table = [line.split("\t") for line in (toy / "gcc" / name).read_text().splitlines()]
    assert len(table) == rows and all(len(row) == 2 and row[1].startswith("http://") for row in table)
    assert len({row[1] for row in table}) == rows
    found = sorted((toy / "gcc" / folder / "00000").iterdir())
    assert len(found) == rows - max(1, rows // 25) and all(int(path.stem) < rows for path in found)


def test_sbu_is_two_files_aligned_by_line(toy):
    captions, addresses = (
        (toy / "sbu" / f"SBU_captioned_photo_dataset_{part}.txt").read_text().splitlines() for part in ("captions", "urls")
    )
    assert len(captions) == len(addresses) == 60 and len(list((toy / "sbu" / "images").rglob("*.jpg"))) == 58


def test_a_region_is_around_what_its_phrase_says(toy):
    root = toy / "visual_genome"
    images = json.loads((root / "region_descriptions.json").read_text())
    regions = [region for image in images for region in image["regions"]]
    assert [region["region_id"] for region in regions] == list(range(1, len(regions) + 1))
    assert {path.parent.name for path in root.rglob("*.jpg")} == {"VG_100K", "VG_100K_2"}
    for image in images:
        picture = pixels(next(root.rglob(f"{image['id']}.jpg")))
        rest = picture.max(axis=-1) > 150
        for region in image["regions"]:
            words = region["phrase"].split()
            (colour,), (shape,) = set(words) & set(COLOURS), set(words) & set(SHAPES)
            left, top = region["x"], region["y"]
            right, bottom = left + region["width"], top + region["height"]
            rest[top:bottom, left:right] = False
            seen = picture[(top + bottom) // 2, (left + right) // 2]
            assert min(PALETTE, key=lambda name: np.abs(seen - PALETTE[name]).sum()) == colour
            # Of the box, faint pixels at the edge included, each shape lights a share of its own.
            light = (picture[top:bottom, left:right].max(axis=-1) > 100).mean()
            assert shape == ("triangle" if light < 0.53 else "square" if light < 0.66 else "circle")
        assert not rest.any()


@pytest.mark.parametrize(
    "name, records",
    [
        ("flickr30k", {"train": 500, "val": 100, "test": 100}),
        ("gcc", {"train": 96, "val": 9}),
        ("sbu", {"train": 58}),
        ("visual_genome", None),
    ],
)
def test_the_loaders_of_the_real_data_read_it(toy, tmp_path, name, records):
    manifest = prepare(name, toy / name, tmp_path / "out")
    assert manifest["task"] == "caption"
    if records is None:
        document = json.loads((toy / name / "region_descriptions.json").read_text())
        records = {"train": sum(len(image["regions"]) for image in document)}
    assert {split: part["records"] for split, part in manifest["counts"].items()} == records
