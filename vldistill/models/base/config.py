"""What the sizes of all models have in common: they are written to a config.json and read from it."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any, TypeVar

Own = TypeVar("Own", bound="ModelConfig")


class ModelConfig:
    """A base of frozen dataclasses."""

    @classmethod
    def from_dict(cls: type[Own], values: dict[str, Any]) -> Own:
        """Reads the fields it knows out of a config.json."""
        names = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in names})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def described(self) -> dict[str, Any]:
        """The sizes that tell one from another, for people."""
        return {"layers": getattr(self, "num_hidden_layers", None), "width": getattr(self, "hidden_size", None)}

    def visual_signature(self) -> dict[str, int]:
        """What two models must agree on to be shown the same tokens of an image."""
        return {name: getattr(self, name) for name in ("patch_size", "region_size") if hasattr(self, name)}

    def library(self, classes: int) -> dict[str, Any]:
        """What else the library that reads the folder wants to find in its config.json. classes: of the head, 0 without one."""
        return {}
