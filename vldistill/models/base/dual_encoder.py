"""DiDE's dual encoders: a text tower and an image tower that meet only in a small MLP, so images are encoded once and cached
(DiDE, section 3.1; structure as the authors' code: each tower its own pooler, fusion MLP on [text; image]).

`DualEncoder` is the same for every fusion model that a dual encoder comes from; a kind is a class with its towers.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from vldistill.data.batch import ITM, MLM, Batch, Pretext, TextBatch, VisualBatch
from vldistill.data.text import WordTokenizer
from vldistill.models.base.checkpoint import Config, ModelSpec
from vldistill.models.base.fusion import by_record
from vldistill.models.base.heads import Pretrained, classifier
from vldistill.models.base.outputs import NOTHING, Capture, Encoded, Output, PairStates, QueryKey, Vectors, patches_only, with_cls


class Tower(Protocol):
    """What both towers have in common, as modules.

    `Encoded.qk` holds, of each layer asked for, the query and key that the other tower's key and query are matched with. words,
    types, positions, of_other_half: names of weights, as `fit_encoder` and heads of pre-training ask of every encoder.
    """

    config: Config
    words: str
    types: str | None
    positions: str | None

    def pool(self, hidden: Tensor) -> Tensor:
        """[B, S, D] to [B, D]."""

    def of_other_half(self, name: str) -> bool:
        """Whether a weight of the whole encoder has no place in this tower."""


class TextTower(Tower, Protocol):
    def encode_text(self, text: TextBatch, capture: Capture = NOTHING) -> Encoded:
        """The text alone, [B, T, D]."""


class ImageTower(Tower, Protocol):
    def encode_image(self, image: VisualBatch, position: int = 0, capture: Capture = NOTHING) -> Encoded:
        """The image alone, [B, 1 + N, D]: its CLS, then the N tokens that its mask speaks of. `position` is its place in its
        record. What is captured has the CLS in it, or not, as `DualEncoder.image_cls_in_views` says."""


class DualEncoder(Pretrained):
    """Two towers and a head. A record's images are fused with its text one by one and concatenated (NLVR2). With no `classes`, as
    in pre-training and retrieval, there is no head. pretraining: the tasks it has heads for: MLM's on the text tower, ITM's on
    the fusion MLP."""

    losses: ClassVar[dict[str, str]] = {}
    towers: ClassVar[tuple[str, str]] = ("text_encoder", "image_encoder")
    image_cls_in_views: ClassVar[bool] = True
    """Whether the fusion model that they come from has a CLS of the image too; else views, and what an image tower captures, are
    of the other tokens alone."""

    def __init__(self, text: TextTower, image: ImageTower, *, images: int, classes: int, pretraining: Collection[str] = ()):
        super().__init__()
        self.text_encoder, self.image_encoder = text, image
        width = text.config.hidden_size
        self.fusion = classifier(width * 2, width * 2, width, width=width)
        self.classifier = classifier(width * images, width * 2, classes, width=width) if classes else None
        self.add_heads(pretraining, width, text.config.vocab_size)

    @classmethod
    def from_spec(cls, spec: ModelSpec) -> DualEncoder:
        return cls(spec.encoder, images=spec.images, classes=spec.classes, pretraining=spec.pretraining)

    def new_weights(self, tower: str, weights: dict[str, Tensor], tokenizer: WordTokenizer) -> dict[str, Tensor]:
        """What a tower starts with and the fusion model's encoder, of these `weights`, does not have."""
        return {}

    @property
    def layers(self) -> int:
        return self.text_encoder.config.num_hidden_layers

    @property
    def width(self) -> int:
        return self.text_encoder.config.hidden_size

    def encode_text(self, text: TextBatch) -> Tensor:
        """[B, D] pooled text vectors."""
        return self.text_encoder.pool(self.text_encoder.encode_text(text).hidden)

    def encode_image(self, image: VisualBatch, position: int = 0) -> Tensor:
        """[B, D] pooled image vectors, which can be cached; `position` is the image's place in its record."""
        return self.image_encoder.pool(self.image_encoder.encode_image(image, position).hidden)

    def fuse(self, text: Tensor, images: list[Tensor]) -> Tensor:
        """Pooled vectors (text [B, D], one [B, D] per image) to logits [B, C], [B, 0] without a head."""
        if self.classifier is None:
            return text[:, :0]
        return self.classifier(torch.cat([self._fused(text, image) for image in images], dim=-1))

    def _fused(self, text: Tensor, image: Tensor) -> Tensor:
        return self.fusion(torch.cat([text, image], dim=-1))

    def forward(self, batch: Batch, capture: Capture = NOTHING) -> Output:
        """Logits [B, C] and one view per image; the text is encoded once, however many images there are, and an image once,
        however many choices. Of a `Pretext` one view of its pairs and what its heads say."""
        text = self.text_encoder.encode_text(batch.text, capture)
        images = [self.image_encoder.encode_image(image, place, capture) for place, image in enumerate(batch.images)]
        vectors = Vectors(self.text_encoder.pool(text.hidden), [self.image_encoder.pool(image.hidden) for image in images])
        if isinstance(batch, Pretext):
            return self._pretext(batch, text, images[0], vectors)
        own = torch.arange(len(batch), device=batch.text.ids.device)
        rows = own.repeat_interleave(batch.choices) if batch.choices > 1 else None
        beside = vectors.images if rows is None else [image[rows] for image in vectors.images]
        views = [
            self._view(batch.text, image_batch, text, image, None, rows)
            for image_batch, image in zip(batch.images, images, strict=True)
        ]
        return Output(by_record(self.fuse(vectors.text, beside), batch), views, vectors=vectors)

    def _pretext(self, batch: Pretext, text: Encoded, image: Encoded, vectors: Vectors) -> Output:
        nobody = batch.pairs[:0, 0]
        spoken = batch.pairs[batch.rows.get(MLM, nobody), 0]
        texts, images = batch.pairs[batch.rows.get(ITM, nobody)].unbind(dim=1)
        return Output(
            vectors.text[:, :0],
            [self._view(batch.text, batch.images[0], text, image, *batch.pairs.unbind(dim=1))],
            vectors=vectors,
            words=self.hidden_words(text.hidden[spoken], batch),
            matching=self.matching(self._fused(vectors.text[texts], vectors.images[0][images]), batch),
        )

    def _view(
        self,
        words: TextBatch,
        image_batch: VisualBatch,
        text: Encoded,
        image: Encoded,
        texts: Tensor | None,
        images: Tensor | None,
    ) -> PairStates:
        """Rows of texts beside rows of images, [R] each, or all in their order where these are None."""

        def rows(states: Tensor, chosen: Tensor | None) -> Tensor:
            return states if chosen is None else states[chosen]

        qk = {
            layer: QueryKey(*(rows(part, texts) for part in text.qk[layer]), *(rows(part, images) for part in image.qk[layer]))
            for layer in text.qk
        }
        hidden = {layer: (rows(text.layers[layer], texts), rows(image.layers[layer], images)) for layer in text.layers}
        tokens, visual = image_batch.mask, image_batch.mask
        if self.image_cls_in_views:
            tokens, visual = with_cls(tokens), patches_only(visual)
        return PairStates(rows(words.mask, texts), rows(tokens, images), rows(visual, images), qk, hidden)
