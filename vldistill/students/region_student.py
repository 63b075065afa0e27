"""What UNITER and VL-BERT have in common as students of one image's regions."""

from __future__ import annotations

from typing import ClassVar, TypeVar

from torch import nn

from vldistill.models.bert import RegionBertConfig
from vldistill.models.checkpoint import ModelSpec

Own = TypeVar("Own", bound="RegionStudent")


class RegionStudent(nn.Module):
    """target: the task's, see `TaskSpec`; it decides the head. losses: the task losses that are its own, by target."""

    losses: ClassVar[dict[str, str]] = {}

    def __init__(self, config: RegionBertConfig, target: str):
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
