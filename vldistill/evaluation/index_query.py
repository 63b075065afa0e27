"""Ranking the images of an index by texts: by the cosine of a model of retrieval, by the probability of an answer of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vldistill.data.loading import pad_text
from vldistill.data.records import Record
from vldistill.data.sequences import split_words
from vldistill.data.text import WordTokenizer
from vldistill.errors import InputError
from vldistill.evaluation.image_index import ImageIndex
from vldistill.finite import check_outputs
from vldistill.models.base.checkpoint import ModelSpec
from vldistill.models.base.dual_encoder import DualEncoder
from vldistill.models.base.inputs import text_layout

_BLOCK = 1 << 14
"""Images that are scored at a time."""


@dataclass(frozen=True)
class Hit:
    """An image of the index: its row there, its path, and its score."""

    row: int
    path: str
    score: float


class Searcher:
    """Scores the images of an index. answer: of a model with labels, the one whose probability ranks the images. Raises
    InputError where the model needs an answer, has none of that name, or reads several images a record."""

    def __init__(
        self,
        index: ImageIndex,
        model: DualEncoder,
        spec: ModelSpec,
        tokenizer: WordTokenizer,
        answer: str | None,
        device: torch.device,
    ):
        where = str(index.folder)
        if spec.images != 1:
            raise InputError(
                f"its model reads {spec.images} images a record, so it cannot rank single ones",
                where=where,
                hint="`vldistill evaluate --index` uses it",
            )
        if spec.labels and answer not in spec.labels:
            asked = "its model answers questions" if answer is None else f"its model does not know the answer {answer!r}"
            raise InputError(
                asked,
                where=where,
                hint=f"give --answer, one of: {', '.join(spec.labels[:8])}" + (", ..." if len(spec.labels) > 8 else ""),
            )
        if not spec.labels and answer is not None:
            raise InputError("its model compares images with texts and has no answers", where=where, hint="leave out --answer")
        self._index, self._model, self._tokenizer, self._device = index, model.to(device), tokenizer, device
        self._layout, self._class = text_layout(spec, tokenizer), spec.labels.index(answer) if spec.labels else None

    @torch.inference_mode()
    def search(self, texts: Sequence[str], top: int) -> list[list[Hit]]:
        """For each text its `top` images, best first; of equal scores the earlier row."""
        records = [Record(str(number), "caption", [], split_words(text), written=text) for number, text in enumerate(texts)]
        for record, text in zip(records, texts, strict=True):
            if not record.text:
                raise InputError(f"text {text!r} has no words", hint="give a description")
        padded = pad_text([self._layout(record)[0] for record in records], self._tokenizer.pad_id).to(device=self._device)
        vectors = self._model.encode_text(padded).float()
        check_outputs(vectors, texts)
        best = [(torch.empty(0), torch.empty(0, dtype=torch.long)) for _ in texts]
        for start in range(0, len(self._index), _BLOCK):
            stop = min(start + _BLOCK, len(self._index))
            scores = self._scores(vectors, self._index.of(slice(start, stop))[:, 0].to(self._device)).cpu()
            numbers = torch.arange(start, stop)
            best = [
                _top(torch.cat([top_scores, row]), torch.cat([top_rows, numbers]), top)
                for (top_scores, top_rows), row in zip(best, scores, strict=True)
            ]
        return [
            [
                Hit(number, self._index.rows[number]["path"], score)
                for score, number in zip(top_scores.tolist(), top_rows.tolist(), strict=True)
            ]
            for top_scores, top_rows in best
        ]

    def _scores(self, texts: Tensor, images: Tensor) -> Tensor:
        """[T, D] and [N, D] to [T, N]."""
        if self._class is None:
            return F.normalize(texts, dim=-1) @ F.normalize(images, dim=-1).T
        return torch.stack(
            [self._model.fuse(text.expand(len(images), -1), [images]).float().softmax(dim=-1)[:, self._class] for text in texts]
        )


def _top(scores: Tensor, numbers: Tensor, count: int) -> tuple[Tensor, Tensor]:
    order = scores.sort(descending=True, stable=True).indices[:count]
    return scores[order], numbers[order]
