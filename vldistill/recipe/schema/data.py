"""What a recipe says of its data: which records, and how images and texts become inputs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vldistill.recipe.schema.base import NonNegative, Place, Positive, Section, Side


class Mixed(Section):
    """Another artifact to pre-train on beside the first. weight: how often an epoch has each of its records."""

    path: Place
    train: str = "train"
    weight: Annotated[float, Field(gt=0)] = 1.0


class Data(Section):
    """What to train on: an artifact of `vldistill prepare`. mix: others beside it, for pre-training; weight: see there."""

    path: Place
    train: str = "train"
    val: str = "val"
    types: list[str] | None = None  # only records of these types
    part: Literal["answers", "rationales", "both"] = "both"  # VCR: Q->A, QA->R
    limit: Positive | None = None  # the first N records a split
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    memory: bool | None = None  # keep decoded images; null decides by size
    weight: Annotated[float, Field(gt=0)] = 1.0
    mix: list[Mixed] = []


class Image(Section):
    """ViLT's preprocessing. size: shorter side in pixels, of a METER's images each side. long_side: of a clip_vil student's
    canvas; for the other students it follows from the image. augment: "flip" is for a student with an image network of its
    own. exif: the student sees images turned as their EXIF data says; by default as stored, which is how the published code of
    every family here reads them (Pillow's `open`), and how teachers of one modality do."""

    size: Side = 384
    long_side: Side = 640
    augment: Literal["none", "randaugment", "jitter", "flip"] = "none"
    shift: Annotated[int, Field(ge=0, le=2**14)] = 1  # jitter: pixels
    noise: NonNegative = 0.08  # jitter: standard deviation on the 0-1 pixel range
    exif: bool = False


class Text(Section):
    """max_length counts the special tokens. The vocabulary fields serve a student from scratch only."""

    max_length: Annotated[int, Field(ge=3, le=2**17)] = 40
    vocabulary_size: Annotated[int, Field(gt=0, le=10**7)] = 8000
    vocabulary_from: list[Place] = []  # data artifacts whose training text is read; this recipe's own when empty


class Regions(Section):
    """Region features, of `vldistill prepare regions`, for students that see regions. most: regions of an image."""

    path: Place
    most: Annotated[int, Field(gt=0, le=10**5)] = 100
