"""What a recipe says of an encoder of one modality, which is trained to be a teacher of ADVL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from vldistill.recipe.schema.student import Student, TableSizes

if TYPE_CHECKING:
    from vldistill.recipe.schema.recipe import Recipe


class TextSection(Student):
    """A BERT that is pre-trained on text."""

    sees = "nothing"
    pretrains = ("mlm",)

    kind: Literal["text_encoder"]
    """What the student is."""

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        if recipe.objective.kind != "pretrain" or "itm" in recipe.objective.tasks:
            raise ValueError("a text_encoder student sees no images: it is trained by objective {kind: pretrain, tasks: [mlm]}")


class VisionSection(Student):
    """A ViT that is trained to name images."""

    kind: Literal["vision_encoder"]
    """What the student is."""
    sizes: TableSizes = TableSizes()
    """Of one from scratch."""

    def check(self, recipe: Recipe) -> None:
        super().check(recipe)
        if recipe.objective.kind != "labels":
            raise ValueError("a vision_encoder student reads no text: it is trained by objective {kind: labels}")
