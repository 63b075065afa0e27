"""The training stages, `pretrain` (without labels), `finetune` (labels alone) and `distill` (with a teacher), their phases,
and the plan that tells what one would do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vldistill.data.artifact import open_data
from vldistill.data.datasets import MixedDataset
from vldistill.data.regions.network import ImageNetwork
from vldistill.data.regions.store import RegionStore
from vldistill.data.transforms import size_faults
from vldistill.errors import needed
from vldistill.models.base.checkpoint import ModelSpec
from vldistill.objectives.base import Objective
from vldistill.objectives.matching import ROWS
from vldistill.recipe.load import variant_name
from vldistill.recipe.schema.recipe import Recipe
from vldistill.recipe.schema.students import STUDENTS
from vldistill.training.inputs import Batches, StepPairs, describe_batch, make_batches, step_pairs
from vldistill.training.loop import PhasePlan
from vldistill.training.methods.base import method_of
from vldistill.training.optim import describe_rates
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
    plan: PhasePlan
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

    def plan(start: int, end: int) -> PhasePlan:
        return PhasePlan(start, end, batch.accumulate, every, train.log_every, recipe.optim.clip, train.seed)

    judge = method_of(recipe.objective.kind).judge(parts)
    task = Phase("task", parts.objective, parts.train, parts.val, plan(first, steps), batches, judge)
    if matching is None or not first:
        return [task]
    batches = make_batches(recipe, matching.train, rows=ROWS, rank=rank, world=world)
    return [Phase("matching", matching.objective, matching.train, matching.val, plan(0, first), batches, by_sums), task]


def _steps(count: int) -> str:
    return f"{count} steps" if count > 1 else "step"


def describe(stage: Stage, parts: Parts, world: int = 1) -> dict[str, str]:
    """What the stage would do, for `--dry-run` and the head of the log."""
    recipe = stage.recipe
    phases = make_phases(recipe, parts, world)
    task, effective = phases[-1], phases[-1].pairs
    steps = task.plan.last
    trained = sum(p.numel() for p in parts.student.parameters() if p.requires_grad)
    trained += sum(p.numel() for p in parts.objective.parameters() if p.requires_grad)
    rows = {
        "data": f"{recipe.data.path}: {len(parts.train)} training, {len(parts.val)} validation records of `{parts.data.task}`"
        + (f"; {parts.dropped} without a usable answer left out" if parts.dropped else "")
        + (f"; {_describe_mix(recipe, parts.train)}" if recipe.data.mix else ""),
        "student": f"{recipe.student.kind} from {recipe.student.start()}, {trained:,} parameters trained",
        "teacher": parts.teacher.describe() if parts.teacher else "none",
        "objective": method_of(recipe.objective.kind).describe(recipe),
        "optimiser steps": f"{steps} ({steps * effective.mean / len(parts.train):.1f} epochs)"
        + (f"; the first {task.plan.first} match images and texts" if task.plan.first else ""),
        "optimiser": describe_rates(recipe, task.steps, effective.mean),
        "effective batch": describe_batch(recipe, [phase.pairs for phase in phases], world),
        "validation": f"every {_steps(task.plan.validate_every)} on `{recipe.data.val}`; the best is kept",
        "run": f"{stage.folder}" + (" (exists: refused without --overwrite)" if stage.folder.exists() else ""),
    }
    if recipe.train.fsdp:
        rows["sharing"] = _describe_sharing(recipe, parts, world)
    if parts.spec.regions:
        rows["regions"] = _describe_regions(parts.spec)
    if parts.spec.image_network:
        rows["images"] = _describe_network(parts.spec.image_network, flip=recipe.image.augment == "flip")
    if recipe.student.sees == "letterbox":
        rows["images"] = f"{recipe.image.size} x {recipe.image.long_side} pixels, {recipe.student.look(parts.spec.encoder)}"
    if parts.train.visual.seen and (faults := str(size_faults(_image_sizes(recipe, parts), parts.train.visual.seen))):
        rows["image sizes"] = f"WARNING: {faults}"
    if recipe.data.limit:
        rows["partial"] = f"only the first {recipe.data.limit} records a split"
    return rows


def _image_sizes(recipe: Recipe, parts: Parts) -> Iterator[tuple[str, int, int]]:
    """Of all images of the data, whichever records name them."""
    for data in (parts.data, *(open_data(Path(part.path)) for part in recipe.data.mix)):
        yield from data.image_sizes(upright=parts.spec.upright)


def _describe_sharing(recipe: Recipe, parts: Parts, world: int) -> str:
    """Bytes of what FSDP shares out, in fp32: every weight, and for those that learn a gradient and the optimiser's moments."""
    if world == 1:
        return "train.fsdp, but one process has nobody to share with"
    learnt = {"adamw": 4, "sgd": 3 if recipe.optim.momentum else 2}[recipe.optim.kind]
    held = sum(4 * p.numel() * (learnt if p.requires_grad else 1) for p in parts.student.parameters())
    return f"{held / 1e6:,.1f} MB of the student's weights, gradients and moments over {world} processes (FSDP)"


def _describe_mix(recipe: Recipe, train: MixedDataset) -> str:
    parts = [(recipe.data.path, recipe.data.weight), *((part.path, part.weight) for part in recipe.data.mix)]
    shares = [
        f"{share} of {Path(path).name}" + (f" (x {weight:g})" if weight != 1 else "")
        for share, (path, weight) in zip(train.shares, parts, strict=True)
    ]
    return f"an epoch has {', '.join(shares)}"


def _describe_regions(spec: ModelSpec) -> str:
    store = RegionStore(Path(needed(spec.regions, "the store")))
    line = f"{spec.regions}: {len(store):,} images, {store.features} features"
    if spec.official and store.features not in STUDENTS[spec.kind].features:
        line += ". WARNING: the student's checkpoint was trained on a detector's features; these mean nothing to it yet"
    return line


def _describe_network(network: ImageNetwork, *, flip: bool) -> str:
    blocks = "-".join(map(str, network.blocks))
    line = f"seen end to end by a ResNet of {blocks} blocks, {network.short_side} to {network.long_side} pixels a side"
    return line + ("; half of them mirrored in training, but not for teachers" if flip else "")
