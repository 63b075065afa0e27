"""How a student sees the whole of an image at one size: on a canvas, which lies for wide images and stands for upright ones.

As CLIP-ViL has it (Shen et al., 2021, and its code): the shorter side to `short` pixels, the longer one at most `long`, bilinear,
in the middle of a black canvas. What is black is not masked.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from vldistill.data.batch import LetterboxBatch
from vldistill.data.images import Images
from vldistill.data.size_rules import Seen
from vldistill.data.visual import Draw


def fitted_size(width: int, height: int, short: int, long: int) -> tuple[int, int]:
    """(width, height) of an image on its canvas.

    >>> fitted_size(500, 375, 384, 640), fitted_size(400, 1000, 384, 640)
    ((512, 384), (256, 640))
    """
    low, high = sorted((width, height))
    side = short if high / low * short <= long else max(round(long * low / high), 1)
    other = min(int(side * high / low), long)
    return (other, side) if width > height else (side, other)


def letterbox(image: Image.Image, short: int, long: int) -> np.ndarray:
    """[short, long, 3] uint8, or [long, short, 3] of an image that is no wider than high."""
    width, height = fitted_size(*image.size, short, long)
    canvas = np.zeros((short, long, 3) if image.width > image.height else (long, short, 3), dtype=np.uint8)
    # Where the border is odd, the larger half comes first.
    top, left = (canvas.shape[0] - height + 1) // 2, (canvas.shape[1] - width + 1) // 2
    canvas[top : top + height, left : left + width] = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return canvas


class LetterboxInput:
    """Images on canvases of `short` x `long` pixels."""

    def __init__(self, images: Images, short: int, long: int):
        self._images, self._short, self._long = images, short, long

    def read(self, path: str, draw: Draw) -> np.ndarray:
        return letterbox(self._images.open(path), self._short, self._long)

    def seen(self, width: int, height: int) -> Seen:
        return Seen(*fitted_size(width, height, self._short, self._long))

    def stack(self, items: list[np.ndarray]) -> LetterboxBatch:
        return stack_letterboxes(items)

    def largest(self, most: int | None = None) -> list[np.ndarray]:
        return [np.zeros((self._short, self._long, 3), np.uint8)]


def stack_letterboxes(items: list[np.ndarray]) -> LetterboxBatch:
    """Canvases that stand are laid down, so that all have one shape."""
    upright = [height > width for height, width, _ in (item.shape for item in items)]
    laid = [item.swapaxes(0, 1) if stands else item for item, stands in zip(items, upright, strict=True)]
    pixels = torch.from_numpy(np.stack(laid)).permute(0, 3, 1, 2).contiguous()
    return LetterboxBatch(pixels, upright, torch.arange(len(items)))
