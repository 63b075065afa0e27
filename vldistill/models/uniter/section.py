"""What a recipe says of a UNITER; VILLA is one with the recipe's `adversarial`."""

from __future__ import annotations

from typing import Literal

from vldistill.recipe.schema.student import Official, Student


class UniterSection(Student):
    """UNITER, a fusion encoder over regions; with `adversarial` VILLA."""

    sees = "regions"
    perturbed = True
    official = (Official("uniter", "uniter.official"),)

    kind: Literal["uniter"]
    """What the student is."""
