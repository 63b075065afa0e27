"""What a recipe says of the baseline Lxmert."""

from __future__ import annotations

from typing import Literal

from vldistill.recipe.schema.student import Baseline


class LxmertSection(Baseline):
    """Lxmert of transformers, over regions."""

    sees = "regions"

    kind: Literal["lxmert"]
    """What the student is."""
