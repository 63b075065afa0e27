"""The training stages: `pretrain` (without labels), `finetune` (labels alone) and `distill` (with a teacher), and the phases of
one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vldistill.objectives.base import Objective
from vldistill.objectives.matching import ROWS
from vldistill.recipe.load import variant_name
from vldistill.recipe.schema.recipe import Recipe
from vldistill.training.batches import Batches, StepPairs, make_batches, step_pairs
from vldistill.training.loop import Plan
from vldistill.training.methods.table import method_of
from vldistill.training.parts import Parts
from vldistill.training.validation import Judge, by_sums


@dataclass(frozen=True)
class Stage:
    """What a command asks of a training stage. `name`: "pretrain", "finetune" or "distill". resume: go on with a run that is
    there and not complete."""

    name: str
    recipe: Recipe
    overrides: list[str]
    runs: Path = Path("runs")
    variant: str | None = None
    overwrite: bool = False
    resume: bool = False

    @property
    def folder(self) -> Path:
        """runs/<recipe>/<variant>/seed<k>."""
        variant = variant_name(self.recipe, self.overrides, self.variant)
        return self.runs / self.recipe.name / variant / f"seed{self.recipe.train.seed}"


def for_stage(name: str, recipe: Recipe) -> Recipe:
    """The recipe as a stage runs it, see `Method.for_stage`."""
    return method_of(recipe.objective.kind).for_stage(name, recipe)


@dataclass(frozen=True)
class Phase:
    """A stretch of a run with its own objective, optimiser and schedule. name: "matching" (ADVL's step 1) or "task". judge: of
    its validations."""

    name: str
    objective: Objective
    train: Any
    val: Any
    plan: Plan
    batches: Batches
    judge: Judge

    @property
    def pairs(self) -> StepPairs:
        """Pairs of an optimiser step."""
        return step_pairs(self.batches, self.plan.accumulate)

    @property
    def steps(self) -> int:
        return self.plan.last - self.plan.first


def make_phases(recipe: Recipe, parts: Parts, world: int, rank: int = 0) -> list[Phase]:
    """Steps are counted in optimiser steps of the task's own batches: a run with step 1 takes as many in all as one without."""
    batch, train, matching = recipe.train.batch, recipe.train, parts.matching
    batches = make_batches(recipe, parts.train, rank=rank, world=world)
    per_epoch = max(len(batches) // batch.accumulate, 1)
    unit, length = train.length
    steps = length if unit == "steps" else length * per_epoch
    every = per_epoch if train.validate_every == "epoch" else train.validate_every
    first = min(max(round(matching.fraction * steps), 1), steps - 1) if matching and steps > 1 else 0

    def plan(start: int, end: int) -> Plan:
        return Plan(start, end, batch.accumulate, every, train.log_every, recipe.optim.clip, train.seed)

    judge = method_of(recipe.objective.kind).judge(parts)
    task = Phase("task", parts.objective, parts.train, parts.val, plan(first, steps), batches, judge)
    if matching is None or not first:
        return [task]
    batches = make_batches(recipe, matching.train, rows=ROWS, rank=rank, world=world)
    return [Phase("matching", matching.objective, matching.train, matching.val, plan(0, first), batches, by_sums), task]
