"""How a student sees an image: as ViLT's patches, or as regions of a store. Each is read item by item and stacked to a batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import torch

from vldistill.data.batch import ImageBatch, RegionBatch, VisualBatch
from vldistill.data.images import Images
from vldistill.data.regions.store import ImageRegions, RegionStore
from vldistill.data.size_rules import Rule, Seen
from vldistill.data.transforms import ImageTransform, add_noise, normalise, patchify, unpatchify

MEMORY_LIMIT_BYTES = 2 << 30

Draw = tuple[int, ...] | None
"""What decides a sample's augmentation, (seed, epoch, record, image), or None for the clean image."""


class VisualInput(Protocol):
    """read: one image, by its path, as an item that only `stack` looks into; raises InputError where it cannot be read.
    stack: items of a batch. largest: items of which a batch is as large as one of so many can be; most: regions or objects of an
    image, where there are fewer than its own rule allows. seen: how large an image is seen; None where the student sees no
    pixels."""

    seen: Rule | None

    def read(self, path: str, draw: Draw) -> Any: ...

    def stack(self, items: list[Any]) -> VisualBatch: ...

    def largest(self, most: int | None = None) -> list[Any]: ...


Grid = tuple[int, int]
Patches = tuple[np.ndarray, Grid, int | None]
"""[N, 3 * P * P] uint8, the grid, and the draw of its noise. Pixels stay bytes until a whole batch is normalised at once: one by
one it costs as much as a small model's step."""


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
        if draw is not None and self.transform.augment == "randaugment":
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
        return stack_regions(items, self._most)

    def largest(self, most: int | None = None) -> list[ImageRegions]:
        count = self._most if most is None else min(most, self._most)
        return [ImageRegions(np.zeros((count, self._store.width), np.float16), np.zeros((count, 4), np.float32))]


def stack_regions(items: list[ImageRegions], most: int) -> RegionBatch:
    """[B, R, F], R the most regions of an image in the batch. Where a store has no feature of the whole image, it is the mean of
    the regions, as VL-BERT takes it."""
    counts = [min(len(item.features), most) for item in items]
    width = items[0].features.shape[1]
    features, boxes = torch.zeros(len(items), max(counts), width), torch.zeros(len(items), max(counts), 4)
    whole = torch.zeros(len(items), width)
    for row, (item, count) in enumerate(zip(items, counts, strict=True)):
        values = torch.from_numpy(item.features[:count]).float()
        features[row, :count], boxes[row, :count] = values, torch.from_numpy(item.boxes[:count])
        whole[row] = values.mean(0) if item.image_feature is None else torch.from_numpy(item.image_feature).float()
    mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    return RegionBatch(features, boxes, mask, whole)
