"""What a recipe says of the baseline VisualBert."""

from __future__ import annotations

from typing import Literal

from vldistill.recipe.schema.student import Baseline


class VisualBertSection(Baseline):
    """VisualBert of transformers, over regions."""

    sees = "regions"

    kind: Literal["visualbert"]
    """What the student is."""
