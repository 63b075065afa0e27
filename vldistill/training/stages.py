"""The training stages, from a recipe to a run on disk: `pretrain` (without labels), `finetune` (labels alone) and `distill` (with
a teacher)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vldistill.data.artifact import open_data
from vldistill.data.loading import RecordDataset
from vldistill.data.mixing import MixedDataset
from vldistill.data.pretext import MLM, PRETRAINING
from vldistill.data.regions.network import ImageNetwork
from vldistill.data.regions.store import DETECTOR, VLBERT, RegionStore
from vldistill.data.size_rules import size_faults
from vldistill.errors import InputError
from vldistill.models.checkpoint import ModelSpec
from vldistill.objectives.base import Objective
from vldistill.objectives.matching import ROWS
from vldistill.recipe import variant_name
from vldistill.schema import AdvlObjective, DideObjective, LabelsObjective, PretrainObjective, Recipe, Teachers
from vldistill.training.batches import Batches, StepPairs, describe_batch, make_batches, step_pairs
from vldistill.training.build import Parts
from vldistill.training.loop import Plan
from vldistill.training.rates import describe_rates
from vldistill.training.retrieval import describe_retrieval, for_retrieval


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
    """The recipe as a stage runs it: `finetune` drops teacher and distillation, and is every recipe's baseline; `distill`
    refuses a recipe that has nothing to distil, `pretrain` one that has another objective, and the others one for `pretrain`."""
    if (recipe.objective.kind == "pretrain") != (name == "pretrain"):
        alone = recipe.objective.kind in ("labels", "retrieval")
        right = "pretrain" if name != "pretrain" else "finetune" if alone else "distill"
        raise InputError(f"has objective `{recipe.objective.kind}`", where=f"recipe {recipe.name}",
                         hint=f"train it with: vldistill {right} --recipe {recipe.name}")
    if name == "pretrain":
        return recipe
    if recipe.objective.kind == "retrieval":
        return for_retrieval(name, recipe)
    if name == "finetune":
        labels = LabelsObjective(kind="labels", answer_loss=recipe.objective.answer_loss)
        return recipe.model_copy(update={"teacher": None, "teachers": Teachers(), "objective": labels})
    if recipe.objective.kind == "labels":
        raise InputError("has no teacher to distil from", where=f"recipe {recipe.name}",
                         hint=f"train it with: vldistill finetune --recipe {recipe.name}")
    if recipe.cache.mode == "require" and recipe.objective.kind == "dide" and recipe.teacher is not None:
        raise InputError(f"cache.mode is `require`, but a {recipe.teacher.kind} teacher has nothing to cache and runs live",
                         where=f"recipe {recipe.name}", hint="set cache.mode=auto")
    return recipe


@dataclass(frozen=True)
class Phase:
    """A stretch of a run with its own objective, optimiser and schedule. name: "matching" (ADVL's step 1) or "task"."""

    name: str
    objective: Objective
    train: RecordDataset
    val: RecordDataset
    plan: Plan
    batches: Batches

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
    steps = train.steps or train.epochs * per_epoch
    every = per_epoch if train.validate_every == "epoch" else train.validate_every
    first = min(max(round(recipe.objective.itm_fraction * steps), 1), steps - 1) if matching and steps > 1 else 0

    def plan(start: int, end: int) -> Plan:
        return Plan(start, end, batch.accumulate, every, train.log_every, recipe.optim.clip, train.seed)

    task = Phase("task", parts.objective, parts.train, parts.val, plan(first, steps), batches)
    if not first:
        return [task]
    batches = make_batches(recipe, matching.train, rows=ROWS, rank=rank, world=world)
    return [Phase("matching", matching.objective, matching.train, matching.val, plan(0, first), batches), task]


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
        "student": f"{recipe.student.kind} from {_start(recipe)}, {trained:,} parameters trained",
        "teacher": parts.teacher.describe() if parts.teacher else "none",
        "objective": DESCRIPTIONS[recipe.objective.kind](recipe),
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
    if recipe.student.kind in ("clip_vil", "pixelbert"):
        rows["images"] = _describe_canvas(recipe, parts.spec)
    if parts.train.visual.seen and (told := str(size_faults(_image_sizes(recipe, parts), parts.train.visual.seen))):
        rows["image sizes"] = f"WARNING: {told}"
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


def _start(recipe: Recipe) -> str:
    clip = recipe.student.clip if recipe.student.kind == "clip_dual" else None
    return recipe.student.init or (f"{clip.model} ({clip.weights or 'its own weights'})" if clip and clip.model else "scratch")


def _describe_mix(recipe: Recipe, train: MixedDataset) -> str:
    parts = [(recipe.data.path, recipe.data.weight), *((part.path, part.weight) for part in recipe.data.mix)]
    told = [f"{share} of {Path(path).name}" + (f" (x {weight:g})" if weight != 1 else "")
            for share, (path, weight) in zip(train.shares, parts, strict=True)]
    return f"an epoch has {', '.join(told)}"


def _describe_regions(spec: ModelSpec) -> str:
    store = RegionStore(Path(spec.regions))
    told = f"{spec.regions}: {len(store):,} images, {store.features} features"
    if spec.official and store.features != DETECTOR and (spec.kind, store.features) != ("vlbert", VLBERT):
        told += ". WARNING: the student's checkpoint was trained on a detector's features; these mean nothing to it yet"
    return told


def _describe_network(network: ImageNetwork, *, flip: bool) -> str:
    blocks = "-".join(map(str, network.blocks))
    told = f"seen end to end by a ResNet of {blocks} blocks, {network.short_side} to {network.long_side} pixels a side"
    return told + ("; half of them mirrored in training, but not for teachers" if flip else "")


def _describe_canvas(recipe: Recipe, spec: ModelSpec) -> str:
    if spec.kind == "pixelbert":
        return f"{recipe.image.size} x {recipe.image.long_side} pixels, seen by {spec.encoder.network}, trained along"
    clip = recipe.student.clip
    seen = f"{clip.model} ({clip.weights or 'its own weights'})" if clip.model else "the image network of student.init"
    learns = "frozen" if clip.frozen else "trained along"
    return f"{recipe.image.size} x {recipe.image.long_side} pixels, seen by {seen}, {learns}"


def _describe_pretraining(chosen: PretrainObjective) -> str:
    names = PRETRAINING | {MLM: f"{PRETRAINING[MLM]} ({100 * chosen.mask:.0f} % of the words)"}
    tasks = " + ".join(names[task] for task in chosen.tasks)
    return f"{tasks}, from {_describe_dide(chosen)}" if chosen.distils else tasks


def _describe_dide(chosen: DideObjective | PretrainObjective) -> str:
    parts = [f"attention ({chosen.attention}, {chosen.layers} layer)"] if chosen.attention != "none" else []
    parts += ["soft labels"] * chosen.soft_labels + ["hidden states"] * chosen.hidden_states
    parts += [f"ground-truth labels x {chosen.hard_label_weight:g}"] * bool(chosen.hard_label_weight)
    return " + ".join(parts)


def _describe_advl(chosen: AdvlObjective) -> str:
    parts = [*["vision"] * chosen.vision, *["text"] * chosen.text, *[f"{chosen.words} word(s)"] * bool(chosen.words)]
    parts += ["confidence weighting"] * chosen.confidence + ["image-text matching first"] * bool(chosen.itm_fraction)
    task = "DiDE" if chosen.task else "ground-truth labels"
    return f"{task}; ADVL: {', '.join(parts)}; {chosen.map} maps, {chosen.weights} weights"


DESCRIPTIONS: dict[str, Callable[[Recipe], str]] = {
    "labels": lambda recipe: "ground-truth labels",
    "dide": lambda recipe: _describe_dide(recipe.objective),
    "advl": lambda recipe: _describe_advl(recipe.objective),
    "pretrain": lambda recipe: _describe_pretraining(recipe.objective),
    "retrieval": lambda recipe: describe_retrieval(recipe.objective, recipe.student.kind),
}
"""What a plan says of each kind of objective, see `vldistill.training.build.METHODS`."""
