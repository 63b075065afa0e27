"""Pre-training without a teacher: masked language modelling on matched pairs or on text alone, and image-text matching.

The rows of one batch are read twice, once with hidden words and once whole, half of these with another pair's image (DiDE,
section 3.2 and appendix A).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vldistill.data.batch import Batch
from vldistill.models.outputs import Capture, Output, View
from vldistill.objectives.base import Objective, Terms
from vldistill.objectives.masked_language import MaskedLanguageHead, mask_words, masked_language_loss
from vldistill.objectives.matching import MatchingHead, others

MLM, ITM = "mlm", "itm"
_REPLACED = 0.5


@dataclass(frozen=True)
class Pretext(Batch):
    """A batch arranged for the tasks. hidden: [B, T] targets of the first B rows, those with hidden words, or None. matched: [B]
    1.0 where a row of the last B has its own image, 0.0 where it has another's, or None."""

    hidden: Tensor | None = None
    matched: Tensor | None = None


class Pretraining(Objective):
    """tasks: MLM, ITM or both. width, depth: of the student. probability: of a word to be hidden."""

    reaches_all = False  # the task's head waits for the task

    def __init__(self, tasks: Sequence[str], *, width: int, depth: int, vocabulary: int, mask_id: int, probability: float = 0.15):
        super().__init__()
        self.tasks, self.depth, self.vocabulary = tuple(tasks), depth, vocabulary
        self.mask_id, self.probability = mask_id, probability
        self.words = MaskedLanguageHead(width, vocabulary) if MLM in tasks else None
        self.match = MatchingHead(width) if ITM in tasks else None
        self.student_capture = Capture(hidden=(depth,))
        self.judged = tuple(f"{task}/{part}" for task in self.tasks for part in ("right", "count"))

    def arrange(self, batch: Batch) -> Pretext:
        """B pairs to one or two rows each; drawn by torch's generator."""
        count, device = len(batch), batch.text.ids.device
        own = torch.arange(count)
        hidden = matched = None
        texts, images = [], []
        if self.words is not None:
            ids, hidden = mask_words(batch.text, mask_id=self.mask_id, vocabulary=self.vocabulary, probability=self.probability)
            texts.append(ids)
            images.append(own)
        if self.match is not None:
            other = others(batch)[1]
            replaced = (torch.rand(count) < _REPLACED) & (other >= 0)
            matched = (~replaced).float().to(device)
            texts.append(batch.text.ids)
            images.append(torch.where(replaced, other, own))
        rows, shown = own.repeat(len(texts)).to(device), torch.cat(images).to(device)
        text = replace(batch.text[rows], ids=torch.cat(texts))
        return Pretext([batch.ids[row] for row in rows.tolist()], text, [image[shown] for image in batch.images], None,
                       [batch.sources[row] for row in rows.tolist()], hidden, matched)

    def forward(self, student: Output, teacher: None, batch: Pretext) -> Terms:
        terms, view = {}, student.views[0]
        if self.words is not None:
            terms[MLM] = masked_language_loss(*self._predicted(view, batch))
        if self.match is not None:
            terms[ITM] = F.binary_cross_entropy_with_logits(self._scores(view, batch), batch.matched)
        return terms

    def judge(self, student: Output, batch: Pretext) -> dict[str, Tensor]:
        sums, view = {}, student.views[0]
        if self.words is not None:
            logits, truth = self._predicted(view, batch)
            sums |= {f"{MLM}/right": (logits.argmax(dim=-1) == truth).sum(), f"{MLM}/count": torch.tensor(len(truth))}
        if self.match is not None:
            right = (self._scores(view, batch) > 0) == (batch.matched > 0)
            sums |= {f"{ITM}/right": right.sum(), f"{ITM}/count": torch.tensor(len(right))}
        return sums

    def summary(self, sums: dict[str, float]) -> dict[str, Any]:
        """Of each task its accuracy, and of all their mean."""
        parts = {task: sums[f"{task}/right"] / max(sums[f"{task}/count"], 1) for task in self.tasks}
        return {"accuracy": sum(parts.values()) / len(parts), "count": int(max(sums[f"{task}/count"] for task in self.tasks)),
                **{f"accuracy/{task}": value for task, value in parts.items()}}

    def _predicted(self, view: View, batch: Pretext) -> tuple[Tensor, Tensor]:
        return self.words(view.hidden[self.depth][0][: len(batch.hidden)], batch.hidden)

    def _scores(self, view: View, batch: Pretext) -> Tensor:
        return self.match(view, self.depth)[-len(batch.matched) :].float()
