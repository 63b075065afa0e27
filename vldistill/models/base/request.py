"""What a recipe asks of a student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vldistill.models.base.checkpoint import MOST_REGIONS


@dataclass(frozen=True)
class StudentRequest:
    """What a student shall be. section: its kind's own part of a recipe, see `Student`. images: per record. image_size,
    long_side: shorter side in pixels, and the longer one of those that see a canvas. max_length: text tokens with specials.
    regions, region_size, most_regions: the store of one that sees them, features of a region, and how many of an image.
    pretraining: tasks that it needs heads for."""

    section: Any
    task: str
    images: int
    labels: list[str]
    image_size: int
    max_length: int
    long_side: int = 0
    regions: str | None = None
    region_size: int = 0
    most_regions: int = MOST_REGIONS
    pretraining: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return self.section.kind

    @property
    def dropout(self) -> float:
        return self.section.dropout
