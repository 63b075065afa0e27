"""What a recipe says of a CLIP-ViL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from vldistill.recipe.schema.base import Place, Section
from vldistill.recipe.schema.student import Official, Student

if TYPE_CHECKING:
    from vldistill.recipe.schema.recipe import Recipe


class ClipGrid(Section):
    """CLIP's image network, whose grid of cells the student reads."""

    model: Place | None = None
    """A name of open_clip (a ResNet, or a ViT with square images) or a folder in its layout; null for that of `student.init`."""
    weights: Place | None = None
    """open_clip's tag, a file, null for a folder's own, or "random"."""
    frozen: bool = False
    """Whether the network stays as it is."""
    batch_statistics: bool = True
    """Whether its batch norms use and learn the statistics of training batches."""


class ClipVilSection(Student):
    """CLIP-ViL: a BERT over a text and the grid of CLIP's image network; `init` may be a BERT of transformers."""

    sees = "letterbox"
    official = (Official("clip_vil", "clip_vil.official"),)

    kind: Literal["clip_vil"]
    """What the student is."""
    clip: ClipGrid = ClipGrid()
    """CLIP\'s image network."""

    def look(self, encoder: Any) -> str:
        own = self.clip.weights or "its own weights"
        seen = f"{self.clip.model} ({own})" if self.clip.model else "the image network of student.init"
        return f"seen by {seen}, {'frozen' if self.clip.frozen else 'trained along'}"

    def weight_files(self) -> dict[str, str]:
        return {"clip": self.clip.weights} if self.clip.weights else {}

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        if self.init is None and self.clip.model is None:
            raise ValueError("a clip_vil student from scratch needs student.clip.model")
