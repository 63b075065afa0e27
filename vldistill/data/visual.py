"""How a student sees an image, read item by item and stacked to a batch: as patches, as regions of a store, as its pixels and
objects (VL-BERT), or whole on a canvas, which lies for wide images and stands for upright ones.

The canvas is CLIP-ViL's (Shen et al., 2021, and its code): the shorter side to `short` pixels, the longer one at most `long`,
bilinear, in the middle of black, which is not masked.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image

from vldistill.data.batch import ImageBatch, LetterboxBatch, PixelBatch, RegionBatch, VisualBatch
from vldistill.data.images import Images
from vldistill.data.regions.network import ImageNetwork
from vldistill.data.regions.objects import MASK, ObjectIndex, Objects
from vldistill.data.regions.store import ImageRegions, RegionStore
from vldistill.data.transforms import ImageTransform, Rule, Seen, add_noise, hash_key, normalise, patchify, unpatchify

MEMORY_LIMIT_BYTES = 2 << 30
Draw = tuple[int, ...] | None
"""What decides a sample's augmentation, (seed, epoch, record, image), or None for the clean image."""
Grid = tuple[int, int]
Patches = tuple[np.ndarray, Grid, int | None]
"""[N, 3 * P * P] uint8, the grid, and the draw of its noise. Pixels stay bytes until a whole batch is normalised at once: one by
one it costs as much as a small model's step."""
Pixels = tuple[np.ndarray, Objects]
"""[H, W, 3] uint8 RGB, and what is on it."""


class VisualInput(Protocol):
    """read: one image, by its path, as an item that only `stack` looks into; raises InputError where it cannot be read.
    stack: items of a batch. largest: items of which a batch is as large as one of so many can be; most: regions or objects of an
    image, where there are fewer than its own rule allows. seen: how large an image is seen; None where the student sees no
    pixels."""

    seen: Rule | None

    def read(self, path: str, draw: Draw) -> Any: ...

    def stack(self, items: list[Any]) -> VisualBatch: ...

    def largest(self, most: int | None = None) -> list[Any]: ...


class PatchInput:
    """Images under ViLT's preprocessing.

    paths: all images that will be asked for. memory: keep them decoded; None decides by size (2 GiB). With RandAugment nothing
    is kept, since it comes before the resize.
    """

    def __init__(self, images: Images, transform: ImageTransform, paths: Iterable[str] = (), memory: bool | None = None):
        self._images, self.transform = images, transform
        self._kept: dict[str, tuple[np.ndarray, Grid]] = {}
        fits = len(set(paths)) * transform.size**2 * 3 * 1.4 < MEMORY_LIMIT_BYTES
        self._keep = fits if memory is None else memory

    def seen(self, width: int, height: int) -> Seen:
        return self.transform.seen(width, height)

    def read(self, path: str, draw: Draw) -> Patches:
        return *self._patches(path, draw), self.transform.noise_draw(draw)

    def stack(self, items: list[Patches]) -> ImageBatch:
        return stack_patches(
            [rows for rows, _, _ in items],
            [grid for _, grid, _ in items],
            draws=[draw for _, _, draw in items],
            noise=self.transform.noise,
        )

    def largest(self, most: int | None = None) -> list[Patches]:
        width, height = self.transform.largest()
        return [(*_cut(np.zeros((height, width, 3), np.uint8), self.transform.patch), None)]

    def _patches(self, path: str, draw: Draw) -> tuple[np.ndarray, Grid]:
        side = self.transform.patch
        if draw is not None and self.transform.augments_whole:
            return _cut(self.transform.resize(self.transform.before_resize(self._images.open(path), draw)), side)
        kept = self._kept.get(path)
        if kept is None:
            kept = _cut(self.transform.resize(self._images.open(path)), side)
            if self._keep:
                self._kept[path] = kept
        if draw is None or not self.transform.moves:
            return kept
        return _cut(self.transform.shifted(unpatchify(*kept, side), draw), side)


def _cut(pixels: np.ndarray, side: int) -> tuple[np.ndarray, Grid]:
    return patchify(pixels, side), (pixels.shape[0] // side, pixels.shape[1] // side)


def stack_patches(
    patches: list[np.ndarray], grids: list[Grid], *, draws: list[int | None] | None = None, noise: float = 0.0
) -> ImageBatch:
    """[B, N, 3 * P * P] normalised patches and mask, N the largest patch count; noise as `add_noise`, padding zero."""
    counts = [len(rows) for rows in patches]
    draws = draws or [None] * len(patches)
    if len(set(counts)) == 1:
        values = normalise(np.stack(patches))
        add_noise(values, draws, noise)
        return ImageBatch(torch.from_numpy(values), torch.ones(len(counts), counts[0], dtype=torch.bool), grids)
    stacked = torch.zeros(len(patches), max(counts), patches[0].shape[1])
    mask = torch.zeros(len(patches), max(counts), dtype=torch.bool)
    for row, pixels in enumerate(patches):
        values = normalise(pixels[None])
        add_noise(values, draws[row : row + 1], noise)
        stacked[row, : counts[row]] = torch.from_numpy(values[0])
        mask[row, : counts[row]] = True
    return ImageBatch(stacked, mask, grids)


class NoImages:
    """For a student that reads text alone, whose records name no image."""

    seen: Rule | None = None

    def read(self, path: str, draw: Draw) -> Any:
        raise AssertionError(f"{path}: a text encoder's records name no image")

    def stack(self, items: list[Any]) -> VisualBatch:
        raise AssertionError("a text encoder's records name no image")

    def largest(self, most: int | None = None) -> list[None]:
        return [None]


class RegionInput:
    """Regions of a store, at most `most` an image (the first, which are those of highest confidence or the data set's own)."""

    seen: Rule | None = None

    def __init__(self, store: RegionStore, most: int = 100):
        self._store, self._most = store, most

    def read(self, path: str, draw: Draw) -> ImageRegions:
        return self._store[path]

    def count(self, path: str) -> int:
        """The regions of an image."""
        return min(self._store.count(path), self._most)

    def stack(self, items: list[ImageRegions]) -> RegionBatch:
        """R the most regions of an image in the batch. Where a store has no feature of the whole image, it is the mean of the
        regions, as VL-BERT takes it."""
        counts = [min(len(item.features), self._most) for item in items]
        width = items[0].features.shape[1]
        features, boxes = torch.zeros(len(items), max(counts), width), torch.zeros(len(items), max(counts), 4)
        whole = torch.zeros(len(items), width)
        for row, (item, count) in enumerate(zip(items, counts, strict=True)):
            values = torch.from_numpy(item.features[:count]).float()
            features[row, :count], boxes[row, :count] = values, torch.from_numpy(item.boxes[:count])
            whole[row] = values.mean(0) if item.image_feature is None else torch.from_numpy(item.image_feature).float()
        mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
        return RegionBatch(features, boxes, mask, whole)

    def largest(self, most: int | None = None) -> list[ImageRegions]:
        count = self._most if most is None else min(most, self._most)
        return [ImageRegions(np.zeros((count, self._store.width), np.float16), np.zeros((count, 4), np.float32))]


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
