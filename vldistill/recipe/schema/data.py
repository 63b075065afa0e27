"""What a recipe says of its data: which records, and how images and texts become inputs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vldistill.recipe.schema.base import NonNegative, Place, Positive, Section, Side


class Mixed(Section):
    """Another artifact to pre-train on beside the first."""

    path: Place
    """A data artifact."""
    train: str = "train"
    """Its split to train on."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """How often an epoch has each of its records."""


class Data(Section):
    """What to train on."""

    path: Place
    """An artifact of `vldistill prepare`."""
    train: str = "train"
    """The split, or variant, to train on."""
    val: str = "val"
    """The split, or variant, that checkpoints are chosen on."""
    types: list[str] | None = None
    """Only records of these types; null for all."""
    part: Literal["answers", "rationales", "both"] = "both"
    """VCR: Q->A, QA->R, or both."""
    limit: Positive | None = None
    """The first N records a split; the run is then partial."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """Processes that read images and texts, 0 for none."""
    memory: bool | None = None
    """Whether decoded images are kept in memory; null decides by size."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Pre-training: how often an epoch has each record of `path`."""
    mix: list[Mixed] = []
    """Pre-training: further artifacts beside it."""


class Image(Section):
    """How an image becomes an input: ViLT's preprocessing, unless the student has its own."""

    size: Side = 384
    """Shorter side in pixels; of a METER's images each side."""
    long_side: Side = 640
    """Longer side of a canvas, in pixels, for students that see images on one; for others it follows from the image."""
    augment: Literal["none", "randaugment", "torchvision", "jitter", "flip"] = "none"
    """randaugment: as the authors of ViLT, METER and DiDE have it; torchvision: its RandAugment, which changes images less;
    jitter: shifts and noise; flip: for a student with an image network of its own."""
    shift: Annotated[int, Field(ge=0, le=2**14)] = 1
    """jitter: largest shift, in pixels."""
    noise: NonNegative = 0.08
    """jitter: standard deviation, of pixels in [0, 1]."""
    exif: bool = False
    """Whether the student sees images turned as their EXIF data says. By default it sees them as stored, which is how the
    published code of every family here reads them, and how teachers of one modality do."""


class Text(Section):
    """How a text becomes an input. The vocabulary fields serve a student from scratch only."""

    max_length: Annotated[int, Field(ge=3, le=2**17)] = 40
    """Tokens, special ones counted."""
    vocabulary_size: Annotated[int, Field(gt=0, le=10**7)] = 8000
    """Of a student from scratch, at most."""
    vocabulary_from: list[Place] = []
    """Data artifacts whose training texts the vocabulary is made of; this recipe's own when empty."""


class Regions(Section):
    """Region features, for students that see regions."""

    path: Place
    """A store of `vldistill prepare regions`."""
    most: Annotated[int, Field(gt=0, le=10**5)] = 100
    """Regions of an image, at most."""
