"""What a recipe says of an OSCAR, and of the dual encoder that comes from it."""

from __future__ import annotations

from typing import Literal

from vldistill.recipe.schema.student import Official, Student


class OscarSection(Student):
    """OSCAR, a fusion encoder over regions and their tags."""

    sees = "regions"
    fusion = "oscar"
    pretrains = ("mlm", "itm")
    official = (Official("oscar", "oscar.official", answers=True),)

    kind: Literal["oscar"]
    """What the student is."""


class OscarDualSection(Student):
    """The dual encoder that comes from an OSCAR."""

    sees = "regions"
    fusion = "oscar"
    dual = True
    pretrains = ("cmc", "mlm", "itm")
    ranks = "vectors"

    kind: Literal["oscar_dual"]
    """What the student is."""
