"""What a recipe says of CLIP, SLIP or DeCLIP as a baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from vldistill.recipe.schema.base import Place, Section
from vldistill.recipe.schema.student import Official, PatchSizes, Student

if TYPE_CHECKING:
    from vldistill.recipe.schema.recipe import Recipe


class Pair(Section):
    """Both towers of a CLIP of open_clip."""

    model: Place | None = None
    """A ViT of open_clip or a folder in its layout; null for that of `student.init`."""
    weights: Place | None = None
    """open_clip's tag, a file, null for a folder's own, or "random"."""


class ClipDualSection(Student):
    """CLIP, SLIP or DeCLIP with DiDE's fusion MLP, without dropout; `init` may be a SLIP."""

    ranks = "vectors"
    official = (
        Official("slip", "base.slip", "", cased=False),
        Official("declip", "clip_dual.official", "", cased=False),
    )

    kind: Literal["clip_dual"]
    """What the student is."""
    sizes: PatchSizes = PatchSizes()
    """Of one from scratch."""
    clip: Pair = Pair()
    """The CLIP that it starts from."""

    def start(self) -> str:
        own = self.clip.weights or "its own weights"
        return self.init or (f"{self.clip.model} ({own})" if self.clip.model else "scratch")

    def weight_files(self) -> dict[str, str]:
        return {"clip": self.clip.weights} if self.clip.weights else {}

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        if recipe.objective.kind not in ("labels", "retrieval"):
            raise ValueError("a clip_dual student is a baseline: it is trained by objective {kind: labels}, or retrieval")
        if self.dropout:
            raise ValueError("CLIP has no dropout: a clip_dual student needs student.dropout=0.0")
        if self.init is not None and self.clip.model is not None:
            raise ValueError("student.init brings its own CLIP: leave out student.clip, or student.init")
