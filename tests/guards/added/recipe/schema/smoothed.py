"""What a recipe says of training with smoothed labels."""

from __future__ import annotations

from typing import Literal

from vldistill.recipe.schema.base import Fraction
from vldistill.recipe.schema.objectives import ObjectiveSection


class SmoothedObjective(ObjectiveSection):
    """Ground-truth labels, smoothed."""

    kind: Literal["smoothed"]
    """The method."""
    share: Fraction = 0.1
    """What is taken from the right label and spread over all."""
