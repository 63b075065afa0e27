"""What becomes of each weight of an official file when it is converted: a place under a name of ours, or none, for a reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vldistill.errors import InputError

LeftOut = tuple[str, str]
"""A pattern of our names, and why a model has no use for weights of such a name."""
CONSTANTS = "a table of constants"
FRESH = "the head of a task it was fine-tuned on: a student gets a fresh one"


@dataclass
class Account:
    """kept: our names by the file's. left_out: why, by the file's names."""

    kept: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def drop(self, name: str, why: str) -> None:
        """Notes that the weight of a name of ours is left out after all."""
        official = next(key for key, names in self.kept.items() if name in names)
        del self.kept[official]
        self.left_out[official] = why

    @property
    def by_reason(self) -> dict[str, list[str]]:
        """The file's names of what is left out."""
        reasons: dict[str, list[str]] = {}
        for name, why in self.left_out.items():
            reasons.setdefault(why, []).append(name)
        return reasons

    def to_manifest(self) -> dict[str, Any]:
        """Of the converted folder."""
        total = len(self.kept) + len(self.left_out)
        return {"weights": {"in_file": total, "kept": len(self.kept), "left_out": self.by_reason}}


def sort_out(
    official: Mapping[str, Tensor], place: Callable[[str, Tensor], dict[str, Tensor]], left_out: Sequence[LeftOut], where: str
) -> tuple[dict[str, Tensor], Account]:
    """An official file's weights under our names, and what became of each. place: of one weight, those that it becomes. left_out:
    the first pattern that finds something in a name counts. Raises InputError where two weights would have one name."""
    weights: dict[str, Tensor] = {}
    account, owners = Account(), {}
    for name, value in official.items():
        placed = place(name, value)
        why = next((why for pattern, why in left_out if any(re.search(pattern, own) for own in placed)), None)
        if why is not None:
            account.left_out[name] = why
            continue
        for own in placed:
            if own in owners:
                raise InputError(f"{owners[own]} and {name} would both be {own}", where=where, hint="is it one model's file?")
            owners[own] = name
        account.kept[name] = list(placed)
        weights |= placed
    return weights, account


def renaming(rules: Sequence[tuple[str, str]], before: Callable[[str], str] = str) -> Callable[[str, Tensor], dict[str, Tensor]]:
    """A `place` that applies patterns with their replacements, in order. before: applied to the name first."""

    def place(name: str, value: Tensor) -> dict[str, Tensor]:
        name = before(name)
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        return {name: value}

    return place
