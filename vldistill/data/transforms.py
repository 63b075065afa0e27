"""An image's size and pixels as a student with patches sees them (ViLT's, or CLIP's square), with augmentation as a function of
(seed, epoch, sample); and which images of unusual shape a size rule distorts, shrinks to a strip, or mostly cuts off.

Resizing: the shorter side to `size`, the longer side at most int(1333 / 800 * size), then each side down to a multiple of the
patch, bicubic, mean = std = 0.5. At 384 and patch 32 the largest image is 608x384, which is 228 patches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageOps

from vldistill.data.randaugment import randaugment

DISTORTED = 1.25
"""A change of the ratio of width to height by more than this is told."""
FEWEST_PATCHES = 2
"""Along a side; a strip of one patch says little."""
LEAST_SHARE = 0.5
"""Of an image's pixels; a square cut out of a long image shows less."""
MEAN = STD = 0.5
LONG_SIDE_RATIO = 1333 / 800
AUGMENTATIONS = ("none", "randaugment", "torchvision", "jitter")
# Drawing fresh normals for every pixel costs more than a small model's step; a slice of one fixed pool does not.
_POOL_SIZE = 1 << 20
_POOL: list[np.ndarray] = []


@dataclass(frozen=True)
class Seen:
    """How a student sees an image. width, height: in pixels. patch: the side of a patch, None where it has none. share: of the
    image that is seen."""

    width: int
    height: int
    patch: int | None = None
    share: float = 1.0


Rule = Callable[[int, int], Seen]
"""From an image's width and height."""


def faults_of(width: int, height: int, seen: Seen) -> list[str]:
    """What is wrong with how an image is seen, in words that a count can stand before."""
    ratio = (seen.width / seen.height) / (width / height)
    faults = []
    # A square that is cut out has another shape, and no distortion.
    if seen.share == 1.0 and max(ratio, 1 / ratio) > DISTORTED:
        faults.append("distorted")
    if seen.patch is not None and min(seen.width, seen.height) < FEWEST_PATCHES * seen.patch:
        faults.append(f"shrunk below {FEWEST_PATCHES} patches a side")
    if seen.share < LEAST_SHARE:
        faults.append(f"cut to less than {LEAST_SHARE:.0%} of their pixels")
    return faults


@dataclass
class SizeFaults:
    """Counts of images by what is wrong with how they are seen, with the first of each."""

    total: int = 0
    faulty: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """In one line, empty where nothing is wrong."""
        counted = [f"{count:,} {fault} ({self.first[fault]})" for fault, count in self.counts.items()]
        return f"{self.faulty:,} of {self.total:,} images do not fit the size rule: {'; '.join(counted)}" if counted else ""


def size_faults(images: Iterable[tuple[str, int, int]], rule: Rule) -> SizeFaults:
    """images: path, width and height of each."""
    summary, known = SizeFaults(), {}
    for path, width, height in images:
        if (width, height) not in known:
            known[width, height] = (seen := rule(width, height)), faults_of(width, height, seen)
        seen, faults = known[width, height]
        summary.total += 1
        summary.faulty += bool(faults)
        for fault in faults:
            summary.counts[fault] = summary.counts.get(fault, 0) + 1
            summary.first.setdefault(fault, f"{path}, {width} x {height} becomes {seen.width} x {seen.height}")
    return summary


def longest_side(size: int) -> int:
    """The most pixels of a longer side whose shorter one has `size`."""
    return int(LONG_SIDE_RATIO * size)


def vilt_size(width: int, height: int, size: int, patch: int) -> tuple[int, int]:
    """(width, height) after ViLT's resize; each at least one patch.

    >>> vilt_size(640, 480, 384, 32)
    (512, 384)
    """
    scale = size / min(width, height)
    longest = longest_side(size)
    if max(width, height) * scale > longest:
        scale = longest / max(width, height)
    return tuple(max(int(side * scale + 0.5) // patch * patch, patch) for side in (width, height))


@dataclass(frozen=True)
class ImageTransform:
    """size: shorter side in pixels. patch: patch side in pixels. augment: "none", "randaugment" (see
    `data.randaugment`), "torchvision" (its RandAugment, 2 operations of magnitude 9, on grey) or "jitter" (a shift of at most
    `shift` pixels and Gaussian noise of standard deviation `noise` in units of the 0-1 pixel range). square: instead of ViLT's
    resizing the square in the middle of the image, of side `size`: "fit" resizes what was cut out, "crop" cuts out of what was
    resized, as CLIP does. crop_ratio: with "crop", the square's side as a share of the shorter side before the cut (CLIP 1,
    DeCLIP 224 / 256)."""

    size: int
    patch: int
    augment: str = "none"
    shift: int = 1
    noise: float = 0.08
    square: str = ""
    crop_ratio: float = 1.0

    def __post_init__(self) -> None:
        if self.augment not in AUGMENTATIONS:
            raise ValueError(f"augment {self.augment!r} is none of {', '.join(AUGMENTATIONS)}")

    def resize(self, image: Image.Image) -> np.ndarray:
        """[H, W, 3] uint8, each side a multiple of the patch."""
        if self.square == "crop":
            return _cropped(image, self.size, round(self.size / self.crop_ratio))
        if self.square:
            return np.asarray(ImageOps.fit(image, (self.size, self.size), Image.Resampling.BICUBIC), dtype=np.uint8)
        target = vilt_size(*image.size, self.size, self.patch)
        if image.size != target:
            image = image.resize(target, Image.Resampling.BICUBIC)
        return np.asarray(image, dtype=np.uint8)

    def seen(self, width: int, height: int) -> Seen:
        """What `resize` makes of an image of this size."""
        if not self.square:
            return Seen(*vilt_size(width, height, self.size, self.patch), self.patch)
        share = min(width, height) / max(width, height)
        return Seen(self.size, self.size, self.patch, share * self.crop_ratio**2 if self.square == "crop" else share)

    def largest(self) -> tuple[int, int]:
        """(width, height) of the most pixels that `resize` makes of any image."""
        return (self.size, self.size) if self.square else vilt_size(longest_side(self.size), self.size, self.size, self.patch)

    @property
    def augments_whole(self) -> bool:
        """Whether `before_resize` changes anything."""
        return self.augment in ("randaugment", "torchvision")

    def before_resize(self, image: Image.Image, key: tuple[int, ...]) -> Image.Image:
        """RandAugment, drawn from `key` = (seed, epoch, sample); the image itself under any other augmentation."""
        if not self.augments_whole:
            return image
        if self.augment == "randaugment":
            return randaugment(image, hash_key(key))
        import torch
        from torchvision.transforms import RandAugment

        with torch.random.fork_rng(devices=[]):
            # Not `torch.manual_seed`, which would seed every GPU as well.
            torch.default_generator.manual_seed(hash_key(key))
            return RandAugment(num_ops=2, magnitude=9, fill=[128, 128, 128])(image)

    @property
    def moves(self) -> bool:
        """Whether `shifted` changes anything."""
        return self.augment == "jitter" and self.shift > 0

    def shifted(self, pixels: np.ndarray, key: tuple[int, ...]) -> np.ndarray:
        """[H, W, 3] uint8, moved by up to `shift` pixels each way under "jitter", the edge repeated."""
        if not self.moves:
            return pixels
        span, (height, width) = 2 * self.shift + 1, pixels.shape[:2]
        draw = hash_key((*key, 0))
        down, right = draw % span, draw // span % span
        padded = np.pad(pixels, ((self.shift, self.shift), (self.shift, self.shift), (0, 0)), mode="edge")
        return padded[down : down + height, right : right + width]

    def noise_draw(self, key: tuple[int, ...] | None) -> int | None:
        """The draw of a sample's pixel noise, for `add_noise`; None where there is none."""
        if key is None or self.augment != "jitter" or not self.noise:
            return None
        return hash_key((*key, 1))


def _cropped(image: Image.Image, size: int, resized: int) -> np.ndarray:
    """CLIP's preprocessing, [size, size, 3] uint8: the shorter side to `resized`, bicubic, then the centre."""
    short = min(image.size)
    width, height = (resized * side // short for side in image.size)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.uint8)


def normalise(pixels: np.ndarray) -> np.ndarray:
    """uint8 to float32 in [-1, 1]."""
    values = pixels.astype(np.float32)
    values *= 1 / (255 * STD)
    values -= MEAN / STD
    return values


def add_noise(values: np.ndarray, draws: list[int | None], deviation: float) -> None:
    """Adds Gaussian noise to rows of normalised values [B, ...] in place; `deviation` is on the 0-1 pixel range."""
    for row, draw in zip(values, draws, strict=True):
        if draw is not None:
            row += _noise(draw, row.size).reshape(row.shape) * np.float32(deviation / STD)


def patchify(pixels: np.ndarray, patch: int) -> np.ndarray:
    """[H, W, 3] to [H/P * W/P, 3 * P * P], patches in raster order, each flattened as (channel, row, column): the order
    of a convolution's weight."""
    rows, columns = pixels.shape[0] // patch, pixels.shape[1] // patch
    cells = pixels.reshape(rows, patch, columns, patch, 3).transpose(0, 2, 4, 1, 3)
    return cells.reshape(rows * columns, 3 * patch * patch)


def unpatchify(patches: np.ndarray, grid: tuple[int, int], patch: int) -> np.ndarray:
    """The inverse of `patchify`."""
    cells = patches.reshape(*grid, 3, patch, patch).transpose(0, 3, 1, 4, 2)
    return cells.reshape(grid[0] * patch, grid[1] * patch, 3)


def hash_key(key: tuple[int, ...]) -> int:
    """A 63-bit integer from integers: a counter-based draw, so that a resumed run needs no generator state."""
    digest = hashlib.blake2b(np.asarray(key, dtype=np.int64).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _noise(draw: int, count: int) -> np.ndarray:
    if count > _POOL_SIZE // 2:
        return np.random.default_rng(draw).standard_normal(count, dtype=np.float32)
    if not _POOL:
        _POOL.append(np.random.default_rng(20210520).standard_normal(_POOL_SIZE, dtype=np.float32))
    start = draw % (_POOL_SIZE - count)
    return _POOL[0][start : start + count]
