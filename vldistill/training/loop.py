"""The one training loop. It knows no method: an objective turns the student's and the teacher's outputs into named loss
terms, and the loop sums, logs and descends."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vldistill.data.batch import Batch
from vldistill.data.loading import EpochBatches, Loader
from vldistill.data.transforms import hash_key
from vldistill.errors import VldistillError
from vldistill.models.outputs import Capture, Output
from vldistill.objectives.base import Objective, Terms
from vldistill.training.journal import Journal

Teacher = Callable[[Batch, Capture], Output]


class Learner(nn.Module):
    """Student and objective in one module, so that an objective's learned scalars are trained and synchronised with it."""

    def __init__(self, student: nn.Module, objective: Objective):
        super().__init__()
        self.student, self.objective = student, objective

    def forward(self, batch: Batch, teacher: Output | None) -> Terms:
        return self.objective(self.student(batch, self.objective.student_capture), teacher, batch)


@dataclass(frozen=True)
class Plan:
    """steps: optimiser steps in all. accumulate: forward passes per optimiser step. validate_every, log_every: optimiser
    steps. clip: largest gradient norm, or None."""

    steps: int
    accumulate: int
    validate_every: int
    log_every: int
    clip: float | None
    seed: int


@dataclass
class Best:
    """The best validation so far, by `accuracy`."""

    step: int = 0
    metrics: dict[str, Any] | None = None

    def beaten_by(self, metrics: dict[str, Any]) -> bool:
        return self.metrics is None or metrics["accuracy"] > self.metrics["accuracy"]


def fit(
    learner: nn.Module, teacher: Teacher | None, optimizer: Optimizer, schedule: LRScheduler, loader: Loader,
    batches: EpochBatches, accelerator: Accelerator, plan: Plan, journal: Journal, *,
    validate: Callable[[], dict[str, Any]], save: Callable[[], None],
) -> Best:
    """Trains for `plan.steps` optimiser steps, validating on the way and at the end; `save` is called at each new best.

    Dropout is seeded by (seed, step, rank), so a step's result depends on nothing that came before but the weights.
    """
    objective = accelerator.unwrap_model(learner).objective
    best, meter, step, micro = Best(), _Meter(accelerator), 0, 0
    learner.train()
    while step < plan.steps:
        for batch in loader:
            torch.manual_seed(hash_key((plan.seed, micro, accelerator.process_index)))
            micro += 1
            batch = batch.to(accelerator.device)
            with accelerator.accumulate(learner):
                with accelerator.autocast():
                    taught = teacher(batch, objective.teacher_capture) if teacher is not None else None
                    terms = learner(batch, taught)
                loss = torch.stack(list(terms.values())).sum()
                accelerator.backward(loss)
                if accelerator.sync_gradients and plan.clip is not None:
                    meter.norm = accelerator.clip_grad_norm_(learner.parameters(), plan.clip)
                optimizer.step()
                optimizer.zero_grad()
            meter.add(terms, loss, len(batch) * accelerator.num_processes)
            if not accelerator.sync_gradients:
                continue
            rate = schedule.get_last_lr()[0]
            if not accelerator.optimizer_step_was_skipped:
                schedule.step()
            step += 1
            journal.advance(step)
            if step % plan.log_every == 0 or step == plan.steps:
                journal.train(step, {"epoch": batches.epoch, "lr": rate, **meter.read(step)})
            if step % plan.validate_every == 0 or step == plan.steps:
                meter.check(step)
                metrics = validate()
                improved = best.beaten_by(metrics)
                if improved:
                    best = Best(step, metrics)
                    save()
                journal.validation(step, metrics, best=improved)
                meter.start = time.perf_counter()
                meter.pairs = 0
            if step == plan.steps:
                break
        batches.epoch += 1
    return best


class _Meter:
    """Means of the loss terms since the last reading over all ranks, kept on the device so that no step waits for one."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self.start, self.pairs, self.norm = time.perf_counter(), 0, None
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, terms: Terms, loss: Tensor, pairs: int) -> None:
        for name, value in {"": loss, **{f"/{name}": value for name, value in terms.items()}}.items():
            value = value.detach().float()
            self._sums[f"loss{name}"] = self._sums[f"loss{name}"] + value if f"loss{name}" in self._sums else value
        self._count += 1
        self.pairs += pairs

    def check(self, step: int) -> dict[str, float]:
        """The means so far. Raises VldistillError, on every rank, where one is not finite."""
        if not self._sums:
            return {}
        means = torch.stack(list(self._sums.values())) / self._count
        means = self._accelerator.reduce(means, reduction="mean")
        values = dict(zip(self._sums, means.tolist(), strict=True))
        faulty = [name for name, value in values.items() if not math.isfinite(value)]
        if faulty:
            raise VldistillError(f"{', '.join(faulty)} is not finite at step {step}",
                                 hint="lower optim.lr, set optim.clip, or use train.precision=bf16")
        return values

    def read(self, step: int) -> dict[str, float]:
        """The means, and a fresh start."""
        values = self.check(step)
        if self.norm is not None:
            values["grad_norm"] = float(self.norm)
        now = time.perf_counter()
        values["pairs_per_s"] = round(self.pairs / max(now - self.start, 1e-9), 1)
        self.start, self.pairs, self._count = now, 0, 0
        self._sums.clear()
        return values
