"""What the loop asks of an objective, the supervised one, and its losses on ground-truth labels.

An objective is a module (it may hold learned scalars) that takes the student's output, the teacher's output and the batch and
returns named loss terms, already weighted; the loop sums them for the gradient and logs each by name. Which loss a model is
trained with is its own (UNITER, VL-BERT and ViLT each differ on VCR).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from vldistill.data.batch import Batch
from vldistill.errors import needed
from vldistill.models.base.outputs import NOTHING, Output


def label_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy, batch mean, fp32. logits: [B, C]; target: [B] class indices."""
    return F.cross_entropy(logits.float(), target)


def answer_bce(logits: Tensor, target: Tensor) -> Tensor:
    """VQA: binary cross-entropy against soft answer scores, mean over batch and answers, times the number of answers.

    logits: [B, A]; target: [B, A] in [0, 1].
    """
    return F.binary_cross_entropy_with_logits(logits.float(), target.float()) * logits.shape[-1]


def answer_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """VQA with one softmax over all answers: cross-entropy against the soft scores, batch mean, fp32.

    logits: [B, A]; target: [B, A] in [0, 1], used as it is (a question's scores may sum to more or less than 1).
    """
    return -(target.float() * logits.float().log_softmax(dim=-1)).sum(dim=-1).mean()


def label_bce(logits: Tensor, target: Tensor) -> Tensor:
    """A sigmoid for each class: binary cross-entropy, mean over batch and classes, times the number of classes, fp32 (UNITER on
    SNLI-VE). logits: [B, C]; target: [B] class indices."""
    return answer_bce(logits, F.one_hot(target, logits.shape[-1]))


def choice_bce(logits: Tensor, target: Tensor) -> Tensor:
    """A sigmoid for each choice: binary cross-entropy, mean over batch and choices, fp32 (VL-BERT on VCR). logits: [B, C];
    target: [B] index of the right choice."""
    return F.binary_cross_entropy_with_logits(logits.float(), F.one_hot(target, logits.shape[-1]).float())


def choice_pairs(pairs: Tensor, target: Tensor) -> Tensor:
    """Each choice an example of its own, wrong or right: cross-entropy, mean over batch and choices, fp32 (UNITER on VCR).
    pairs: [B, C, 2]; target: [B] index of the right choice."""
    return F.cross_entropy(pairs.float().flatten(0, 1), F.one_hot(target, pairs.shape[1]).flatten())


Terms = dict[str, Tensor]


class Objective(nn.Module):
    """student_capture, teacher_capture: what to keep of each forward pass. needs_teacher: False skips the teacher's.
    teacher_reads_prepared: whether the teacher is given what the student reads (see `prepare_batch`), or the batch as it was.
    uses_all_parameters: whether every parameter of the student gets a gradient, which several processes must know. logs:
    figures of the last call, logged beside the terms but not descended on. judged: of an objective that brings its own task,
    the names of the sums by which a validation judges it; empty where the student's answers are scored instead.

    Called with the student's output, the teacher's (whatever the teacher returns) and the prepared batch; returns Terms."""

    student_capture = teacher_capture = NOTHING
    needs_teacher = teacher_reads_prepared = False
    uses_all_parameters = True
    judged: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.logs: dict[str, Tensor] = {}

    def prepare_batch(self, batch: Batch) -> Batch:
        """What the student shall read for a batch."""
        return batch

    def eval_sums(self, student: Output, batch: Any) -> dict[str, Tensor]:
        """Of a prepared batch (a `Batch`, or what `prepare_batch` makes of one), the sums of `judged`, as scalars."""
        return {}

    def eval_metrics(self, sums: dict[str, float]) -> dict[str, Any]:
        """The metrics of the sums over a split, `accuracy` and `count` among them."""
        return {}

    def after_validation(self, metrics: dict[str, Any]) -> None:
        """Told the figures of every validation."""

    def warnings(self) -> list[str]:
        """What a user should be told by now, if anything."""
        return []


TASK_LOSSES = {
    "label": label_cross_entropy,
    "label_bce": label_bce,
    "answer_bce": answer_bce,
    "answer_softmax": answer_cross_entropy,
    "choice": label_cross_entropy,
    "choice_bce": choice_bce,
    "choice_pairs": choice_pairs,
    "tags": answer_bce,
}


def task_loss(name: str, output: Output, target: Tensor) -> Tensor:
    """A loss of TASK_LOSSES on what it is about: "choice_pairs" on `output.pairs`, the others on `output.logits`."""
    return TASK_LOSSES[name](needed(output.pairs, "a choice's pair") if name == "choice_pairs" else output.logits, target)


class HardLabels(Objective):
    """The task loss, with what the student adds of its own. loss: a key of TASK_LOSSES."""

    def __init__(self, loss: str):
        super().__init__()
        self.loss = loss

    def forward(self, student: Output, teacher: Output | None, batch: Batch) -> Terms:
        return {"task": task_loss(self.loss, student, needed(batch.target, "the label")), **student.auxiliary}
