"""The training stages, from a recipe to a run on disk: `pretrain` (without labels), `finetune` (labels alone) and `distill` (with
a teacher)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from vldistill.artifacts import (
    RUN_STAGES,
    file_digest,
    fingerprint,
    new_manifest,
    refuse_existing,
    write_manifest,
    write_text,
)
from vldistill.data.artifact import open_data
from vldistill.data.loading import CleanBatches, RecordDataset, make_loader
from vldistill.data.mixing import MixedDataset
from vldistill.data.pretext import MLM, PRETRAINING
from vldistill.data.regions.network import ImageNetwork
from vldistill.data.regions.store import DETECTOR, VLBERT, RegionStore
from vldistill.errors import InputError
from vldistill.models.checkpoint import ModelSpec, resolve_model, save_model
from vldistill.objectives.base import Objective
from vldistill.objectives.matching import ROWS
from vldistill.objectives.retrieval import DualRetrieval
from vldistill.recipe import dump_recipe, recipe_hash, variant_name
from vldistill.runtime import (
    Precision,
    choose_precision,
    device_name,
    is_first_rank,
    make_accelerator,
    refuse_unlaunched,
    seed_everything,
)
from vldistill.schema import AdvlObjective, DideObjective, LabelsObjective, PretrainObjective, Recipe, Teachers
from vldistill.training.adversarial import Adversarial
from vldistill.training.anchor import fit_anchors
from vldistill.training.batches import Batches, StepPairs, describe_batch, eval_pairs, make_batches, step_pairs
from vldistill.training.build import Parts, build_parts
from vldistill.training.caches import Say
from vldistill.training.cost import CostMeter
from vldistill.training.inference import answer, score
from vldistill.training.journal import Journal
from vldistill.training.loop import Best, Learner, Passes, Plan, Teacher, descend, fit
from vldistill.training.pretext import pretext_metrics
from vldistill.training.rates import build_optimizer, build_schedule, describe_rates
from vldistill.training.retrieval import describe_retrieval, for_retrieval, validated_by_recall


@dataclass(frozen=True)
class Stage:
    """What a command asks of a training stage. `name`: "pretrain", "finetune" or "distill"."""

    name: str
    recipe: Recipe
    overrides: list[str]
    runs: Path = Path("runs")
    variant: str | None = None
    overwrite: bool = False

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
        "objective": _describe_objective(recipe),
        "optimiser steps": f"{steps} ({steps * effective.mean / len(parts.train):.1f} epochs)"
                           + (f"; the first {task.plan.first} match images and texts" if task.plan.first else ""),
        "optimiser": describe_rates(recipe, task.steps, effective.mean),
        "effective batch": describe_batch(recipe, [phase.pairs for phase in phases], world),
        "validation": f"every {task.plan.validate_every} steps on `{recipe.data.val}`; the best is kept",
        "run": f"{stage.folder}" + (" (exists: refused without --overwrite)" if stage.folder.exists() else ""),
    }
    if parts.spec.regions:
        rows["regions"] = _describe_regions(parts.spec)
    if parts.spec.image_network:
        rows["images"] = _describe_network(parts.spec.image_network, flip=recipe.image.augment == "flip")
    if recipe.student.kind in ("clip_vil", "pixelbert"):
        rows["images"] = _describe_canvas(recipe, parts.spec)
    if recipe.data.limit:
        rows["partial"] = f"only the first {recipe.data.limit} records a split"
    return rows


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


def _describe_objective(recipe: Recipe) -> str:
    chosen = recipe.objective
    if chosen.kind == "labels":
        return "ground-truth labels"
    if chosen.kind == "advl":
        return _describe_advl(chosen)
    if chosen.kind == "retrieval":
        return describe_retrieval(chosen, recipe.student.kind)
    if chosen.kind == "pretrain":
        names = PRETRAINING | {MLM: f"{PRETRAINING[MLM]} ({100 * chosen.mask:.0f} % of the words)"}
        tasks = " + ".join(names[task] for task in chosen.tasks)
        return f"{tasks}, from {_describe_dide(chosen)}" if chosen.distils else tasks
    return _describe_dide(chosen)


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


def run_stage(stage: Stage, say: Say = print) -> dict[str, Any]:
    """Trains and writes the run; returns its manifest. say: told what happens before there is a log. Raises InputError before
    anything is written where an input is bad."""
    recipe, folder = stage.recipe, stage.folder
    refuse_unlaunched()
    if is_first_rank():
        refuse_existing(folder, stage.overwrite, RUN_STAGES)
    seed_everything(recipe.train.seed)
    parts = build_parts(recipe, say)
    precision = choose_precision(recipe.train.precision)
    reaches_all = all(phase.objective.reaches_all for phase in make_phases(recipe, parts, 1))
    reaches_all = reaches_all and getattr(parts.student, "reaches_all", True)
    accelerator = make_accelerator(precision, recipe.train.batch.accumulate, recipe.train.trackers, folder,
                                   reaches_all=reaches_all)
    manifest = new_manifest(
        stage.name, recipe=recipe.name, recipe_hash=recipe_hash(recipe), overrides=stage.overrides, seed=recipe.train.seed,
        parents=_parents(recipe, parts), data=str(parts.data.folder.resolve()),
        counts={"train": len(parts.train), "val": len(parts.val)},
        partial=bool(recipe.data.limit or parts.data.manifest.get("partial")), status="running",
        device=device_name(accelerator.device), precision=precision.name,
    )
    if accelerator.is_main_process:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        write_text(folder / "recipe.yaml", dump_recipe(recipe))
        write_manifest(folder, manifest)
    accelerator.wait_for_everyone()
    meter = CostMeter(accelerator.device)
    try:
        with meter:
            best = _train(stage, parts, accelerator, precision)
    except BaseException as error:
        manifest["status"] = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        if accelerator.is_main_process:
            write_manifest(folder, manifest)
        raise
    cost = _cost_of_all(meter.read(), accelerator)
    accelerator.end_training()
    manifest |= {"best": {"step": best.step, **best.metrics}, "wall_s": cost["seconds"], "cost": cost, "status": "complete",
                 "complete": True}
    if accelerator.is_main_process:
        write_manifest(folder, manifest)
    return manifest


def _cost_of_all(cost: dict[str, Any], accelerator: Accelerator) -> dict[str, Any]:
    """Of the ranks together: the largest memory of one, and all their GPUs' energy. A machine's CPU packages count once."""
    if accelerator.num_processes == 1:
        return cost
    from accelerate.utils import gather_object

    found = gather_object([cost])
    cost |= {name: max(one[name] for one in found) for name in ("memory_bytes", "gpu_memory_bytes") if name in cost}
    if cost.get("energy_of") == "GPU":
        cost["energy_j"] = round(sum(one.get("energy_j", 0.0) for one in found), 1)
    return cost


def _train(stage: Stage, parts: Parts, accelerator: Accelerator, precision: Precision) -> Best:
    recipe, folder, world = stage.recipe, stage.folder, accelerator.num_processes
    phases = make_phases(recipe, parts, world, accelerator.process_index)
    teacher = parts.teacher.to(accelerator.device) if parts.teacher else None
    parts.student.to(accelerator.device)

    def save() -> None:
        if accelerator.is_main_process:
            save_model(folder / "model", parts.student, parts.spec, parts.tokenizer)

    tracker = None
    if recipe.train.trackers:
        accelerator.init_trackers("vldistill", config={"recipe": recipe.name, "seed": recipe.train.seed})
        tracker = accelerator.log
    with Journal(folder, phases[-1].plan.last, active=accelerator.is_main_process, tracker=tracker) as journal:
        for name, value in describe(stage, parts, world).items():
            if name != "run":
                journal.say(f"{name}: {value}")
        journal.say(f"computing on: {device_name(accelerator.device)}, {precision.name} ({precision.reason}), "
                    f"{world} process(es), {phases[-1].pairs} pairs a step")
        if parts.anchor:
            fits = fit_anchors(parts.student, parts.objective.distances.to(accelerator.device), parts.anchor, accelerator.device,
                               batch=eval_pairs(recipe))
            shown = ", ".join(f"{name} {fit.r2:.2f}" for name, fit in fits.items())
            journal.say(f"maps anchored on {len(parts.anchor.inputs)} records without labels; variance explained: {shown}")
        for phase in phases:
            best = _run_phase(phase, recipe, parts, teacher, accelerator, journal,
                              save=save if phase is phases[-1] else None)
        journal.say(f"best: accuracy {best.metrics['accuracy']:.4f} at step {best.step}; model in {folder / 'model'}")
    return best


def _run_phase(phase: Phase, recipe: Recipe, parts: Parts, teacher: Teacher | None, accelerator: Accelerator, journal: Journal, *,
               save: Callable[[], None] | None) -> Best:
    """A phase from a fresh optimiser to its end; the student and what phases share are trained in place."""
    world, rank = accelerator.num_processes, accelerator.process_index
    optimizer = build_optimizer(recipe, parts.student, phase.objective, phase.pairs.mean)
    schedule = build_schedule(recipe, optimizer, phase.steps)
    learner, optimizer = accelerator.prepare(Learner(parts.student, phase.objective), optimizer)
    loader = make_loader(phase.train, phase.batches, workers=recipe.data.workers)
    clean = CleanBatches(len(phase.val), eval_pairs(recipe), rank=rank, world=world)
    val_loader = make_loader(phase.val, clean, workers=recipe.data.workers)

    def validate() -> dict[str, Any]:
        if phase.objective.judged:
            return pretext_metrics(parts.student, phase.objective, val_loader, accelerator, seed=recipe.train.seed)
        if isinstance(phase.objective, DualRetrieval):
            return validated_by_recall(parts.student, phase.val, accelerator, batch=eval_pairs(recipe),
                                       workers=recipe.data.workers)
        answers = answer(parts.student, val_loader, parts.spec.labels, accelerator.device, autocast=accelerator.autocast,
                         tags=parts.spec.target == "tags")
        return score(phase.val.records, _gathered(answers, phase.val.records, world), parts.spec.labels)

    best = fit(learner, teacher, optimizer, schedule, loader, phase.batches, accelerator, phase.plan, journal,
               validate=validate, save=save, passes=_passes(recipe, phase, parts))
    # A second set of gradient hooks on the same parameters would stay with them.
    accelerator.free_memory(learner, optimizer)
    return best


def _passes(recipe: Recipe, phase: Phase, parts: Parts) -> Passes:
    """Step 1 has no predictions of the task to keep in place, so it is trained without perturbation."""
    chosen = recipe.adversarial
    if chosen is None or phase.name == "matching":
        return descend
    return Adversarial(chosen.steps, chosen.lr, chosen.kl, chosen.text, chosen.image, parts.data.spec.target)


def _gathered(answers, records, world):
    """All ranks' answers in the order of the records."""
    if world == 1:
        return answers
    from accelerate.utils import gather_object

    by_id = {given.id: given for given in gather_object(answers)}
    return [by_id[record.id] for record in records]


def _parents(recipe: Recipe, parts: Parts) -> dict[str, str]:
    """Fingerprints of what the run was made from."""
    parents = {"data": parts.data.fingerprint}
    parents |= {f"data.mix.{number}": open_data(Path(part.path)).fingerprint for number, part in enumerate(recipe.data.mix)}
    if recipe.objective.kind == "advl":
        parents |= {f"teachers.{role}": fingerprint(fields) for role, fields in parts.teacher.features.fields.items()}
    for role, source in (("init", recipe.student.init), ("teacher", recipe.teacher.model if recipe.teacher else None)):
        if source:
            weights = resolve_model(source) / "model.safetensors"
            parents[role] = file_digest(weights) if weights.exists() else source
    if (file := recipe.student.image_network.weights) and Path(file).is_file():
        parents["image_network"] = file_digest(Path(file))
    return parents
