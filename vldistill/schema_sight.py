"""The part of a recipe that says through which network of its own a student sees."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from vldistill.schema_base import Depth, Natural, NonNegative, Place, Section, Side, Width


class ImageNetwork(Section):
    """The ResNet of a student that is trained end to end. weights: a file in torchvision's layout for BGR images of 0 to 255, as
    bottom-up attention's, "random", or null for those of `student.init`. blocks, width: of its stages, unless `student.init`
    brings one. short_side, long_side: of images, in pixels. object_loss: weight of naming each object's class, 0 for none."""

    weights: Place | None = None
    blocks: Annotated[list[Depth], Field(min_length=4, max_length=4)] = [3, 4, 23, 3]
    width: Width = 64
    short_side: Side = 600
    long_side: Side = 1200
    object_loss: NonNegative = 1.0

    @model_validator(mode="after")
    def _sides(self) -> ImageNetwork:
        if self.short_side > self.long_side:
            raise ValueError(f"short_side {self.short_side} is longer than long_side {self.long_side}")
        return self


class Clip(Section):
    """A CLIP of open_clip: the image network of a clip_vil student, or both towers of a clip_dual. model: a name (a ResNet, or a
    ViT with square images; for a clip_dual a ViT) or a folder in its layout; null for that of `student.init`. weights:
    open_clip's tag, a file, null for a folder's own, or "random". Of a clip_vil alone: frozen: it does not learn.
    batch_statistics: its batch norms use and learn those of the training batches."""

    model: Place | None = None
    weights: Place | None = None
    frozen: bool = False
    batch_statistics: bool = True


class Pixels(Section):
    """How a pixelbert student sees, unless `student.init` is one. model: a ResNet of timm. weights: null for the published ones,
    a file, or "random". sample: cells of an image that a training pass draws, 0 for all."""

    model: str = "resnet50"
    weights: Place | None = None
    sample: Natural = 0
