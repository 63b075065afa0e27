"""What `analyze` has left beside a report's runs: its pictures, and how much they attend to each modality, before and after
distillation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from vldistill.evaluation.report.grid import Group
from vldistill.places import read_regular

FIGURES = "figures"
"""Below a run."""
VIEWS = {
    "modality": "attention on each modality",
    "tokens": "attention on words",
    "words": "selected words",
    "attention": "attention of words over the image",
}
_LARGEST = 4 << 20
"""Bytes of a picture that a page takes in."""


@dataclass(frozen=True)
class Picture:
    """name: the run's. view: what it shows. short: whether it takes little of a page, so that it need not be unfolded."""

    name: str
    view: str
    png: bytes
    short: bool


def pictures(groups: Sequence[Group]) -> list[Picture]:
    """Those of each group's first run that has any, but none too large for a page."""
    chosen = []
    for group in groups:
        for run in group.runs:
            name = f"{group.name}/seed{run.seed}"
            own = [
                Picture(name, title, read_regular(path), view == "modality")
                for view, title in VIEWS.items()
                if (path := run.folder / FIGURES / f"{view}.png").is_file() and path.stat().st_size <= _LARGEST
            ]
            if own:
                chosen += own
                break
    return chosen


@dataclass(frozen=True)
class Importance:
    """Mean attention of [CLS] over heads and layers, in [0, 1], on visual and on text tokens (ADVL, Fig. 8)."""

    vision: float
    text: float

    @property
    def gap(self) -> float:
        """By how much text outweighs vision."""
        return self.text - self.vision


@dataclass(frozen=True)
class Shift:
    """A run's importance before it was trained, None where that was not read, and after. split: of the records."""

    name: str
    split: str
    before: Importance | None
    after: Importance


def modality_shifts(groups: Sequence[Group]) -> list[Shift]:
    """Of each run that has been analysed, in order."""
    shifts = []
    for group in groups:
        for run in group.runs:
            path = run.folder / FIGURES / "modality.json"
            try:
                content = json.loads(read_regular(path))
                before, after = (_importance(content["averages"].get(when)) for when in ("before", "after"))
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
            if after is not None:
                shifts.append(Shift(f"{group.name}/seed{run.seed}", str(content.get("split", "")), before, after))
    return shifts


def _importance(averages: dict[str, float] | None) -> Importance | None:
    return None if averages is None else Importance(float(averages["vision"]), float(averages["text"]))
