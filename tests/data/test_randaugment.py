"""RandAugment of ViLT's, METER's and DiDE's code: each operation beside one computed in another way, and how they are drawn."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from vldistill.data import randaugment
from vldistill.data.randaugment import OPERATIONS, value_of
from vldistill.data.transforms import ImageTransform

WIDTH, HEIGHT = 60, 44


@pytest.fixture(scope="module")
def image() -> Image.Image:
    """Smooth, so that a place that is half a pixel off changes little, with all channels apart and neither black nor white."""
    across, down = np.meshgrid(np.linspace(0, 3, WIDTH), np.linspace(0, 2, HEIGHT))
    waves = [np.sin(across * 2 + down), np.cos(down * 3 - across), np.sin(across * down)]
    return Image.fromarray((120 + 90 * np.stack(waves, axis=-1)).astype(np.uint8))


def moved(pixels: np.ndarray, name: str, sign: int) -> np.ndarray:
    """Each pixel from the nearest one to where it comes from, by the middles of pixels; black from outside."""
    across, down = np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5)
    if name == "rotate":  # 9 degrees against the clock, around the middle
        angle, x, y = np.deg2rad(9 * sign), across - WIDTH / 2, down - HEIGHT / 2
        across, down = np.cos(angle) * x - np.sin(angle) * y + WIDTH / 2, np.sin(angle) * x + np.cos(angle) * y + HEIGHT / 2
    elif name == "shear_x":
        across = across + 0.09 * sign * down
    elif name == "shear_y":
        down = down + 0.09 * sign * across
    else:
        across, down = across + 30 * sign * (name == "translate_x"), down + 30 * sign * (name == "translate_y")
    column, row = np.floor(across).astype(int), np.floor(down).astype(int)
    inside = (column >= 0) & (column < WIDTH) & (row >= 0) & (row < HEIGHT)
    return np.where(inside[..., None], pixels[row.clip(0, HEIGHT - 1), column.clip(0, WIDTH - 1)], 0)


def toned(pixels: np.ndarray, name: str) -> np.ndarray:
    values = pixels.astype(float)
    grey = values @ np.array([0.299, 0.587, 0.114])
    if name == "posterize":
        return pixels & 0b10000000
    if name == "solarize":
        return np.where(pixels < 76.8, pixels, 255 - pixels)
    if name == "solarize_add":
        more = np.minimum(values + 33, 255)
        return np.where(more < 128, more, 255 - more)
    if name in ("autocontrast", "equalize"):
        made = getattr(functional, name)(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
        return made.permute(1, 2, 0).numpy()
    smooth = values.copy()  # the middle of 3 x 3 counts 5 of 13; the outermost pixels stay
    near = sum(values[1 + y : HEIGHT - 1 + y, 1 + x : WIDTH - 1 + x] for y in (-1, 0, 1) for x in (-1, 0, 1))
    smooth[1:-1, 1:-1] = (near + 4 * values[1:-1, 1:-1]) / 13
    other = {"brightness": np.zeros(1), "color": grey[..., None], "contrast": grey.mean(), "sharpness": smooth}[name]
    return 0.64 * values + 0.36 * other


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation(image, name):
    operation, *_, signed = OPERATIONS[name]
    pixels = np.asarray(image)
    for sign in (1, -1) if signed else (1,):
        got = np.asarray(operation(image, sign * value_of(name))).astype(float)
        expected = moved(pixels, name, sign) if signed else toned(pixels, name)
        assert got.shape == expected.shape and np.abs(expected - pixels).mean() > (0.02 if name == "sharpness" else 1)
        # A place between two pixels may be rounded to either.
        assert (np.abs(got - expected) <= 1.5).mean() > (0.97 if name in ("rotate", "shear_x", "shear_y") else 0.999)


def test_draws_are_even_with_replacement_and_of_either_sign(monkeypatch, image):
    drawn = []

    def noting(name: str):
        return lambda image, value: (drawn.append((name, value)), image)[1]

    monkeypatch.setattr(randaugment, "OPERATIONS", {name: (noting(name), *rest) for name, (_, *rest) in OPERATIONS.items()})
    for seed in range(7000):
        randaugment.randaugment(image, seed)
    names = [name for name, _ in drawn]
    assert len(drawn) == 14_000 and all(900 < count < 1100 for count in Counter(names).values())
    twice = sum(first == second for first, second in zip(names[::2], names[1::2], strict=True))
    assert 420 < twice < 580  # one in 14
    for name, (*_, signed) in OPERATIONS.items():
        values = Counter(value for other, value in drawn if other == name)
        assert set(values) == ({value_of(name), -value_of(name)} if signed else {value_of(name)})
        assert not signed or 0.42 < values[value_of(name)] / sum(values.values()) < 0.58


def test_it_changes_images_by_more_than_torchvisions_does(image):
    """A strength of 9 in 30 does not say by how much."""
    change = {}
    for augment in ("randaugment", "torchvision"):
        transform, before = ImageTransform(32, 8, augment=augment), np.asarray(image).astype(int)
        made = [np.asarray(transform.before_resize(image, (0, epoch, 0, 0))).astype(int) for epoch in range(300)]
        change[augment] = np.mean([np.abs(one - before).mean() for one in made])
    assert change["randaugment"] > 1.2 * change["torchvision"]
