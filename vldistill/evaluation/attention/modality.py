"""Modality importance of every head (ADVL, Fig. 8): the attention of [CLS] on visual and on text tokens, mean over records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vldistill.data.artifact import DataArtifact
from vldistill.data.records import Record
from vldistill.evaluation.attention.importance import modality_mass
from vldistill.evaluation.attention.reading import attended, open_one_stream
from vldistill.models.base.outputs import Capture

BATCH = 16


@dataclass(frozen=True)
class ModalityImportance:
    """run: whose. vision, text: [L, H] means in [0, 1], layers from the first."""

    run: str
    vision: np.ndarray
    text: np.ndarray

    @property
    def averages(self) -> dict[str, float]:
        """Over heads and layers, and by how much text outweighs vision."""
        vision, text = float(self.vision.mean()), float(self.text.mean())
        return {"vision": vision, "text": text, "gap": text - vision}

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.run,
            **{name: np.round(values, 6).tolist() for name, values in (("vision", self.vision), ("text", self.text))},
        }


@dataclass(frozen=True)
class ModalityView:
    """before: of a run without distillation, if one was named. records: how many were read. first_only: of [CLS], or of all
    tokens."""

    split: str
    data: str
    records: int
    first_only: bool
    before: ModalityImportance | None
    after: ModalityImportance

    @property
    def models(self) -> list[tuple[str, ModalityImportance]]:
        return [("before", self.before)] * (self.before is not None) + [("after", self.after)]

    @property
    def summary(self) -> str:
        whose = "[CLS]" if self.first_only else "all tokens"
        return (
            f"Attention of {whose} on visual and on text tokens, mean over {self.records:,} records of {self.data}, "
            f"{self.split} (ADVL, Fig. 8)."
        )

    def to_json(self) -> dict[str, Any]:
        """What `report` reads: `averages` by "before" and "after"."""
        results = dict(self.models)
        return {
            "split": self.split,
            "data": self.data,
            "records": self.records,
            "queries": "cls" if self.first_only else "all",
            "averages": {
                name: {key: round(value, 6) for key, value in measured.averages.items()} for name, measured in results.items()
            },
            **{name: measured.to_json() for name, measured in results.items()},
        }


def view_modality(
    run: str, before: str | None, data: DataArtifact, records: Sequence[Record], split: str, *, first_only: bool
) -> ModalityView:
    """Reads the records with both models. Raises InputError where one of them does not attend to both modalities at once."""
    measured = {
        name: modality_importance(source, data, records, first_only=first_only)
        for name, source in (("before", before), ("after", run))
        if source is not None
    }
    return ModalityView(split, data.folder.name, len(records), first_only, measured.get("before"), measured["after"])


def modality_importance(source: str, data: DataArtifact, records: Sequence[Record], *, first_only: bool) -> ModalityImportance:
    """Of one model. All sequences of a record count, and each of its images."""
    opened = open_one_stream(source, data)
    layers, total, count = range(1, opened.model.layers + 1), 0, 0
    for _, output in attended(opened, data, records, Capture(qk=tuple(layers)), BATCH):
        for view in output.views:
            mass = torch.stack([modality_mass(view, layer, first_only=first_only) for layer in layers])  # [L, S, H, 2]
            total, count = total + mass.double().sum(dim=1), count + mass.shape[1]
    mean = (total / count).cpu().numpy()
    return ModalityImportance(source, mean[..., 0], mean[..., 1])
