"""Which images a size rule sees badly: told by the very sizes that a student is given, and counted where a user looks."""

from __future__ import annotations

import importlib
import json
import pkgutil

import numpy as np
import pytest
from PIL import Image

import vldistill
from vldistill.data.images import ImageFolder
from vldistill.data.regions.network import ImageNetwork
from vldistill.data.regions.objects import Objects
from vldistill.data.transforms import DISTORTED, ImageTransform, Seen, faults_of, size_faults
from vldistill.data.visual import LetterboxInput, NoImages, PatchInput, PixelInput, RegionInput, VisualInput, fitted_size
from vldistill.evaluation.indexed import StoredInput

SHAPES = [(400, 100), (100, 400), (64, 64), (640, 480), (33, 31), (1000, 12)]


class _Object:
    def __getitem__(self, path: str) -> Objects:
        return Objects(np.zeros((1, 4), np.float32), np.zeros((1, 14, 14), bool), np.zeros(1, np.int64))


def _patches(**more):
    return lambda images: PatchInput(images, ImageTransform(64, 16, **more))


INPUTS = {
    "patches": _patches(),
    "fit": _patches(square="fit"),
    "crop": _patches(square="crop"),
    "crop within": _patches(square="crop", crop_ratio=0.8),
    "canvas": lambda images: LetterboxInput(images, 64, 96),
    "pixels": lambda images: PixelInput(images, _Object(), ImageNetwork(short_side=48, long_side=96), most=4),
}


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("size", SHAPES)
def test_the_size_told_is_the_size_seen(tmp_path, name, size):
    Image.new("RGB", size, "white").save(tmp_path / "a.png")
    source = INPUTS[name](ImageFolder(tmp_path))
    told, item = source.seen(*size), source.read("a.png", None)
    if name == "canvas":  # white on black
        lit = item.max(axis=-1) > 0
        assert (told.width, told.height) == (int(lit.any(axis=0).sum()), int(lit.any(axis=1).sum())) == fitted_size(*size, 64, 96)
    elif name == "pixels":
        assert item[0].shape[:2] == (told.height, told.width)
    else:
        rows, columns = item[1]
        assert (told.width, told.height, told.patch) == (columns * 16, rows * 16, 16)


def test_every_way_of_seeing_pixels_has_a_rule(tmp_path):
    """Of all classes of the package that read an image and stack a batch."""
    ways = set()
    for module in pkgutil.walk_packages(vldistill.__path__, "vldistill."):
        if module.name.startswith(("vldistill.data.", "vldistill.evaluation.")):
            found = vars(importlib.import_module(module.name)).values()
            ways |= {kind for kind in found if isinstance(kind, type) and {"read", "stack"} <= vars(kind).keys()}
    ways -= {VisualInput}
    assert {type(make(ImageFolder(tmp_path))) for make in INPUTS.values()} == {way for way in ways if way.seen is not None}
    assert {NoImages, RegionInput, StoredInput} == {way for way in ways if way.seen is None}


@pytest.mark.parametrize(
    "size, seen, faults",
    [
        ((400, 100), Seen(96, 16, 16), ["distorted", "shrunk below 2 patches a side"]),
        ((640, 480), Seen(512, 384, 32), []),
        ((400, 100), Seen(64, 64, 16, 0.25), ["cut to less than 50% of their pixels"]),
        ((100, 100), Seen(100 * 5, 400), []),  # 1.25 is not over it
        ((100, 100), Seen(126, 100), ["distorted"]),
    ],
)
def test_faults_by_hand(size, seen, faults):
    assert DISTORTED == 1.25 and faults_of(*size, seen) == faults


def test_counts_by_hand():
    found = size_faults([("a.jpg", 400, 100), ("b.jpg", 64, 64), ("c.jpg", 400, 100)], ImageTransform(64, 16).seen)
    assert (found.total, found.faulty, found.counts) == (3, 2, {"distorted": 2, "shrunk below 2 patches a side": 2})
    assert str(found) == (
        "2 of 3 images do not fit the size rule: 2 distorted (a.jpg, 400 x 100 becomes 96 x 16); "
        "2 shrunk below 2 patches a side (a.jpg, 400 x 100 becomes 96 x 16)"
    )
    assert str(size_faults([("b.jpg", 64, 64)], ImageTransform(64, 16).seen)) == ""


def test_prepare_and_a_training_and_an_index_tell_of_them(well, few, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = tmp_path / "raw"
    raw.mkdir()
    for name, size in (("long.png", (400, 30)), ("good.png", (64, 64))):
        Image.new("RGB", size, "red").save(raw / name)
    rows = [
        {"image": name, "text": f"is it {word}?", "label": label}
        for name in ("long.png", "good.png")
        for word, label in (("red", "yes"), ("blue", "no"))
    ] * 3
    for split in ("train", "val"):
        (raw / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for more in (["--dry-run"], []):
        told = well("prepare", "jsonl", "--raw", raw, "--out", "data", *more).flat
        assert "1 of 2 images do not fit the size rule" in told and "long.png, 400 x 30 becomes 608 x 32" in told
    sizes = [
        f"student.sizes.{size}" for size in ("width=16", "feedforward=16", "layers=1", "heads=2", "image_size=48", "patch=12")
    ]
    fresh = ["data.path=data", "student.init=null", "image.size=48", *few, *sizes]
    words = ["--recipe", "quickstart_teacher", *fresh, "--name", "x"]
    told = well("finetune", *words, "--dry-run").flat
    assert "WARNING: 1 of 2 images do not fit the size rule" in told and "400 x 30 becomes 72 x 12" in told
    well("finetune", *words)
    log = (tmp_path / "runs/quickstart_teacher/x/seed0/log.txt").read_text()
    assert "image sizes: WARNING: 1 of 2 images do not fit the size rule" in log
    well("finetune", "--recipe", "quickstart_dide", *fresh, "--name", "y")
    told = well("index", "build", "runs/quickstart_dide/y/seed0", raw, "--dry-run").flat
    assert "WARNING: 1 of 2 images do not fit the size rule" in told
