"""UNITER (Chen et al., 2020), base and large, with its heads for VCR, SNLI-VE, VQA and NLVR2; VILLA has the same model.

Parameter names are the official checkpoints' (`uniter.*`). Text and regions meet in one BERT; regions have no position but their
box. On VCR each choice is judged by two classes of its own, wrong and right.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from vldistill.data.batch import Batch, RegionBatch, TextBatch
from vldistill.models.base.bert import BertEncoder, BertPooler, BertStates, RegionBertConfig, TextEmbeddings, encode
from vldistill.models.base.fusion import by_record
from vldistill.models.base.heads import init_weights, initial_std, late_norm_classifier
from vldistill.models.base.outputs import NOTHING, Capture, Output
from vldistill.models.base.region_student import PairStudent

REGION_TYPE = 1
BOX = 7
"""x1, y1, x2, y2, width, height, area, all as shares of the image's."""
TYPES = 4
"""Question, region, answer, rationale."""


class RegionEmbeddings(nn.Module):
    """Feature and box, each mapped and normed, + type, norm, dropout."""

    def __init__(self, config: RegionBertConfig):
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.img_linear = nn.Linear(config.region_size, width)
        self.img_layer_norm = nn.LayerNorm(width, eps=eps)
        self.pos_layer_norm = nn.LayerNorm(width, eps=eps)
        self.pos_linear = nn.Linear(BOX, width)
        # Of use in pre-training only, but the checkpoints have it.
        self.mask_embedding = nn.Embedding(2, config.region_size, padding_idx=0).requires_grad_(False)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, regions: RegionBatch, kind: Tensor, delta: Tensor | None) -> Tensor:
        features = regions.features if delta is None else regions.features + delta
        image = self.img_layer_norm(self.img_linear(features))
        return self.dropout(self.LayerNorm(image + self.pos_layer_norm(self.pos_linear(box_features(regions.boxes))) + kind))


def box_features(boxes: Tensor) -> Tensor:
    """[..., 4] x1, y1, x2, y2 to UNITER's [..., 7]."""
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return torch.cat([boxes, torch.stack([width, height, width * height], dim=-1)], dim=-1)


class UniterModel(nn.Module):
    """Embeddings, encoder and pooler."""

    def __init__(self, config: RegionBertConfig):
        super().__init__()
        self.embeddings, self.img_embeddings = TextEmbeddings(config), RegionEmbeddings(config)
        self.encoder, self.pooler = BertEncoder(config), BertPooler(config.hidden_size)


class Uniter(PairStudent):
    """UNITER with a head of `classes` outputs, or two for each choice. Two images are two passes, in which both have the one type
    of regions, under a cross-entropy: UNITER's own "pair"; its best head on NLVR2 attends across the two."""

    losses: ClassVar[dict[str, str]] = {"label": "label_bce", "choice": "choice_pairs"}

    def __init__(self, config: RegionBertConfig, *, classes: int, target: str, images: int = 1):
        super().__init__(config, target)
        self.uniter = UniterModel(config)
        width, choice = config.hidden_size, target == "choice"
        self.classifier = late_norm_classifier(
            width * images, 2 * width, 2 if choice else classes, eps=config.layer_norm_eps, middle=nn.ReLU() if choice else None
        )
        if images > 1:
            self.losses = {}
        init_weights(self, initial_std(width))

    def forward(
        self, batch: Batch, capture: Capture = NOTHING, *, text_delta: Tensor | None = None, image_delta: Tensor | None = None
    ) -> Output:
        """Logits [B, C], of VCR's choices those of "right", and one view per image. text_delta: [S, T, D], added to word
        embeddings; image_delta: [S, R, F], added to region features of a record's one image (VILLA)."""
        passes = [
            self._pass(batch.text, batch.image_for_each_text(place), capture, text_delta, image_delta)
            for place in range(len(batch.images))
        ]
        views = [encoded.view for encoded in passes]
        pooled = [torch.tanh(self.uniter.pooler.dense(encoded.first)) for encoded in passes]
        logits = self.classifier(torch.cat(pooled, dim=-1))
        if self.target != "choice":
            return Output(by_record(logits, batch), views)
        pairs = logits.view(len(batch), -1, 2)
        return Output(pairs[..., 1], views, pairs)

    def _pass(
        self, text: TextBatch, regions: RegionBatch, capture: Capture, text_delta: Tensor | None, image_delta: Tensor | None
    ) -> BertStates:
        model = self.uniter
        kind = model.embeddings.token_type_embeddings.weight[REGION_TYPE]
        states = torch.cat([model.embeddings(text, text_delta), model.img_embeddings(regions, kind, image_delta)], dim=1)
        return encode(model.encoder, states, [text.mask, regions.mask], visual=regions.mask, capture=capture)
