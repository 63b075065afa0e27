"""The kinds of models: one table. Asking for a kind imports that one alone."""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vldistill.models.base.family import Family
    from vldistill.recipe.schema.student import Student

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


@dataclass(frozen=True)
class Official:
    """A layout of official checkpoints, which the `LAYOUT` of a module below this package reads. vocabulary: what tokens come
    from, "" where the layout brings its own. answers: whether a file may be of a task, and of VQA without its answers. cased:
    whether its vocabulary may be of either case."""

    name: str
    module: str
    vocabulary: str = "give the vocab.txt of its BERT: cased for uniter, uncased for the others"
    answers: bool = False
    cased: bool = True

    def convert(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Writes the model folder, see `OfficialLayout.convert`; returns what the model is, for people."""
        layout = resolve_name(f"{__package__}.{self.module}:LAYOUT")
        return layout.facts(layout.convert(*arguments, **options))


def official_layouts() -> dict[str, Official]:
    """Those of all kinds, by name."""
    return {layout.name: layout for kind in FAMILIES for layout in section_of(kind).official}


def section_of(kind: str) -> type[Student]:
    """What a recipe says of such a student. Raises KeyError for a kind that is not in the table."""
    return _class_of(kind, "section")


def family_of(kind: str) -> Family:
    """Raises KeyError for a kind that is not in the table."""
    return _class_of(kind, "family")()


def families() -> list[Family]:
    """All of them."""
    return [family_of(kind) for kind in FAMILIES]


def _class_of(kind: str, part: str) -> Any:
    package, _, name = FAMILIES[kind].partition(":")
    return resolve_name(f"{__package__}.{package}.{part}:{name}{part.capitalize()}")
