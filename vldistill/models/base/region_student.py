"""What UNITER, VL-BERT and other students of one sequence for each image have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from vldistill.data.batch import Batch, TextBatch, VisualBatch
from vldistill.models.base.checkpoint import ModelSpec
from vldistill.models.base.config import ModelConfig
from vldistill.models.base.fusion import by_record
from vldistill.models.base.outputs import NOTHING, Capture, Output, PairStates

Own = TypeVar("Own", bound="RegionStudent")
OwnPair = TypeVar("OwnPair", bound="PairStudent")


class RegionStudent(nn.Module):
    """target: the task's, see `TaskSpec`; it decides the head. losses: the task losses that are its own, by target."""

    losses: ClassVar[dict[str, str]] = {}

    def __init__(self, config: ModelConfig, target: str):
        super().__init__()
        self.config, self.target = config, target

    @classmethod
    def from_spec(cls: type[Own], spec: ModelSpec) -> Own:
        return cls(spec.encoder, classes=spec.classes, target=spec.target)

    @property
    def layers(self) -> int:
        return self.config.num_hidden_layers

    @property
    def width(self) -> int:
        return self.config.hidden_size


class PairStudent(RegionStudent):
    """One whose records may have two images."""

    @classmethod
    def from_spec(cls: type[OwnPair], spec: ModelSpec) -> OwnPair:
        return cls(spec.encoder, images=spec.images, classes=spec.classes, target=spec.target)


class JoinedStudent(PairStudent, ABC):
    """A fusion baseline with a `classifier`. Where a record has two images, each is read with the text by the same weights, and
    the pooled vectors are joined, first image first, as LXMERT and OSCAR do on NLVR2."""

    @abstractmethod
    def see(self, text: TextBatch, image: VisualBatch) -> tuple[Tensor, PairStates]:
        """The pooled vector [S, D] of each text beside its image, and what it was read from."""

    def forward(self, batch: Batch, capture: Capture = NOTHING) -> Output:
        """Logits [B, C] and one view per image; nothing is captured."""
        pooled, views = zip(
            *(self.see(batch.text, batch.image_for_each_text(place)) for place in range(len(batch.images))), strict=True
        )
        return Output(by_record(self.classifier(torch.cat(pooled, dim=-1)), batch), list(views))
