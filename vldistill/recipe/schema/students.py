"""The union over all families' sections, told apart by `kind`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Union

from pydantic import Field

from vldistill.models.families import FAMILIES, class_of
from vldistill.recipe.schema.student import Official, Student

STUDENTS: dict[str, type[Student]] = {kind: class_of(kind, "section") for kind in FAMILIES}
TEACHERS = tuple(kind for kind, section in STUDENTS.items() if section.fusion == kind)
"""Kinds of fusion models, which can teach."""

if TYPE_CHECKING:
    AnyStudent = Student
    TeacherKind = str
else:
    AnyStudent = Annotated[Union[tuple(STUDENTS.values())], Field(discriminator="kind")]  # noqa: UP007 (of a tuple)
    TeacherKind = Literal[TEACHERS]


def fitting(attribute: str, between: str = ", ") -> str:
    """The kinds of students that have an attribute of `Student`, for a message."""
    return between.join(kind for kind, section in STUDENTS.items() if getattr(section, attribute))


def official_layouts() -> dict[str, Official]:
    """Layouts of official checkpoints, of all kinds, by name."""
    return {layout.name: layout for section in STUDENTS.values() for layout in section.official}
