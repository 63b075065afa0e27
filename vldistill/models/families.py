"""The kinds of models: one table. Asking for a kind imports that one alone."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Any

FAMILIES = {
    "vilt": "vilt:Vilt",
    "dual_encoder": "vilt:ViltDual",
    "meter": "meter:Meter",
    "meter_dual": "meter:MeterDual",
    "oscar": "oscar:Oscar",
    "oscar_dual": "oscar:OscarDual",
    "clip_dual": "clip_dual:ClipDual",
    "uniter": "uniter:Uniter",
    "vlbert": "vlbert:VlBert",
    "visualbert": "visualbert:VisualBert",
    "lxmert": "lxmert:Lxmert",
    "pixelbert": "pixelbert:PixelBert",
    "clip_vil": "clip_vil:ClipVil",
    "text_encoder": "encoders:Text",
    "vision_encoder": "encoders:Vision",
}
"""Of each kind that a recipe or a model folder may name, the package below this one and how its classes begin: `section.py` has
the `...Section` of a recipe, without torch, and `family.py` the `...Family`."""


PUBLISHED = {"visual_bert": "visualbert", "lxmert": "lxmert"}
"""Kinds by the `model_type` of a published folder that is not ours; another one's is ViLT's."""


def class_of(kind: str, part: str) -> type[Any]:
    """part: "section" (see `recipe.schema.students`) or "family" (see `models.base.family.family_of`). Raises KeyError for a kind
    that is not in the table."""
    package, _, name = FAMILIES[kind].partition(":")
    return resolve_name(f"{__package__}.{package}.{part}:{name}{part.capitalize()}")
