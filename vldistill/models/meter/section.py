"""What a recipe says of a METER, and of the dual encoder that comes from it."""

from __future__ import annotations

from typing import Literal

from vldistill.recipe.schema.student import Official, PatchSizes, Student

_ROBERTA = "give the folder of its RoBERTa, with vocab.json and merges.txt"


class MeterSection(Student):
    """METER: a text and a vision encoder whose streams meet in layers of co-attention, all of `sizes`."""

    fusion = "meter"
    pretrains = ("mlm", "itm")
    attentions = ("cross", "none")  # the streams meet in cross-attention alone
    official = (Official("meter", "meter.official", _ROBERTA, answers=True, cased=False),)

    kind: Literal["meter"]
    """What the student is."""
    sizes: PatchSizes = PatchSizes()
    """Of one from scratch."""


class MeterDualSection(Student):
    """The dual encoder that comes from a METER."""

    fusion = "meter"
    dual = True
    pretrains = ("cmc", "mlm", "itm")
    ranks = "vectors"
    attentions = ("cross", "none")

    kind: Literal["meter_dual"]
    """What the student is."""
    sizes: PatchSizes = PatchSizes()
    """Of one from scratch."""
