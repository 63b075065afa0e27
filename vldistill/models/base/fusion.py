"""Fusion models: an encoder that reads text and image together, with a task head; teachers, baselines, and students."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from vldistill.data.batch import ITM, MLM, Batch, Pretext, TextBatch, VisualBatch
from vldistill.models.base.checkpoint import Config, ModelSpec
from vldistill.models.base.heads import Pretrained, classifier
from vldistill.models.base.outputs import NOTHING, Capture, Output, PairStates


@dataclass(frozen=True)
class FusionStates:
    """Texts read with an image each. pooled: [S, D'], by which heads judge a pair. words: [S, T, D] final states of the text."""

    pooled: Tensor
    words: Tensor
    view: PairStates


class Fusion(Pretrained, ABC):
    """An encoder and its head; with two images, one pass each, and the pooled vectors concatenated (NLVR2). `classes` is 1 for a
    task with choices, each of which is read with the image and given one logit; with 0, as in pre-training, there is no head.
    pretraining: the tasks it has heads for; that for retrieval scores a pair by one logit. pooled: width of the pooled vectors.

    A kind of fusion model says in `towers` what it calls its encoder, and how that reads a pair (`read`). The encoder says which
    of its weights are word embeddings (`words`) and image types (`types`).
    """

    losses: ClassVar[dict[str, str]] = {}
    """The task losses that are its own, by target; the others are the plain ones."""
    towers: ClassVar[tuple[str]]

    def __init__(
        self, encoder: nn.Module, config: Config, *, pooled: int, images: int, classes: int, pretraining: Collection[str] = ()
    ):
        super().__init__()
        setattr(self, self.towers[0], encoder)
        self.config = config
        self.classifier = self.head(pooled * images, config.hidden_size * 2, classes) if classes else None
        self.add_heads(pretraining, config.hidden_size, config.vocab_size, pooled)

    @classmethod
    def from_spec(cls, spec: ModelSpec) -> Fusion:
        return cls(spec.encoder, images=spec.images, classes=spec.classes, pretraining=spec.pretraining)

    def head(self, inputs: int, hidden: int, classes: int) -> nn.Module:
        """The task head."""
        return classifier(inputs, hidden, classes, width=self.config.hidden_size)

    @abstractmethod
    def read(self, text: TextBatch, image: VisualBatch, position: int, capture: Capture) -> FusionStates:
        """S texts and as many images; `position` is an image's place in its record."""

    @property
    def layers(self) -> int:
        return self.config.num_hidden_layers

    @property
    def width(self) -> int:
        return self.config.hidden_size

    def forward(self, batch: Batch, capture: Capture = NOTHING) -> Output:
        """Logits [B, C] and one view per image; of a `Pretext` one view of its pairs and what its heads say."""
        if isinstance(batch, Pretext):
            return self._pretext(batch, capture)
        read = [
            self.read(batch.text, batch.image_for_each_text(position), position, capture) for position in range(len(batch.images))
        ]
        joined, views = torch.cat([one.pooled for one in read], dim=-1), [one.view for one in read]
        head = self.rank_output if self.classifier is None else self.classifier
        return Output(joined[:, :0] if head is None else by_record(head(joined), batch), views)

    def _pretext(self, batch: Pretext, capture: Capture) -> Output:
        pairs, nobody = batch.joint(), batch.pairs[:0, 0]
        read = self.read(pairs.text, pairs.images[0], 0, capture)
        pooled = read.pooled[batch.rows.get(ITM, nobody)]
        return Output(
            pooled[:, :0],
            [read.view],
            words=self.hidden_words(read.words[batch.rows.get(MLM, nobody)], batch),
            matching=self.matching(pooled, batch),
        )


def by_record(logits: Tensor, batch: Batch) -> Tensor:
    """[S, C] to [B, C]; where records have choices, [S, 1] to [B, choices]."""
    return logits.view(len(batch), -1) if batch.choices > 1 else logits
