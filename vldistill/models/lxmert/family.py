"""Lxmert of `transformers` as a baseline."""

from __future__ import annotations

from torch import Tensor

from vldistill.data.text import WordTokenizer
from vldistill.models.base.family import PlainFamily, StudentRequest
from vldistill.models.base.library_names import library_names
from vldistill.models.lxmert.model import Lxmert, LxmertConfig
from vldistill.models.lxmert.section import LxmertSection


class LxmertFamily(PlainFamily):
    section = LxmertSection
    model = Lxmert
    config = LxmertConfig
    start = "name an LXMERT of transformers, or a lxmert model"

    def scratch(self, request: StudentRequest, tokenizer: WordTokenizer) -> LxmertConfig:
        sizes = request.section.sizes
        return LxmertConfig.of_depth(
            sizes.layers,
            vocab_size=len(tokenizer.vocabulary),
            hidden_size=sizes.width,
            num_attention_heads=sizes.heads,
            intermediate_size=sizes.feedforward,
            hidden_dropout_prob=request.dropout,
            attention_probs_dropout_prob=request.dropout,
            max_position_embeddings=request.max_length,
            visual_feat_dim=request.region_size,
        )

    def names(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return library_names(weights, "lxmert.", ("cls.", "obj_predict_head.", "answer_head."))
