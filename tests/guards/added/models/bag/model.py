"""A bag of words and patches: means of both, and a linear head on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from vldistill.data.batch import Batch
from vldistill.models.base.checkpoint import ModelConfig
from vldistill.models.base.outputs import NOTHING, Capture, Output


@dataclass(frozen=True)
class BagConfig(ModelConfig):
    """vocab_size: of the words. hidden_size: of what stands for a word, and for a patch. patch_size: in pixels."""

    vocab_size: int
    hidden_size: int
    patch_size: int
    hidden_dropout_prob: float
    max_position_embeddings: int
    num_hidden_layers: int = 1


class Bag(nn.Module):
    """Knows no order, of words as of patches."""

    losses: ClassVar[dict[str, str]] = {}

    def __init__(self, config: BagConfig, classes: int):
        super().__init__()
        self.layers, self.width = config.num_hidden_layers, config.hidden_size
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.patches = nn.Linear(3 * config.patch_size**2, config.hidden_size)
        self.classifier = nn.Linear(2 * config.hidden_size, classes)

    @classmethod
    def from_spec(cls, spec) -> Bag:
        return cls(spec.encoder, spec.classes)

    def forward(self, batch: Batch, capture: Capture = NOTHING) -> Output:
        """Logits [B, C]; nothing is captured."""
        image = batch.images[0]
        means = _mean(self.words(batch.text.ids), batch.text.mask), _mean(self.patches(image.patches), image.mask)
        return Output(self.classifier(torch.cat(means, dim=-1)), [])


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    """[B, D] of [B, S, D], over what is there."""
    return (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
