"""DiDE's dual encoder: a text tower and an image tower that meet only in a small MLP, so images are encoded once and cached
(DiDE, section 3.1; structure as the authors' code: each tower its own pooler, fusion MLP on [text; image]).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from vldistill.data.batch import Batch, ImageBatch, TextBatch
from vldistill.models.checkpoint import ModelSpec
from vldistill.models.fusion import by_record
from vldistill.models.heads import classifier
from vldistill.models.outputs import NOTHING, Capture, Output, QueryKey, Vectors, View
from vldistill.models.vilt import Encoded, EncoderConfig, ViltEncoder, patches_only, with_cls


class DualEncoder(nn.Module):
    """Two halves of a ViLT and a head. A record's images are fused with its text one by one and concatenated (NLVR2). With no
    `classes`, as in pre-training and retrieval, there is no head."""

    losses: ClassVar[dict[str, str]] = {}

    def __init__(self, config: EncoderConfig, *, images: int, classes: int):
        super().__init__()
        self.text_encoder = ViltEncoder(config, image=False)
        self.image_encoder = ViltEncoder(config, text=False)
        width = config.hidden_size
        self.fusion = classifier(width * 2, width * 2, width, width=width)
        self.classifier = classifier(width * images, width * 2, classes, width=width) if classes else None

    @classmethod
    def from_spec(cls, spec: ModelSpec) -> DualEncoder:
        return cls(spec.encoder, images=spec.images, classes=spec.classes)

    @property
    def layers(self) -> int:
        return self.text_encoder.config.num_hidden_layers

    def encode_text(self, text: TextBatch) -> Tensor:
        """[B, D] pooled text vectors."""
        return self.text_encoder.pool(self.text_encoder.encode_text(text).hidden)

    def encode_image(self, image: ImageBatch, position: int = 0) -> Tensor:
        """[B, D] pooled image vectors, which can be cached; `position` is the image's place in its record."""
        return self.image_encoder.pool(self.image_encoder.encode_image(image, position).hidden)

    @property
    def width(self) -> int:
        return self.text_encoder.config.hidden_size

    def fuse(self, text: Tensor, images: list[Tensor]) -> Tensor:
        """Pooled vectors (text [B, D], one [B, D] per image) to logits [B, C], [B, 0] without a head."""
        if self.classifier is None:
            return text[:, :0]
        pairs = [self.fusion(torch.cat([text, image], dim=-1)) for image in images]
        return self.classifier(torch.cat(pairs, dim=-1))

    def forward(self, batch: Batch, capture: Capture = NOTHING) -> Output:
        """Logits [B, C] and one view per image; the text is encoded once, however many images there are, and an image once,
        however many choices."""
        text = self.text_encoder.encode_text(batch.text, capture)
        images = [self.image_encoder.encode_image(image, place, capture) for place, image in enumerate(batch.images)]
        vectors = Vectors(self.text_encoder.pool(text.hidden), [self.image_encoder.pool(image.hidden) for image in images])
        beside = [image.repeat_interleave(batch.choices, 0) for image in vectors.images]
        logits = by_record(self.fuse(vectors.text, beside), batch)
        views = [_view(batch, shown.mask, text, image) for shown, image in zip(batch.images, images, strict=True)]
        return Output(logits, views, vectors=vectors)


def _view(batch: Batch, mask: Tensor, text: Encoded, image: Encoded) -> View:
    """The image's states stand beside each of a record's sequences."""

    def beside(states: Tensor) -> Tensor:
        return states if batch.choices == 1 else states.repeat_interleave(batch.choices, 0)

    qk = {layer: QueryKey(*text.qk[layer], *map(beside, image.qk[layer])) for layer in text.qk}
    hidden = {layer: (text.layers[layer], beside(image.layers[layer])) for layer in text.layers}
    return View(batch.text.mask, beside(with_cls(mask)), beside(patches_only(mask)), qk, hidden)
