"""The fusion encoder with a task head: ViLT as teacher, as baseline, and as student.

Names are `transformers`' (`vilt.*`, `classifier.{0,1,3}`), so a saved folder loads there too.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

import torch
from torch import Tensor

from vldistill.data.batch import Batch, ImageBatch, TextBatch
from vldistill.data.pretext import ITM, MLM, Pretext
from vldistill.models.checkpoint import ModelSpec
from vldistill.models.heads import classifier
from vldistill.models.outputs import NOTHING, Capture, Output, QueryKey, View
from vldistill.models.pretraining import Pretrained
from vldistill.models.vilt import Encoded, EncoderConfig, ViltEncoder, patches_only, with_cls


class FusionModel(Pretrained):
    """ViLT and its head on the pooled text CLS; with two images, one pass each, and the two pooled vectors concatenated
    (NLVR2). `classes` is 1 for a task with choices, each of which is read with the image and given one logit; with 0, as in
    pre-training, there is no head. pretraining: the tasks it has heads for; that for retrieval scores a pair by one logit."""

    losses: ClassVar[dict[str, str]] = {}
    """The task losses that are its own, by target; the others are the plain ones."""

    def __init__(self, config: EncoderConfig, *, images: int, classes: int, pretraining: Collection[str] = ()):
        super().__init__()
        self.vilt = ViltEncoder(config)
        width = config.hidden_size
        self.classifier = classifier(width * images, width * 2, classes, width=width) if classes else None
        self.add_heads(pretraining, width, config.vocab_size)

    @classmethod
    def from_spec(cls, spec: ModelSpec) -> FusionModel:
        return cls(spec.encoder, images=spec.images, classes=spec.classes, pretraining=spec.pretraining)

    @property
    def layers(self) -> int:
        return self.vilt.config.num_hidden_layers

    @property
    def width(self) -> int:
        return self.vilt.config.hidden_size

    def forward(self, batch: Batch, capture: Capture = NOTHING) -> Output:
        """Logits [B, C] and one view per image; of a `Pretext` one view of its pairs and what its heads say."""
        if isinstance(batch, Pretext):
            return self._pretext(batch, capture)
        pooled, views = [], []
        for position in range(len(batch.images)):
            image = batch.image_for_each_text(position)
            encoded = self.vilt.encode_pair(batch.text, image, position, capture)
            pooled.append(self.vilt.pool(encoded.hidden))
            views.append(_view(batch.text, image, encoded))
        joined = torch.cat(pooled, dim=-1)
        head = self.rank_output if self.classifier is None else self.classifier
        return Output(joined[:, :0] if head is None else by_record(head(joined), batch), views)

    def _pretext(self, batch: Pretext, capture: Capture) -> Output:
        pairs, nobody = batch.joint(), batch.pairs[:0, 0]
        encoded = self.vilt.encode_pair(pairs.text, pairs.images[0], 0, capture)
        states = encoded.hidden[batch.rows.get(MLM, nobody), : pairs.text.ids.shape[1]]
        pooled = self.vilt.pool(encoded.hidden[batch.rows.get(ITM, nobody)])
        return Output(pooled[:, :0], [_view(pairs.text, pairs.images[0], encoded)], words=self.hidden_words(states, batch),
                      matching=self.matching(pooled, batch))


def by_record(logits: Tensor, batch: Batch) -> Tensor:
    """[S, C] to [B, C]; where records have choices, [S, 1] to [B, choices]."""
    return logits.view(len(batch), -1) if batch.choices > 1 else logits


def _view(text: TextBatch, image: ImageBatch, encoded: Encoded) -> View:
    length = text.ids.shape[1]
    qk = {layer: _split(query, key, length) for layer, (query, key) in encoded.qk.items()}
    hidden = {layer: (states[:, :length], states[:, length:]) for layer, states in encoded.layers.items()}
    return View(text.mask, with_cls(image.mask), patches_only(image.mask), qk, hidden)


def _split(query: Tensor, key: Tensor, length: int) -> QueryKey:
    return QueryKey(query[:, :, :length], key[:, :, :length], query[:, :, length:], key[:, :, length:])
