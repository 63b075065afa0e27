"""What a recipe says of its student, and through which network of its own that sees."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vldistill.recipe.schema.base import Depth, Fraction, Natural, NonNegative, Place, Section, Side, Width


class Sizes(Section):
    """Sizes of an encoder from scratch (ViLT-B/32 by default); a METER's two encoders and its co-attention have them each.
    image_size: pixels that the position table spans, which for a METER are those of `image.size`."""

    layers: Depth = 12
    width: Width = 768
    heads: Depth = 12
    feedforward: Width = 3072
    patch: Side = 32
    image_size: Side = 384

    @model_validator(mode="after")
    def _divisible(self) -> Sizes:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.image_size % self.patch:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch {self.patch}")
        return self


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


class Student(Section):
    """kind: "vilt", "meter" and "oscar" (fusion), "dual_encoder", "meter_dual" and "oscar_dual" (from these), "uniter" (VILLA
    too), "vlbert", "clip_vil"; the baselines "visualbert", "lxmert" and "pixelbert", and "clip_dual" (CLIP, SLIP, DeCLIP; without
    dropout); or, to be a teacher later, "text_encoder" or "vision_encoder". init: a run, a model folder or a hub name (a clip_vil
    or pixelbert student's may be a BERT of transformers, a clip_dual's a SLIP); null starts from scratch with `sizes`, or a
    clip_dual from `clip.model`. keep_head: take the head along too (same labels only). visual: whether a vlbert student reads the
    features of `regions`, or makes its own of the data's objects by `image_network` (VCR)."""

    kind: Literal[
        "vilt",
        "dual_encoder",
        "meter",
        "meter_dual",
        "oscar",
        "oscar_dual",
        "clip_dual",
        "uniter",
        "vlbert",
        "visualbert",
        "lxmert",
        "pixelbert",
        "clip_vil",
        "text_encoder",
        "vision_encoder",
    ]
    init: Place | None = None
    sizes: Sizes = Sizes()
    dropout: Fraction = 0.1
    keep_head: bool = False
    clip: Clip = Clip()
    pixels: Pixels = Pixels()
    visual: Literal["regions", "end_to_end"] = "regions"
    image_network: ImageNetwork = ImageNetwork()

    @model_validator(mode="after")
    def _sees(self) -> Student:
        if self.visual == "end_to_end" and self.kind != "vlbert":
            raise ValueError(f"visual end_to_end is for a vlbert student; this one is {self.kind}")
        if self.visual == "regions" and self.image_network != ImageNetwork():
            raise ValueError("image_network needs visual=end_to_end")
        return self


OVER_REGIONS = ("uniter", "vlbert", "visualbert", "lxmert", "oscar", "oscar_dual")
