"""Validation of ADVL's step 1: how often the matched pair ranks above both mismatches, and how sure the student then is."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from vldistill.data.loading import Loader
from vldistill.data.transforms import hash_key
from vldistill.objectives.confidence import confidence
from vldistill.objectives.matching import AdvlMatching


@torch.no_grad()
def matching_metrics(
    student: nn.Module, objective: AdvlMatching, loader: Loader, accelerator: Accelerator, *, seed: int
) -> dict[str, Any]:
    """accuracy in [0, 1] and count over the triples of all ranks, and `confidence_when_right`. The mismatches are drawn anew from
    `seed` at each call, so that two validations ask the same. The student is left in the mode it came in."""
    training = student.training
    student.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=accelerator.device)  # triples, right ones, their confidence
    with torch.random.fork_rng(devices=[]):
        for number, batch in enumerate(loader):
            torch.default_generator.manual_seed(hash_key((seed, number)))
            arranged = objective.arrange(batch.to(accelerator.device))
            with accelerator.autocast():
                output = student(arranged, objective.student_capture)
            scores, valid = objective.ranked(output, arranged)
            right = valid & (scores.argmax(dim=-1) == 0)
            sums += torch.stack([valid.sum(), right.sum(), (confidence(scores) * right).sum()]).to(sums)
    student.train(training)
    count, right, sure = accelerator.reduce(sums, reduction="sum").tolist()
    found: dict[str, Any] = {"accuracy": right / count if count else 0.0, "count": int(count)}
    return found | ({"confidence_when_right": sure / right} if right else {})
