"""What all sections of a recipe are built of."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from typing_extensions import dataclass_transform


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
class _Frozen(type(BaseModel)):
    """So that type checkers know what all sections are, and let one narrow its parent's fields."""


class Section(BaseModel, metaclass=_Frozen):
    """Fields with a docstring each, which the reference of recipes is made of."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True)


def _at_home(path: str) -> str:
    """`~/models` as the shell opens it; other names as they are."""
    return os.path.expanduser(path) if path.startswith("~/") else path  # noqa: PTH111 (a hub's name is no path)


Place = Annotated[str, AfterValidator(_at_home)]
"""A path, or a name that may be one."""


def is_folder_name(name: str) -> bool:
    """Whether a text names a folder within another one, and neither a hidden one nor a way out."""
    return name.isprintable() and not set("/\\") & set(name) and not name.startswith((".", "~")) and name.strip() == name != ""


# No machine holds more of anything; what is larger is a slip of the finger, and libraries answer it by a traceback or an abort.
Positive = Annotated[int, Field(gt=0, le=10**9)]
Natural = Annotated[int, Field(ge=0, le=10**9)]
Side = Annotated[int, Field(gt=0, le=2**14)]
"""Of an image, in pixels."""
Width = Annotated[int, Field(gt=0, le=2**17)]
"""Of a layer, in features."""
Depth = Annotated[int, Field(gt=0, le=2**10)]
"""Of a network, in layers; or heads of one."""
Fraction = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]
