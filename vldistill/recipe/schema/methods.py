"""The union over all methods' sections, told apart by `kind`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from vldistill.training.methods.table import METHODS, section_of

if TYPE_CHECKING:
    from vldistill.recipe.schema.objectives import ObjectiveSection as Objective
else:
    Objective = Annotated[Union[tuple(map(section_of, METHODS))], Field(discriminator="kind")]  # noqa: UP007 (of a tuple)
