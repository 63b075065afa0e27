"""UNITER, which VILLA trains in its own way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vldistill.data.text import WordTokenizer
from vldistill.models.base.bert import RegionBertConfig
from vldistill.models.base.family import PlainFamily, StudentRequest
from vldistill.models.base.heads import initial_std
from vldistill.models.base.region_student import region_sizes
from vldistill.models.uniter.model import TYPES, Uniter
from vldistill.models.uniter.section import UniterSection
from vldistill.models.uniter.texts import PERSONS, UniterLayout

_TYPES, _WORDS = "uniter.embeddings.token_type_embeddings.weight", "uniter.embeddings.word_embeddings.weight"


class UniterFamily(PlainFamily):
    section = UniterSection
    model = Uniter
    config = RegionBertConfig
    text_layout = UniterLayout
    one_stream = True

    def scratch(self, request: StudentRequest, tokenizer: WordTokenizer) -> RegionBertConfig:
        return self._with_persons(region_sizes(RegionBertConfig, request, tokenizer), request, tokenizer)

    def fitted(
        self, initial: RegionBertConfig, request: StudentRequest, tokenizer: WordTokenizer, where: str
    ) -> RegionBertConfig:
        return self._with_persons(replace(initial, hidden_dropout_prob=request.dropout), request, tokenizer)

    def _with_persons(self, config: RegionBertConfig, request: StudentRequest, tokenizer: WordTokenizer) -> RegionBertConfig:
        """On VCR: types for answers and rationales, and a word for each person."""
        if request.task != "vcr":
            return config
        return replace(
            config,
            type_vocab_size=max(config.type_vocab_size, TYPES),
            vocab_size=max(config.vocab_size, len(tokenizer.vocabulary) + PERSONS),
        )

    def grown(self, body: dict[str, Tensor], model: Any, task: str) -> dict[str, Tensor]:
        """New rows of the type table are copies of the question's, those of the word table are drawn."""
        own, grown = model.state_dict(), dict(body)
        for name in (_TYPES, _WORDS):
            missing = len(own[name]) - len(body[name]) if name in body else 0
            if missing > 0:
                table = body[name]
                rows = (
                    table[:1].expand(missing, -1)
                    if name == _TYPES
                    else (torch.randn(missing, table.shape[1], dtype=table.dtype) * initial_std(table.shape[1]))
                )
                grown[name] = torch.cat([table, rows])
        return grown
