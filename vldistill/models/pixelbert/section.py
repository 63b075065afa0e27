"""What a recipe says of the baseline Pixel-BERT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from vldistill.recipe.schema.base import Natural, Place, Section
from vldistill.recipe.schema.student import Baseline

if TYPE_CHECKING:
    from vldistill.recipe.schema.recipe import Recipe


class Pixels(Section):
    """The ResNet that a student sees through, unless `student.init` brings one."""

    model: str = "resnet50"
    """A ResNet of timm."""
    weights: Place | None = None
    """null for the published ones, a file, or "random"."""
    sample: Natural = 0
    """Cells of an image that a training pass draws, 0 for all."""


class PixelBertSection(Baseline):
    """Pixel-BERT: a BERT over a text and the cells of a ResNet; `init` may be a BERT of transformers."""

    sees = "canvas"

    kind: Literal["pixelbert"]
    """What the student is."""
    pixels: Pixels = Pixels()
    """Its ResNet."""

    def look(self, encoder: Any) -> str:
        return f"seen by {encoder.network}, trained along"

    def weight_files(self) -> dict[str, str]:
        return {"pixels": self.pixels.weights} if self.pixels.weights else {}

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        if recipe.image.size > recipe.image.long_side:
            raise ValueError(f"image.size {recipe.image.size} is longer than image.long_side {recipe.image.long_side}")
