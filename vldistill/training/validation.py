"""How a validation is judged: by the student's answers, or by the sums of an objective that brings its own task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator

from vldistill.data.loading import Loader
from vldistill.data.records import Record
from vldistill.errors import needed
from vldistill.models.base.checkpoint import ModelSpec
from vldistill.models.build import Student
from vldistill.objectives.base import Objective
from vldistill.training.inference import Answer, answer, score
from vldistill.training.loop import Watch
from vldistill.training.pretext import pretext_metrics


@dataclass(frozen=True)
class Validation:
    """What is judged. loader: this process's share of `dataset`. pairs: of a batch, and workers: that read images, for who makes
    batches of its own. watch: called with batches, leaves them where the run is to leave."""

    student: Student
    spec: ModelSpec
    objective: Objective
    dataset: Any
    loader: Loader
    accelerator: Accelerator
    watch: Watch
    seed: int
    pairs: int
    workers: int


Judge = Callable[[Validation], dict[str, Any]]
"""The metrics of a whole split, `accuracy` and `count` among them."""


def by_answers(asked: Validation) -> dict[str, Any]:
    """The task's own metrics, of what the student answers."""
    accelerator, records, spec = asked.accelerator, asked.dataset.records, asked.spec
    answers = answer(
        asked.student,
        asked.watch(asked.loader),
        spec.labels,
        accelerator.device,
        autocast=lambda: accelerator.autocast(),
        tags=spec.target == "tags",
    )
    return needed(score(records, _of_all(answers, records, accelerator), spec.labels), "a label of the split")


def by_sums(asked: Validation) -> dict[str, Any]:
    """What an objective makes of its own sums, see `Objective.judged`."""
    return pretext_metrics(asked.student, asked.objective, asked.watch(asked.loader), asked.accelerator, seed=asked.seed)


def _of_all(answers: list[Answer], records: list[Record], accelerator: Accelerator) -> list[Answer]:
    """All ranks' answers in the order of the records."""
    if accelerator.num_processes == 1:
        return answers
    from accelerate.utils import gather_object

    by_id = {given.id: given for given in gather_object(answers)}
    return [by_id[record.id] for record in records]
