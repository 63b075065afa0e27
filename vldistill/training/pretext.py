"""Validation of objectives that bring their own task: ADVL's step 1 and pre-training, whose questions are drawn from the data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from vldistill.data.batch import Batch
from vldistill.data.transforms import hash_key
from vldistill.objectives.base import Objective
from vldistill.runtime import reduced


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
            arranged = objective.arrange(batch.to(accelerator.device))
            with accelerator.autocast():
                judged = objective.judge(student(arranged, objective.student_capture), arranged)
            for name, value in judged.items():
                sums[name] += value.to(accelerator.device)
    student.train(training)
    # A rank without a batch has no sums of its own, but has to add to the others'.
    names = objective.judged
    totals = reduced(accelerator, torch.stack([sums[name] for name in names]), "sum").tolist()
    return objective.summary(dict(zip(names, totals, strict=True)))
