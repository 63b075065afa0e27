"""VisualBert of `transformers` as a baseline."""

from __future__ import annotations

from torch import Tensor

from vldistill.data.text import WordTokenizer
from vldistill.models.base.family import PlainFamily, StudentRequest, common_sizes
from vldistill.models.base.library_names import library_names
from vldistill.models.visualbert.model import VisualBert, VisualBertConfig
from vldistill.models.visualbert.section import VisualBertSection


class VisualBertFamily(PlainFamily):
    section = VisualBertSection
    model = VisualBert
    config = VisualBertConfig
    start = "name a VisualBERT of transformers, or a visualbert model"

    def scratch(self, request: StudentRequest, tokenizer: WordTokenizer) -> VisualBertConfig:
        return VisualBertConfig(
            **common_sizes(request, tokenizer),
            attention_probs_dropout_prob=request.dropout,
            max_position_embeddings=request.max_length,
            visual_embedding_dim=request.region_size,
        )

    def names(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return library_names(weights, "visual_bert.", ("cls.",))
