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
from vldistill.data.loading import Loader
from vldistill.data.transforms import hash_key
from vldistill.errors import VldistillError
from vldistill.models.outputs import Capture
from vldistill.objectives.base import Objective, Terms
from vldistill.training.batches import Batches
from vldistill.training.journal import Journal

Teacher = Callable[[Batch, Capture], Any]


class Learner(nn.Module):
    """Student and objective in one module, so that an objective's learned scalars are trained and synchronised with it."""

    def __init__(self, student: nn.Module, objective: Objective):
        super().__init__()
        self.student, self.objective = student, objective

    def forward(self, arranged: Batch, taught: Any) -> Terms:
        """The loss terms, and nothing else: several processes wait for the gradient of whatever is returned. arranged: by the
        objective."""
        return self.objective(self.student(arranged, self.objective.student_capture), taught, arranged)


def descend(learner: nn.Module, arranged: Batch, taught: Any, accelerator: Accelerator) -> tuple[Terms, Tensor]:
    """One forward and one backward pass: the terms, and their sum."""
    with accelerator.autocast():
        terms = learner(arranged, taught)
    loss = torch.stack(list(terms.values())).sum()
    accelerator.backward(loss)
    return terms, loss


Passes = Callable[[nn.Module, Batch, Any, Accelerator], tuple[Terms, Tensor]]
"""The forward and backward passes of an arranged batch."""


@dataclass(frozen=True)
class Plan:
    """first, last: a phase's optimiser steps, from `first` to before `last` of the run's count. accumulate: forward passes per
    optimiser step. validate_every, log_every: optimiser steps. clip: largest gradient norm, or None."""

    first: int
    last: int
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
    batches: Batches, accelerator: Accelerator, plan: Plan, journal: Journal, *,
    validate: Callable[[], dict[str, Any]], save: Callable[[], None] | None, passes: Passes = descend,
) -> Best:
    """Trains for the steps of `plan`, validating on the way and at the end; `save`, if there is one, is called at each new best.

    Dropout is seeded by (seed, step, rank), so a step's result depends on nothing that came before but the weights.
    """
    objective = accelerator.unwrap_model(learner).objective
    best, meter, step, told = Best(), _Meter(accelerator, plan.accumulate), plan.first, set()
    micro = step * plan.accumulate
    learner.train()
    while step < plan.last:
        for batch in loader:
            torch.manual_seed(hash_key((plan.seed, micro, accelerator.process_index)))
            micro += 1
            batch = batch.to(accelerator.device)
            arranged = objective.arrange(batch)
            read = arranged if objective.teacher_reads_arranged else batch
            with accelerator.accumulate(learner):
                with accelerator.autocast():
                    taught = teacher(read, objective.teacher_capture) if teacher is not None else None
                terms, loss = passes(learner, arranged, taught, accelerator)
                if accelerator.sync_gradients and plan.clip is not None:
                    meter.norm = accelerator.clip_grad_norm_(learner.parameters(), plan.clip)
                optimizer.step()
                optimizer.zero_grad()
            meter.add(terms, loss, objective.readings, len(batch))
            if not accelerator.sync_gradients:
                continue
            rate = schedule.get_last_lr()[0]
            if not accelerator.optimizer_step_was_skipped:
                schedule.step()
            step += 1
            journal.advance(step)
            if step % plan.log_every == 0 or step == plan.last:
                journal.train(step, {"epoch": batches.epoch, "lr": rate, **meter.read(step)})
                for warning in objective.warnings():
                    # By its first word, since its figures change from step to step.
                    if (name := warning.split()[0]) not in told:
                        told.add(name)
                        journal.say(f"step {step}: {warning}")
            if step % plan.validate_every == 0 or step == plan.last:
                meter.check(step)
                metrics = validate()
                objective.after_validation(metrics)
                improved = best.beaten_by(metrics)
                if improved:
                    best = Best(step, metrics)
                    if save is not None:
                        save()
                journal.validation(step, metrics, best=improved and save is not None)
                meter.start = time.perf_counter()
                meter.pairs = 0
            if step == plan.last:
                break
        batches.epoch += 1
    return best


class _Meter:
    """Means of the loss terms since the last reading over all ranks, kept on the device so that no step waits for one."""

    def __init__(self, accelerator: Accelerator, accumulate: int) -> None:
        self._accelerator, self._together = accelerator, accumulate * accelerator.num_processes
        self.start, self.pairs, self.norm = time.perf_counter(), 0, None
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def add(self, terms: Terms, loss: Tensor, readings: dict[str, Tensor], pairs: int) -> None:
        """pairs: of this process's batch."""
        given = {"loss": loss, **{f"loss/{name}": value for name, value in terms.items()}, **readings}
        for name, value in {**given, "pairs": torch.full((), float(pairs), device=loss.device)}.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += 1
        self.pairs += pairs * self._accelerator.num_processes

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
        values["pairs"] = round(values["pairs"] * self._together, 1)  # of an optimiser step
        if self.norm is not None:
            values["grad_norm"] = float(self.norm)
        now = time.perf_counter()
        values["pairs_per_s"] = round(self.pairs / max(now - self.start, 1e-9), 1)
        self.start, self.pairs, self._count = now, 0, 0
        self._sums.clear()
        return values
