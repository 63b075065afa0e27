"""How a student with an image network of its own sees an image: its pixels and its objects (VL-BERT)."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from vldistill.data.batch import PixelBatch
from vldistill.data.images import Images
from vldistill.data.regions.network import ImageNetwork
from vldistill.data.regions.objects import MASK, ObjectIndex, Objects
from vldistill.data.size_rules import Seen
from vldistill.data.transforms import hash_key
from vldistill.data.visual import Draw

Pixels = tuple[np.ndarray, Objects]
"""[H, W, 3] uint8 RGB, and what is on it."""


def fitted(width: int, height: int, short: int, long: int) -> tuple[int, int]:
    """(width, height) with the shorter side `short`, or less where the longer one would pass `long`."""
    scale = min(short / min(width, height), long / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def fit(image: Image.Image, short: int, long: int) -> Image.Image:
    """The image in its `fitted` size; bilinear."""
    size = fitted(*image.size, short, long)
    return image if size == image.size else image.resize(size, Image.Resampling.BILINEAR)


class PixelInput:
    """Images with their data set's own objects, at most `most` each. flip: mirror half of the training images; the text stays, as
    VL-BERT has it on VCR."""

    def __init__(self, images: Images, objects: ObjectIndex, network: ImageNetwork, *, most: int, flip: bool = False):
        self._images, self._objects, self._network, self._most, self._flip = images, objects, network, most, flip

    def read(self, path: str, draw: Draw) -> Pixels:
        objects = self._objects[path]
        pixels = np.asarray(fit(self._images.open(path), self._network.short_side, self._network.long_side), dtype=np.uint8)
        objects = Objects(objects.boxes[: self._most], objects.masks[: self._most], objects.classes[: self._most])
        if self._flip and draw is not None and hash_key((*draw, 2)) % 2:
            return pixels[:, ::-1], objects.flipped()
        return pixels, objects

    def seen(self, width: int, height: int) -> Seen:
        return Seen(*fitted(width, height, self._network.short_side, self._network.long_side))

    def count(self, path: str) -> int:
        """The objects of an image."""
        return min(self._objects.count(path), self._most)

    def stack(self, items: list[Pixels]) -> PixelBatch:
        return stack_pixels(items, self._network)

    def largest(self, most: int | None = None) -> list[Pixels]:
        """One that lies and one that stands: a batch of both is padded to the longer side either way."""
        count = self._most if most is None else min(most, self._most)
        objects = Objects(np.zeros((count, 4), np.float32), np.zeros((count, MASK, MASK), bool), np.zeros(count, np.int64))
        sides = self._network.short_side, self._network.long_side
        return [(np.zeros((high, wide, 3), np.uint8), objects) for high, wide in (sides, sides[::-1])]


def stack_pixels(items: list[Pixels], network: ImageNetwork) -> PixelBatch:
    """Each image in the corner of its canvas, R the most objects of one."""
    canvases = [network.canvas(pixels.shape[1], pixels.shape[0]) for pixels, _ in items]
    counts = [len(objects) for _, objects in items]
    most, rows = max(counts), len(items)
    stacked = torch.zeros(rows, 3, max(high for high, _ in canvases), max(wide for _, wide in canvases), dtype=torch.uint8)
    boxes, masks = torch.zeros(rows, most, 4), torch.zeros(rows, most, MASK, MASK, dtype=torch.bool)
    classes = torch.zeros(rows, most, dtype=torch.long)
    for row, ((pixels, objects), count) in enumerate(zip(items, counts, strict=True)):
        high, wide = pixels.shape[:2]
        # Copied, since a mirrored array steps backwards, which torch does not take.
        stacked[row, :, :high, :wide] = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        boxes[row, :count], masks[row, :count] = torch.from_numpy(objects.boxes), torch.from_numpy(objects.masks.copy())
        classes[row, :count] = torch.from_numpy(objects.classes)
    sizes = torch.tensor([[pixels.shape[1], pixels.shape[0]] for pixels, _ in items])
    mask = torch.arange(most) < torch.tensor(counts)[:, None]
    return PixelBatch(stacked, sizes, canvases, boxes, mask, masks, classes, torch.arange(rows))
