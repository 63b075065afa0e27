"""What a recipe says of a ViLT, and of the dual encoder that comes from it."""

from __future__ import annotations

from typing import Literal

from vldistill.recipe.schema.student import Official, Student, TableSizes


class ViltSection(Student):
    """ViLT, a fusion encoder over patches; a fine-tuned one is a teacher of DiDE."""

    fusion = "vilt"
    pretrains = ("mlm", "itm")
    ranks = "pairs"
    official = (Official("vilt", "vilt.official", answers=True),)

    kind: Literal["vilt"]
    """What the student is."""
    sizes: TableSizes = TableSizes()
    """Of one from scratch."""


class ViltDualSection(Student):
    """DiDE's dual encoder: two towers that come from a ViLT."""

    fusion = "vilt"
    dual = True
    pretrains = ("cmc", "mlm", "itm")
    ranks = "vectors"

    kind: Literal["dual_encoder"]
    """What the student is."""
    sizes: TableSizes = TableSizes()
    """Of one from scratch."""
