"""The methods: one table, by the kind of a recipe's `objective`. Asking for one imports that one alone."""

from __future__ import annotations

from functools import cache
from pkgutil import resolve_name
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vldistill.recipe.schema.objectives import ObjectiveSection
    from vldistill.training.methods.base import Method

METHODS = {
    "labels": ("recipe.schema.objectives:LabelsObjective", "training.methods.labels:Labels"),
    "dide": ("recipe.schema.objectives:DideObjective", "training.methods.dide:Dide"),
    "advl": ("recipe.schema.objectives:AdvlObjective", "training.methods.advl:AdvlMethod"),
    "pretrain": ("recipe.schema.objectives:PretrainObjective", "training.methods.pretrain:Pretrain"),
    "retrieval": ("recipe.schema.objectives:RetrievalObjective", "training.methods.retrieval:Retrieval"),
}
"""Of each kind its section of a recipe, which imports no torch, and its method; below `vldistill`. A kind that is not here is an
error, and never trains on labels instead."""


def section_of(kind: str) -> type[ObjectiveSection]:
    """What a recipe says of a method. Raises KeyError for a kind that is not in the table."""
    return resolve_name(f"vldistill.{METHODS[kind][0]}")


@cache
def method_of(kind: str) -> Method:
    """Raises KeyError for a kind that is not in the table."""
    return resolve_name(f"vldistill.{METHODS[kind][1]}")()
