"""What a recipe says of a VL-BERT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from vldistill.recipe.schema.base import Depth, NonNegative, Place, Section, Side, Width
from vldistill.recipe.schema.student import Official, Student

if TYPE_CHECKING:
    from vldistill.recipe.schema.recipe import Recipe


class Network(Section):
    """The ResNet of a VL-BERT that is trained end to end."""

    weights: Place | None = None
    """A file in torchvision's layout for BGR images of 0 to 255, as bottom-up attention's, "random", or null for those of
    `student.init`."""
    blocks: Annotated[list[Depth], Field(min_length=4, max_length=4)] = [3, 4, 23, 3]
    """Blocks of its four stages, unless `student.init` brings one."""
    width: Width = 64
    """Features of the first stage's inner convolutions, unless `student.init` brings one."""
    short_side: Side = 600
    """Of images, in pixels."""
    long_side: Side = 1200
    """Of images at most, in pixels."""
    object_loss: NonNegative = 1.0
    """Weight of naming each object's class, 0 for none."""

    @model_validator(mode="after")
    def _sides(self) -> Network:
        if self.short_side > self.long_side:
            raise ValueError(f"short_side {self.short_side} is longer than long_side {self.long_side}")
        return self


class VlBertSection(Student):
    """VL-BERT, over the regions of a store or end to end."""

    sees = "regions"
    features = ("detector", "vlbert")
    official = (Official("vlbert", "vlbert.official"),)

    kind: Literal["vlbert"]
    """What the student is."""
    visual: Literal["regions", "end_to_end"] = "regions"
    """Whether it reads the features of `regions`, or makes its own of the data's objects (VCR) by `image_network`."""
    image_network: Network = Network()
    """Of one that is trained end to end."""

    @model_validator(mode="after")
    def _used(self) -> VlBertSection:
        if self.visual == "regions" and self.image_network != Network():
            raise ValueError("image_network needs visual=end_to_end")
        return self

    @property
    def own_features(self) -> bool:
        return {"regions": False, "end_to_end": True}[self.visual]

    def weight_files(self) -> dict[str, str]:
        return {"image_network": self.image_network.weights} if self.image_network.weights else {}

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        if self.own_features and recipe.regions is not None:
            raise ValueError("a student with visual=end_to_end makes its own features: leave out `regions`")
        if self.own_features and recipe.image.augment not in ("none", "flip"):
            raise ValueError(f"image.augment={recipe.image.augment} does not go with student.visual={self.visual}")
