"""What the loop asks of an objective, and the supervised one.

An objective is a module (it may hold learned scalars) that takes the student's output, the teacher's output and the batch and
returns named loss terms, already weighted; the loop sums them for the gradient and logs each by name.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vldistill.data.batch import Batch
from vldistill.errors import needed
from vldistill.models.base.outputs import NOTHING, Output
from vldistill.objectives.task import (
    answer_bce,
    answer_cross_entropy,
    choice_bce,
    choice_pairs,
    label_bce,
    label_cross_entropy,
)

Terms = dict[str, Tensor]


class Objective(nn.Module):
    """student_capture, teacher_capture: what to keep of each forward pass. needs_teacher: False skips the teacher's.
    teacher_reads_arranged: whether the teacher is given what the student reads (see `arrange`), or the batch as it was.
    reaches_all: whether every parameter of the student gets a gradient, which several processes must know. readings: figures of
    the last call, logged beside the terms but not descended on. judged: of an objective that brings its own task, the names of
    the sums by which a validation judges it; empty where the student's answers are scored instead.

    Called with the student's output, the teacher's (whatever the teacher returns) and the arranged batch; returns Terms.
    """

    student_capture = teacher_capture = NOTHING
    needs_teacher = teacher_reads_arranged = False
    reaches_all = True
    judged: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.readings: dict[str, Tensor] = {}

    def arrange(self, batch: Batch) -> Batch:
        """What the student shall read for a batch."""
        return batch

    def judge(self, student: Output, batch: Any) -> dict[str, Tensor]:
        """Of an arranged batch (a `Batch`, or what `arrange` makes of one), the sums of `judged`, as scalars."""
        return {}

    def summary(self, sums: dict[str, float]) -> dict[str, Any]:
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
