"""What a recipe says of a bag of words and patches."""

from __future__ import annotations

from typing import Literal

from vldistill.recipe.schema.student import PatchSizes, Student


class BagSection(Student):
    """The mean of a text's words beside the mean of an image's patches."""

    kind: Literal["bag"]
    """What the student is."""
    sizes: PatchSizes = PatchSizes()
    """Of one from scratch."""
