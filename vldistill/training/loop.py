"""The one training loop. It knows no method: an objective turns the student's and the teacher's outputs into named loss
terms, and the loop sums, logs and descends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vldistill.data.batch import Batch
from vldistill.data.loading import Loader
from vldistill.data.transforms import hash_key
from vldistill.errors import needed
from vldistill.models.base.outputs import Capture
from vldistill.objectives.base import Objective, Terms
from vldistill.training.inputs import Batches
from vldistill.training.preemption import Unvalidated
from vldistill.training.run_log import RunLog, TrainMetrics
from vldistill.training.sharding import average_gradients, clip_gradients, is_sharded

Teacher = Callable[[Batch, Capture], Any]


class Learner(nn.Module):
    """Student and objective in one module, so that an objective's learned scalars are trained and synchronised with it."""

    def __init__(self, student: nn.Module, objective: Objective):
        super().__init__()
        self.student, self.objective = student, objective

    def forward(self, prepared: Batch, taught: Any) -> Terms:
        """The loss terms, and nothing else: several processes wait for the gradient of whatever is returned. prepared: by the
        objective."""
        return self.objective(self.student(prepared, self.objective.student_capture), taught, prepared)


def forward_backward(learner: nn.Module, prepared: Batch, taught: Any, accelerator: Accelerator) -> tuple[Terms, Tensor]:
    """One forward and one backward pass: the terms, and their sum."""
    with accelerator.autocast():
        terms = learner(prepared, taught)
    loss = torch.stack(list(terms.values())).sum()
    accelerator.backward(loss)
    return terms, loss


Save = Callable[[int], dict[str, str]]
"""Keeps the student as the best model of a step; returns the digests of its files."""
StepFn = Callable[[nn.Module, Batch, Any, Accelerator], tuple[Terms, Tensor]]
"""The forward and backward passes of a prepared batch."""


@dataclass(frozen=True)
class PhasePlan:
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
    """The best validation so far, by `accuracy`. files: sha256 of each file of its model, None where that is not kept."""

    step: int = 0
    metrics: dict[str, Any] | None = None
    files: dict[str, str] | None = None

    def beaten_by(self, metrics: dict[str, Any]) -> bool:
        return self.metrics is None or metrics["accuracy"] > self.metrics["accuracy"]


@dataclass(frozen=True)
class Position:
    """Where a phase goes on. step, micro: optimiser steps and forward passes done. batch: batches of this rank's epoch done.
    validates: whether the step's validation is still to come."""

    step: int
    micro: int
    epoch: int
    batch: int
    validates: bool = False


class Watch(Protocol):
    """Of a validation: see `Guard.watch`."""

    def __call__(self, batches: Iterable[Any]) -> Iterator[Any]: ...


class Checkpointer(Protocol):
    """Saves checkpoints, and says when to leave."""

    watch: Watch
    leaving: Callable[[], bool]
    """Whether this process was told to leave."""

    def restore(self, loop: Loop) -> Position | None:
        """Puts back what a checkpoint holds, and says where it stands; None at a fresh start."""

    def after_step(self, loop: Loop, position: Position) -> None:
        """Called after every optimiser step and what belongs to it. Raises `Preempted` where the run has to leave."""

    def before_validation(self, loop: Loop, position: Position) -> NoReturn:
        """Called where a validation was left. Raises `Preempted`."""
        ...


@dataclass
class Loop:
    """What a phase has that changes while it is trained; `best` and `metrics` are the loop's own."""

    optimizer: Optimizer
    schedule: LRScheduler
    batches: Batches
    accelerator: Accelerator
    metrics: TrainMetrics
    best: Best


def fit(
    learner: nn.Module,
    teacher: Teacher | None,
    optimizer: Optimizer,
    schedule: LRScheduler,
    loader: Loader,
    batches: Batches,
    accelerator: Accelerator,
    plan: PhasePlan,
    run_log: RunLog,
    *,
    validate: Callable[[], dict[str, Any]],
    save: Save | None,
    step_fn: StepFn = forward_backward,
    checkpointer: Checkpointer | None = None,
) -> Best:
    """Trains for the steps of `plan`, validating on the way and at the end; `save`, if there is one, is called at each new best.

    Dropout is seeded by (seed, step, rank), so a step's result depends on nothing that came before but the weights.
    """
    metrics = TrainMetrics(accelerator, plan.accumulate, tolerant=accelerator.mixed_precision == "fp16")
    loop = Loop(optimizer, schedule, batches, accelerator, metrics, Best())
    at = checkpointer.restore(loop) if checkpointer is not None else None
    at = at or Position(plan.first, plan.first * plan.accumulate, batches.epoch, 0)
    if save is not None and loop.best.metrics is not None and loop.best.files is None and loop.best.step == at.step:
        # The checkpoint's own weights are the best ones, and their model is not what it was.
        loop.best = Best(loop.best.step, loop.best.metrics, save(loop.best.step))
    batches.epoch, batches.first = at.epoch, at.batch
    running = _Running(learner, teacher, loop, plan, run_log, validate, save, step_fn, checkpointer, at.step, at.micro)
    run_log.advance(at.step)
    learner.train()
    if at.validates:
        running.validate_now(at.batch)
        running.keep(at.batch)
    while running.step < plan.last:
        running.epoch(loader)
        batches.epoch += 1
    return loop.best


@dataclass
class _Running:
    """A phase under way. step, micro: optimiser steps and forward passes done, of the run. warned: of what, once each."""

    learner: nn.Module
    teacher: Teacher | None
    loop: Loop
    plan: PhasePlan
    run_log: RunLog
    validate: Callable[[], dict[str, Any]]
    save: Save | None
    step_fn: StepFn
    checkpointer: Checkpointer | None
    step: int
    micro: int
    warned: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        inner = self.loop.accelerator.unwrap_model(self.learner)
        self.objective, self.sharded = inner.objective, is_sharded(inner.student)

    def epoch(self, loader: Loader) -> None:
        """The rest of an epoch, or up to the phase's last step."""
        for done, batch in enumerate(loader, start=self.loop.batches.first + 1):
            rate = float(self.loop.schedule.get_last_lr()[0])
            if not self.descended(batch.to(self.loop.accelerator.device)):
                continue
            self.step += 1
            self.run_log.advance(self.step)
            last = self.step == self.plan.last
            if self.step % self.plan.log_every == 0 or last:
                self.log(rate)
            if self.step % self.plan.validate_every == 0 or last:
                self.validate_now(done)
            self.keep(done)
            if last:
                break

    def descended(self, batch: Batch) -> bool:
        """The passes of a batch; True where they complete an optimiser step."""
        accelerator, optimizer, metrics = self.loop.accelerator, self.loop.optimizer, self.loop.metrics
        torch.manual_seed(hash_key((self.plan.seed, self.micro, accelerator.process_index)))
        self.micro += 1
        prepared = self.objective.prepare_batch(batch)
        read = prepared if self.objective.teacher_reads_prepared else batch
        with accelerator.accumulate(self.learner):
            with accelerator.autocast():
                taught = self.teacher(read, self.objective.teacher_capture) if self.teacher is not None else None
            terms, loss = self.step_fn(self.learner, prepared, taught, accelerator)
            if accelerator.sync_gradients and self.sharded:
                average_gradients(self.objective, accelerator)
            if accelerator.sync_gradients and self.plan.clip is not None:
                metrics.norm = clip_gradients(self.learner, accelerator, self.plan.clip)
            optimizer.step()
            optimizer.zero_grad()
        metrics.add(terms, loss, self.objective.logs, batch.ids)
        if accelerator.sync_gradients and not accelerator.optimizer_step_was_skipped:
            self.loop.schedule.step()
        return accelerator.sync_gradients

    def log(self, rate: float) -> None:
        """A row of the curve, and what the objective warns of for the first time."""
        metrics = self.loop.metrics.read(self.step)
        self.run_log.train(self.step, {"epoch": self.loop.batches.epoch, "lr": rate, **metrics})
        if "skipped" in metrics:
            self.run_log.say(f"step {self.step}: {metrics['skipped']} batch(es) skipped, whose loss was not finite in fp16")
        for warning in self.objective.warnings():
            # By its first word, since its figures change from step to step.
            if (name := warning.split()[0]) not in self.warned:
                self.warned.add(name)
                self.run_log.say(f"step {self.step}: {warning}")

    def validate_now(self, done: int) -> None:
        """Validates after a step, with so many batches of the epoch done."""
        self.loop.metrics.check(self.step)
        try:
            metrics = self.validate()
        except Unvalidated:
            needed(self.checkpointer, "who told to leave").before_validation(self.loop, self.position(done, validates=True))
        self.objective.after_validation(metrics)
        improved = self.loop.best.beaten_by(metrics)
        if improved:
            self.loop.best = Best(self.step, metrics, self.save(self.step) if self.save is not None else None)
        self.run_log.validation(self.step, metrics, best=improved and self.save is not None)
        self.loop.metrics.pause()

    def keep(self, done: int) -> None:
        """Lets the checkpointer save what is done, or leave."""
        if self.checkpointer is not None:
            self.checkpointer.after_step(self.loop, self.position(done))

    def position(self, done: int, *, validates: bool = False) -> Position:
        return Position(self.step, self.micro, self.loop.batches.epoch, done, validates)
