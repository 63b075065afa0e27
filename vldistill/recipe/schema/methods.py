"""The union over all methods' sections, told apart by `kind`."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from vldistill.training.methods.table import METHODS

if TYPE_CHECKING:
    from vldistill.recipe.schema.objectives import ObjectiveSection as Objective
else:
    _SECTIONS = tuple(resolve_name(f"vldistill.{section}") for section, _ in METHODS.values())
    Objective = Annotated[Union[_SECTIONS], Field(discriminator="kind")]  # noqa: UP007 (of a tuple)
