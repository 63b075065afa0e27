"""RandAugment as ViLT, METER and DiDE train with it: two operations at a strength of 9 in 30, applied before the resize.

Theirs is not torchvision's: SolarizeAdd stands in for Identity, one bit is left by Posterize (there 7), Solarize begins at 76.8
(there 178), Color, Contrast, Brightness and Sharpness only ever take away (a factor of 0.64; there 0.73 or 1.27), translations
are 30 pixels whatever the image's size, and what comes in from outside is black.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

DRAWS, MAGNITUDE, MOST = 2, 9, 30
"""Operations an image, their strength, and the largest strength there is."""
_THRESHOLD = 128

Operation = Callable[[Image.Image, float], Image.Image]


def _solarize_add(image: Image.Image, value: float) -> Image.Image:
    brighter = np.clip(np.asarray(image, dtype=np.int16) + int(value), 0, 255).astype(np.uint8)
    return ImageOps.solarize(Image.fromarray(brighter), _THRESHOLD)


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    """matrix: from a pixel's place to the place that it is taken from."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


OPERATIONS: dict[str, tuple[Operation, float, float, bool]] = {
    "autocontrast": (lambda image, _: ImageOps.autocontrast(image), 0, 1, False),
    "equalize": (lambda image, _: ImageOps.equalize(image), 0, 1, False),
    "rotate": (lambda image, degrees: image.rotate(degrees), 0, 30, True),
    "posterize": (lambda image, bits: ImageOps.posterize(image, max(1, int(bits))), 0, 4, False),
    "solarize": (lambda image, threshold: ImageOps.solarize(image, threshold), 0, 256, False),  # pyright: ignore[reportArgumentType]
    "solarize_add": (_solarize_add, 0, 110, False),
    "color": (lambda image, factor: ImageEnhance.Color(image).enhance(factor), 0.1, 1.9, False),
    "contrast": (lambda image, factor: ImageEnhance.Contrast(image).enhance(factor), 0.1, 1.9, False),
    "brightness": (lambda image, factor: ImageEnhance.Brightness(image).enhance(factor), 0.1, 1.9, False),
    "sharpness": (lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor), 0.1, 1.9, False),
    "shear_x": (lambda image, share: _affine(image, 1, share, 0, 0, 1, 0), 0, 0.3, True),
    "shear_y": (lambda image, share: _affine(image, 1, 0, 0, share, 1, 0), 0, 0.3, True),
    "translate_x": (lambda image, pixels: _affine(image, 1, 0, pixels, 0, 1, 0), 0, 100, True),
    "translate_y": (lambda image, pixels: _affine(image, 1, 0, 0, 0, 1, pixels), 0, 100, True),
}
"""By name: what it does with an image and a value, the value at strength 0 and at `MOST`, and whether its sign is drawn."""


def value_of(name: str) -> float:
    """An operation's value at `MAGNITUDE`, without a sign.

    >>> [round(value_of(name), 3) for name in ("rotate", "solarize", "solarize_add", "color", "shear_x", "translate_x")]
    [9.0, 76.8, 33.0, 0.64, 0.09, 30.0]
    """
    _, least, most, _ = OPERATIONS[name]
    return MAGNITUDE / MOST * (most - least) + least


def randaugment(image: Image.Image, seed: int) -> Image.Image:
    """The image, RGB, after operations that are drawn with replacement, each as likely."""
    draw = random.Random(seed)
    for name in draw.choices(list(OPERATIONS), k=DRAWS):
        operation, *_, signed = OPERATIONS[name]
        image = operation(image, value_of(name) * (-1 if signed and draw.random() > 0.5 else 1))
    return image
