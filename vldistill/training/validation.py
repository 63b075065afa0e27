"""How a validation is judged: by the student's answers, or by the sums of an objective that brings its own task (ADVL's step 1
and pre-training, whose questions are drawn from the data)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from vldistill.data.batch import Batch
from vldistill.data.loading import Loader
from vldistill.data.records import Record
from vldistill.data.transforms import hash_key
from vldistill.errors import needed
from vldistill.models.base.checkpoint import ModelSpec
from vldistill.models.build import Student
from vldistill.objectives.base import Objective
from vldistill.runtime import reduced
from vldistill.training.inference import Answer, answer, score
from vldistill.training.loop import Watch


@torch.no_grad()
def pretext_metrics(
    student: nn.Module, objective: Objective, batches: Iterable[Batch], accelerator: Accelerator, *, seed: int
) -> dict[str, Any]:
    """What the objective makes of its sums over all ranks. What it draws is drawn anew from `seed` at each call, so that two
    validations ask the same. Student and objective are left in the mode they came in."""
    training = student.training
    student.eval()
    sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64, device=accelerator.device))
    with torch.random.fork_rng(devices=[]):
        for number, batch in enumerate(batches):
            torch.default_generator.manual_seed(hash_key((seed, number)))
            prepared = objective.prepare_batch(batch.to(accelerator.device))
            with accelerator.autocast():
                judged = objective.eval_sums(student(prepared, objective.student_capture), prepared)
            for name, value in judged.items():
                sums[name] += value.to(accelerator.device)
    student.train(training)
    # A rank without a batch has no sums of its own, but has to add to the others'.
    names = objective.judged
    totals = reduced(accelerator, torch.stack([sums[name] for name in names]), "sum").tolist()
    return objective.eval_metrics(dict(zip(names, totals, strict=True)))


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
