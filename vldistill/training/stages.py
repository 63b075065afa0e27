"""The training stages: `finetune` (labels alone) and `distill` (with a teacher), from a recipe to a run on disk."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vldistill.artifacts import file_digest, new_manifest, refuse_existing, write_manifest, write_text
from vldistill.data.loading import CleanBatches, EpochBatches, make_loader
from vldistill.errors import InputError
from vldistill.models.checkpoint import resolve_model, save_model
from vldistill.recipe import dump_recipe, recipe_hash, variant_name
from vldistill.runtime import choose_precision, device_name, is_first_rank, make_accelerator, refuse_unlaunched, seed_everything
from vldistill.schema import LabelsObjective, Recipe
from vldistill.training.build import Parts, build_parts
from vldistill.training.inference import answer, score
from vldistill.training.journal import Journal
from vldistill.training.loop import Learner, Plan, fit
from vldistill.training.optim import linear_schedule, make_optimizer, parameter_groups, warmup_steps


@dataclass(frozen=True)
class Stage:
    """What a command asks of a training stage. `name`: "finetune" or "distill"."""

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
    refuses a recipe that has nothing to distil."""
    if name == "finetune":
        labels = LabelsObjective(kind="labels", answer_loss=recipe.objective.answer_loss)
        return recipe.model_copy(update={"teacher": None, "objective": labels})
    if recipe.objective.kind == "labels":
        raise InputError("has no teacher to distil from", where=f"recipe {recipe.name}",
                         hint=f"train it with: vldistill finetune --recipe {recipe.name}")
    if recipe.cache.mode == "require" and recipe.teacher is not None:
        raise InputError(f"cache.mode is `require`, but a {recipe.teacher.kind} teacher has nothing to cache and runs live",
                         where=f"recipe {recipe.name}", hint="set cache.mode=auto")
    return recipe


def make_plan(recipe: Recipe, parts: Parts, world: int) -> tuple[Plan, EpochBatches, int]:
    """Steps counted in optimiser steps, the batches of this rank's first epoch, and the effective batch."""
    batch, train = recipe.train.batch, recipe.train
    batches = EpochBatches(len(parts.train), batch.pairs, seed=train.seed, world=world)
    per_epoch = max(len(batches) // batch.accumulate, 1)
    steps = train.steps or train.epochs * per_epoch
    every = per_epoch if train.validate_every == "epoch" else train.validate_every
    plan = Plan(steps, batch.accumulate, every, train.log_every, recipe.optim.clip, train.seed)
    return plan, batches, min(batch.pairs * world, len(parts.train)) * batch.accumulate


def describe(stage: Stage, parts: Parts, world: int = 1) -> dict[str, str]:
    """What the stage would do, for `--dry-run` and the head of the log."""
    recipe = stage.recipe
    plan, batches, effective = make_plan(recipe, parts, world)
    trained = sum(p.numel() for p in parts.student.parameters() if p.requires_grad)
    trained += sum(p.numel() for p in parts.objective.parameters())
    frozen = sum(p.numel() for p in parts.teacher.model.parameters()) if parts.teacher else 0
    warmup = warmup_steps(recipe.optim.warmup, plan.steps)
    rows = {
        "data": f"{recipe.data.path}: {len(parts.train)} training, {len(parts.val)} validation records of `{parts.data.task}`"
                + (f"; {parts.dropped} without a usable answer left out" if parts.dropped else ""),
        "student": f"{recipe.student.kind} from {recipe.student.init or 'scratch'}, {trained:,} parameters trained",
        "teacher": f"{recipe.teacher.kind} {recipe.teacher.model}, {frozen:,} parameters frozen" if parts.teacher else "none",
        "objective": _describe_objective(recipe),
        "optimiser steps": f"{plan.steps} ({plan.steps * effective / len(parts.train):.1f} epochs), {warmup} of warm-up",
        "effective batch": f"{effective} pairs = {batches.batch} x {plan.accumulate} accumulated x {world} process(es)",
        "validation": f"every {plan.validate_every} steps on `{recipe.data.val}`; the best is kept",
        "run": f"{stage.folder}" + (" (exists: refused without --overwrite)" if stage.folder.exists() else ""),
    }
    if recipe.data.limit:
        rows["partial"] = f"only the first {recipe.data.limit} records a split"
    return rows


def _describe_objective(recipe: Recipe) -> str:
    chosen = recipe.objective
    if chosen.kind == "labels":
        return "ground-truth labels"
    parts = [f"attention ({chosen.attention}, {chosen.layers} layer)"] if chosen.attention != "none" else []
    parts += ["soft labels"] * chosen.soft_labels + ["hidden states"] * chosen.hidden_states
    parts += [f"ground-truth labels x {chosen.hard_label_weight:g}"] * bool(chosen.hard_label_weight)
    return " + ".join(parts)


def run_stage(stage: Stage) -> dict[str, Any]:
    """Trains and writes the run; returns its manifest. Raises InputError before anything is written where an input is bad."""
    recipe, folder = stage.recipe, stage.folder
    refuse_unlaunched()
    if is_first_rank():
        refuse_existing(folder, stage.overwrite)
    seed_everything(recipe.train.seed)
    parts = build_parts(recipe)
    precision = choose_precision(recipe.train.precision)
    accelerator = make_accelerator(precision, recipe.train.batch.accumulate, recipe.train.trackers, folder,
                                   reaches_all=parts.objective.reaches_all)
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
    started = time.perf_counter()
    try:
        best = _train(stage, parts, accelerator, precision)
    except BaseException as error:
        manifest["status"] = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        if accelerator.is_main_process:
            write_manifest(folder, manifest)
        raise
    manifest |= {"best": {"step": best.step, **best.metrics}, "wall_s": round(time.perf_counter() - started, 1),
                 "status": "complete", "complete": True}
    if accelerator.is_main_process:
        write_manifest(folder, manifest)
    return manifest


def _train(stage: Stage, parts: Parts, accelerator, precision):
    recipe, folder, world = stage.recipe, stage.folder, accelerator.num_processes
    plan, batches, effective = make_plan(recipe, parts, world)
    batches.rank = accelerator.process_index
    optim = recipe.optim
    learner = Learner(parts.student, parts.objective)
    groups = parameter_groups(parts.student, parts.objective, weight_decay=optim.weight_decay, lr=optim.lr,
                              head_lr_multiplier=optim.head_lr_multiplier)
    optimizer = make_optimizer(groups, betas=tuple(optim.betas), eps=optim.eps)
    schedule = linear_schedule(optimizer, warmup_steps(optim.warmup, plan.steps), plan.steps)
    learner, optimizer = accelerator.prepare(learner, optimizer)
    teacher = parts.teacher.to(accelerator.device) if parts.teacher else None
    loader = make_loader(parts.train, batches, workers=recipe.data.workers)
    clean = CleanBatches(len(parts.val), recipe.train.eval_pairs or recipe.train.batch.pairs, rank=accelerator.process_index,
                         world=world)
    val_loader = make_loader(parts.val, clean, workers=recipe.data.workers)

    def validate() -> dict[str, Any]:
        answers = answer(parts.student, val_loader, parts.spec.labels, accelerator.device, autocast=accelerator.autocast)
        return score(parts.val.records, _gathered(answers, parts.val.records, world), parts.spec.labels)

    def save() -> None:
        if accelerator.is_main_process:
            save_model(folder / "model", parts.student, parts.spec, parts.tokenizer)

    tracker = None
    if recipe.train.trackers:
        accelerator.init_trackers("vldistill", config={"recipe": recipe.name, "seed": recipe.train.seed})
        tracker = accelerator.log
    with Journal(folder, plan.steps, active=accelerator.is_main_process, tracker=tracker) as journal:
        for name, value in describe(stage, parts, world).items():
            if name != "run":
                journal.say(f"{name}: {value}")
        journal.say(f"computing on: {device_name(accelerator.device)}, {precision.name} ({precision.reason}), "
                    f"{world} process(es), {effective} pairs a step")
        best = fit(learner, teacher, optimizer, schedule, loader, batches, accelerator, plan, journal,
                   validate=validate, save=save)
        journal.say(f"best: accuracy {best.metrics['accuracy']:.4f} at step {best.step}; model in {folder / 'model'}")
    accelerator.end_training()
    return best


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
    for role, source in (("init", recipe.student.init), ("teacher", recipe.teacher.model if recipe.teacher else None)):
        if source:
            weights = resolve_model(source) / "model.safetensors"
            parents[role] = file_digest(weights) if weights.exists() else source
    return parents
