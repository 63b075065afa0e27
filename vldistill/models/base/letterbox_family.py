"""What kinds have in common that put a BERT and an image network over whole images, on canvases that lie or stand."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from vldistill.data.batch import LetterboxBatch
from vldistill.data.text import WordTokenizer, load_tokenizer
from vldistill.models.base.bert import RegionBertConfig
from vldistill.models.base.checkpoint import load_strict
from vldistill.models.base.family import Made, PlainFamily, StudentRequest, check_length, common_sizes
from vldistill.models.base.region_student import read_bert

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


def look(image: LetterboxBatch, network: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Cells [I, N, C] of the images, whose canvases `network` sees as they lie or stand, and [S] the place of each row's among
    them. network: [N, 3, H, W] uint8 to [N, n, C], of as many cells either way."""
    cells, order = [], []
    for stands in (False, True):
        chosen = [index for index, upright in enumerate(image.upright) if upright == stands]
        if chosen:
            pixels = image.pixels[chosen]
            cells.append(network(pixels.transpose(2, 3) if stands else pixels))
            order += chosen
    place = torch.tensor(order).argsort().to(image.rows.device)
    return torch.cat(cells), place[image.rows]
