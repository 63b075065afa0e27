"""What tests ask of a student, as a recipe would."""

from __future__ import annotations

from typing import Any

from vldistill.models.base.family import StudentRequest
from vldistill.recipe.schema.students import STUDENTS


def asked(
    kind: str,
    task: str,
    images: int,
    labels: list[str],
    image_size: int,
    max_length: int,
    dropout: float,
    *,
    own: dict[str, Any] | None = None,
    **changed: Any,
) -> StudentRequest:
    """own: further fields of the kind's section. changed: of the request."""
    section = STUDENTS[kind](kind=kind, dropout=dropout, **(own or {}))
    return StudentRequest(section, task, images, labels, image_size, max_length, **changed)


def sizes(layers: int = 2, width: int = 16, heads: int = 2, feedforward: int = 24, **others: int) -> dict[str, int]:
    """Of a student from scratch, as its section has them."""
    return {"layers": layers, "width": width, "heads": heads, "feedforward": feedforward, **others}
