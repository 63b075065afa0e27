"""The kinds of models: one table. Asking for a kind imports that one alone."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vldistill.models.base.family import Family

FAMILIES = {
    "vilt": "vilt.family:Vilt",
    "dual_encoder": "vilt.family:ViltDual",
    "uniter": "uniter.family:UniterFamily",
    "vlbert": "vlbert.family:VlBertFamily",
    "clip_vil": "clip_vil.family:ClipVilFamily",
    "visualbert": "visualbert.family:VisualBertFamily",
    "lxmert": "lxmert.family:LxmertFamily",
    "pixelbert": "pixelbert.family:PixelBertFamily",
    "text_encoder": "encoders.family:TextFamily",
    "vision_encoder": "encoders.family:VisionFamily",
    "meter": "meter.family:MeterFamily",
    "meter_dual": "meter.family:MeterDualFamily",
    "oscar": "oscar.family:OscarFamily",
    "oscar_dual": "oscar.family:OscarDualFamily",
    "clip_dual": "clip_dual.family:ClipDualFamily",
}
"""Of each kind that a recipe or a model folder may name, the class that says what it is, below this package."""


PUBLISHED = {"visual_bert": "visualbert", "lxmert": "lxmert"}
"""Kinds by the `model_type` of a published folder that is not ours; another one's is ViLT's."""


def family_of(kind: str) -> Family:
    """Raises KeyError for a kind that is not in the table."""
    module, _, name = FAMILIES[kind].partition(":")
    return getattr(import_module(f"{__package__}.{module}"), name)()


def families() -> list[Family]:
    """All of them."""
    return [family_of(kind) for kind in FAMILIES]
