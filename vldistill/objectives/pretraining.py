"""Pre-training: cross-modal contrastive learning, masked language modelling (whole words; Devlin et al., 2019) and image-text
matching, with or without a teacher.

From labels alone ("standard" in DiDE's Table 5) each task has its own loss. With a live fusion teacher, as DiDE has it (section
3.3.1; Eq. 1): CMC adds attention distillation on its matched pairs; MLM and ITM have attention distillation and soft labels, and
no labels of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vldistill.data.batch import CMC, IGNORED, ITM, MLM, Batch, Pretext, TextBatch
from vldistill.errors import needed
from vldistill.models.base.outputs import NOTHING, Capture, Output
from vldistill.objectives.attention import AttentionMatch, mapped_layers
from vldistill.objectives.base import Objective, Terms
from vldistill.objectives.contrastive import TEMPERATURE, CrossModalContrast, pair_keys
from vldistill.objectives.matching import others
from vldistill.objectives.soft_label import soft_label_kl

_MASKED, _RANDOM = 0.8, 0.1  # of the chosen tokens: shown as [MASK], as a token drawn at random; the rest as they are


def mask_words(text: TextBatch, *, mask_id: int, vocabulary: int, probability: float) -> tuple[Tensor, Tensor]:
    """Hides each word with a probability, one at least in every sequence with words; drawn by torch's generator.

    Returns ids [S, T] to be read and targets [S, T], the true id of each hidden word's tokens and IGNORED elsewhere.
    """
    words, device = needed(text.words, "the words' places").cpu(), text.ids.device
    sequences = len(words)
    draw = torch.rand(sequences, int(words.max()) + 2)
    # Where there is no word, at column -1, nothing is ever chosen.
    seen = torch.zeros_like(draw, dtype=torch.bool).scatter_(1, words % draw.shape[1], True)
    seen[:, -1] = False
    draw = draw.masked_fill(~seen, 2.0)
    chosen = (draw < probability) | ((draw == draw.min(dim=1, keepdim=True).values) & seen)
    chosen = chosen.gather(1, words % draw.shape[1])
    fate, others = torch.rand(words.shape), torch.randint(vocabulary, words.shape)
    ids = text.ids.cpu()
    replaced = torch.where(fate < _MASKED, torch.full_like(ids, mask_id), torch.where(fate < _MASKED + _RANDOM, others, ids))
    return (torch.where(chosen, replaced, ids).to(device), torch.where(chosen, ids, IGNORED).to(device))


def masked_language_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy of logits [M, V] with true ids [M], mean over the M hidden tokens, fp32."""
    return F.cross_entropy(logits.float(), truth)


TaskLoss = Callable[[Tensor, Tensor], Tensor]
_REPLACED = 0.5  # the share of ITM's pairs whose image is another's (DiDE, appendix A)


class Pretraining(Objective):
    """tasks: any of "cmc" (of a dual encoder), "mlm", "itm". depth: layers of student and teacher. probability: of a word to be
    hidden. attention, layers, kl: see `DiDE`; of every task, on its own pairs. soft_labels: the teacher's predictions in MLM and
    ITM. hard_label_weight: of their true answers. temperature: where CMC's starts."""

    teacher_reads_prepared = True

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        depth: int,
        vocabulary: int,
        mask_id: int,
        probability: float = 0.15,
        attention: str = "none",
        layers: str = "last",
        kl: str = "forward",
        soft_labels: bool = False,
        attention_weight: float = 1.0,
        soft_label_weight: float = 1.0,
        hard_label_weight: float = 1.0,
        temperature: float = TEMPERATURE,
    ):
        super().__init__()
        self.tasks, self.vocabulary, self.mask_id, self.probability = tuple(tasks), vocabulary, mask_id, probability
        self.soft_labels, self.hard_label_weight = soft_labels, hard_label_weight
        self.attention_weight, self.soft_label_weight = attention_weight, soft_label_weight
        self.match = None if attention == "none" else AttentionMatch(attention, mapped_layers(layers, depth), kl)
        self.contrast = CrossModalContrast(temperature) if CMC in tasks else None
        self.student_capture = self.teacher_capture = Capture(qk=self.match.layers) if self.match else NOTHING
        self.needs_teacher = bool(self.match) or soft_labels
        # A head that answers nothing, or a pooler before no head, has no gradient.
        self.uses_all_parameters = {MLM, ITM} <= set(tasks) and bool(soft_labels or hard_label_weight)
        self.judged = tuple(f"{task}/{part}" for task in self.tasks for part in ("right", "count"))

    def prepare_batch(self, batch: Batch) -> Pretext:
        """Texts twice where words are hidden, images once; drawn by torch's generator. ITM's pairs that keep their image are
        CMC's."""
        count, device = len(batch), batch.text.ids.device
        own = torch.arange(count)
        texts, pairs, rows = [], [], {}
        hidden = matched = None
        if MLM in self.tasks:
            ids, hidden = mask_words(batch.text, mask_id=self.mask_id, vocabulary=self.vocabulary, probability=self.probability)
            texts, pairs, rows[MLM] = [ids], [torch.stack([own, own], dim=1)], own
        place, before = own + sum(map(len, texts)), sum(map(len, pairs))
        if {CMC, ITM} & set(self.tasks):
            texts.append(batch.text.ids)
            pairs.append(torch.stack([place, own], dim=1))
            rows |= {task: before + own for task in (CMC, ITM) if task in self.tasks}
        if ITM in self.tasks:
            other = others(batch)[1]
            replaced = (torch.rand(count) < _REPLACED) & (other >= 0)
            matched = ~replaced
            swapped = torch.stack([place, torch.where(replaced, other, own)], dim=1)
            if CMC in self.tasks:
                pairs.append(swapped[replaced])
                rows[ITM] = torch.where(replaced, before + count + replaced.cumsum(0) - 1, before + own)
            else:
                pairs[-1] = swapped
        if hidden is not None and len(texts) > 1:
            hidden = torch.cat([hidden, torch.full_like(hidden, IGNORED)])
        text = replace(batch.text[own.repeat(len(texts)).to(device)], ids=torch.cat(texts))
        return Pretext(
            batch.ids,
            text,
            batch.images,
            None,
            batch.sources,
            torch.cat(pairs).to(device),
            {task: pair_rows.to(device) for task, pair_rows in rows.items()},
            hidden,
            None if matched is None else matched.to(device),
        )

    def forward(self, student: Output, teacher: Output | None, batch: Pretext) -> Terms:
        terms: Terms = {}
        if self.contrast is not None:
            terms[CMC] = self.contrast(*_matched(student, batch), pair_keys(batch.sources, batch.text.ids.device))
            self.logs = {"negatives": self.contrast.negatives, "temperature": self.contrast.temperature.detach()}
        if MLM in self.tasks:
            terms |= self._answered(MLM, student.words, teacher and teacher.words, batch, masked_language_loss)
        if ITM in self.tasks:
            terms |= self._answered(ITM, student.matching, teacher and teacher.matching, batch, F.cross_entropy)
        if self.match is not None:
            for task in self.tasks:
                rows = batch.rows[task]
                own, other = ([view[rows] for view in side.views] for side in (student, needed(teacher, "the teacher")))
                terms[f"{task}/attention"] = self.attention_weight * self.match(own, other)
        return terms

    def after_step(self) -> None:
        if self.contrast is not None:
            self.contrast.bound()

    def _answered(self, task: str, logits: Tensor | None, taught: Tensor | None, batch: Pretext, loss: TaskLoss) -> Terms:
        terms, logits = {}, needed(logits, f"the head of {task}")
        if self.hard_label_weight:
            terms[task] = self.hard_label_weight * loss(logits.float(), _truth(task, batch))
        if self.soft_labels:
            terms[f"{task}/soft_label"] = self.soft_label_weight * soft_label_kl(logits, needed(taught, "the teacher's head"))
        return terms

    def eval_sums(self, student: Output, batch: Pretext) -> dict[str, Tensor]:
        """CMC: how often an image and its text are each other's nearest, of this batch's pairs."""
        sums = {}
        if self.contrast is not None:
            right, count = self.contrast.right(*_matched(student, batch), pair_keys(batch.sources, batch.text.ids.device))
            sums |= {f"{CMC}/right": right, f"{CMC}/count": torch.tensor(count)}
        for task, logits in ((MLM, student.words), (ITM, student.matching)):
            if task in self.tasks:
                truth = _truth(task, batch)
                sums |= {
                    f"{task}/right": (needed(logits, f"the head of {task}").argmax(dim=-1) == truth).sum(),
                    f"{task}/count": torch.tensor(len(truth)),
                }
        return sums

    def eval_metrics(self, sums: dict[str, float]) -> dict[str, Any]:
        """Of each task its accuracy, and of all their mean."""
        parts = {task: sums[f"{task}/right"] / max(sums[f"{task}/count"], 1) for task in self.tasks}
        return {
            "accuracy": sum(parts.values()) / len(parts),
            "count": int(max(sums[f"{task}/count"] for task in self.tasks)),
            **{f"accuracy/{task}": value for task, value in parts.items()},
        }


def _matched(student: Output, batch: Pretext) -> tuple[Tensor, Tensor]:
    """Vectors [B, D] of CMC's texts and images."""
    texts, images = batch.pairs[batch.rows[CMC]].unbind(dim=1)
    vectors = needed(student.vectors, "a dual encoder's vectors")
    return vectors.text[texts], vectors.images[0][images]


def _truth(task: str, batch: Pretext) -> Tensor:
    """The class of each answer."""
    if task == ITM:
        return needed(batch.matched, "the matches").long()
    hidden = batch.hidden_words()
    return hidden[hidden != IGNORED]
