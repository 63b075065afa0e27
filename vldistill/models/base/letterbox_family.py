"""What kinds have in common that put a BERT and an image network over whole images together."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

from torch import Tensor

from vldistill.data.text import WordTokenizer, load_tokenizer
from vldistill.models.base.bert import RegionBertConfig
from vldistill.models.base.bert_start import read_bert
from vldistill.models.base.checkpoint import load_strict
from vldistill.models.base.family import Made, PlainFamily, check_length, common_sizes
from vldistill.models.base.request import StudentRequest

Weights = dict[str, Tensor]


class LetterboxFamily(PlainFamily):
    one_stream = True

    @abstractmethod
    def joined(self, bert: RegionBertConfig, request: StudentRequest) -> tuple[RegionBertConfig, Weights | None, str]:
        """The sizes of a student of this BERT and the request's network; the latter's weights, None for random ones; and what the
        network is called."""

    @abstractmethod
    def started(self, own: Weights, bert: Weights, network: Weights | None) -> Weights:
        """All weights of a new student. own: as drawn. bert: {} for none."""

    def from_library(self, source: str, request: StudentRequest) -> Made | None:
        """From a BERT of transformers."""
        bert = read_bert(source)
        return None if bert is None else self._of(request, *bert)

    def scratch(self, request: StudentRequest, tokenizer: WordTokenizer) -> RegionBertConfig:
        """Those of its BERT."""
        return RegionBertConfig(
            **common_sizes(request, tokenizer),
            attention_probs_dropout_prob=request.dropout,
            max_position_embeddings=request.max_length,
        )

    def from_scratch(self, request: StudentRequest, tokenizer: WordTokenizer) -> Made:
        return self._of(request, self.scratch(request, tokenizer), {}, tokenizer)

    def _of(self, request: StudentRequest, bert: RegionBertConfig, weights: Weights, source: Path | WordTokenizer) -> Made:
        """source: the BERT's folder, or the tokenizer of one without."""
        known = isinstance(source, Path)
        config, network, name = self.joined(bert, request)
        where = str(source) if known else name
        check_length(request, bert.max_position_embeddings, where)
        spec = self.spec(request, config)
        model = self.new(spec)
        load_strict(model, self.started(model.state_dict(), weights, network), where)
        return model, spec, load_tokenizer(source) if known else source
