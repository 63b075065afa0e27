"""What UNITER, VL-BERT and other students of one sequence for each image have in common: their passes, their sizes from
scratch, and the BERT of `transformers` that they start from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from vldistill.data.batch import Batch, TextBatch, VisualBatch
from vldistill.data.records import read_json
from vldistill.data.text import WordTokenizer
from vldistill.errors import InputError
from vldistill.models.base.bert import RegionBertConfig
from vldistill.models.base.checkpoint import ModelConfig, ModelSpec, read_weights, resolve_model
from vldistill.models.base.family import StudentRequest, common_sizes
from vldistill.models.base.fusion import by_record
from vldistill.models.base.official import current_name
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


# What BERT's own pre-training leaves in a published checkpoint, and a buffer of constants.
_LEFT_OUT = ("cls.", "embeddings.position_ids")


def read_bert(source: str) -> tuple[RegionBertConfig, dict[str, Tensor], Path] | None:
    """Sizes, weights under a student's names and the folder of a BERT in transformers' layout; None where `source` is another
    model. Raises InputError where it cannot be read, or is a BERT of another kind."""
    folder = resolve_model(source)
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or config.get("model_type") != "bert":
        return None
    if config.get("hidden_act", "gelu") != "gelu" or config.get("type_vocab_size", 2) < 2:
        raise InputError(
            "is a BERT of another kind: GELU and two segments are expected",
            where=str(folder),
            hint="for example google-bert/bert-base-uncased",
        )
    weights = {}
    for name, value in read_weights(folder).items():
        name = current_name(name.removeprefix("bert."))
        if not name.startswith(_LEFT_OUT):
            weights[f"bert.{name}"] = value
    return RegionBertConfig.from_dict(config), weights, folder


Sizes = TypeVar("Sizes", bound=RegionBertConfig)
SEGMENTS = 3
"""Two of a text, and the regions'."""


def region_sizes(config: type[Sizes], request: StudentRequest, tokenizer: WordTokenizer) -> Sizes:
    """Two positions lie behind the text: VL-BERT's regions and [END] take them."""
    return config(
        **common_sizes(request, tokenizer),
        attention_probs_dropout_prob=request.dropout,
        region_size=request.region_size,
        max_position_embeddings=request.max_length + 2,
        type_vocab_size=SEGMENTS,
    )
