"""What a recipe asks of a student."""

from __future__ import annotations

from dataclasses import dataclass

from vldistill.data.regions.network import ImageNetwork
from vldistill.models.base.checkpoint import MOST_REGIONS


@dataclass(frozen=True)
class Clip:
    """How a student sees by a CLIP. model, weights: see `load_open_clip`; no model: that of the student which it
    starts from. long_side, frozen, batch_statistics: see `ClipVilConfig`."""

    model: str | None
    weights: str | None
    long_side: int
    frozen: bool
    batch_statistics: bool


@dataclass(frozen=True)
class Pixels:
    """How a student sees by a ResNet. model, weights: see `read_network`. long_side, sample: see `PixelBertConfig`."""

    model: str
    weights: str | None
    long_side: int
    sample: int


@dataclass(frozen=True)
class StudentRequest:
    """What a student shall be. images: per record. image_size: shorter side in pixels. regions, most_regions: the store
    of one that sees them, and how many of an image. network, network_weights: what one sees pixels by, and where its weights come
    from: a file, "random", or None for the checkpoint that it starts from. clip, pixels: how a clip_vil,
    clip_dual or pixelbert student sees. pretraining: tasks that it needs heads for."""

    kind: str
    task: str
    images: int
    labels: list[str]
    image_size: int
    max_length: int
    dropout: float
    regions: str | None = None
    most_regions: int = MOST_REGIONS
    network: ImageNetwork | None = None
    network_weights: str | None = None
    clip: Clip | None = None
    pixels: Pixels | None = None
    pretraining: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sizes:
    """An encoder from scratch. image_size: pixels that the position table spans; region_size: features of a region."""

    layers: int
    width: int
    heads: int
    feedforward: int
    patch: int
    image_size: int
    region_size: int
