"""A phase of a run: its optimiser, its validation, and its best student on disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from vldistill.data.loading import CleanBatches, Loader, check_together, make_loader
from vldistill.data.records import Record
from vldistill.models.checkpoint import save_model
from vldistill.objectives.retrieval import DualRetrieval
from vldistill.schema import Recipe
from vldistill.training.adversarial import Adversarial
from vldistill.training.batches import eval_pairs
from vldistill.training.best import digests_of, folder_of
from vldistill.training.build import Parts
from vldistill.training.inference import Answer, answer, score
from vldistill.training.journal import Journal
from vldistill.training.loop import Best, Keeper, Learner, Passes, Teacher, Watch, descend, fit
from vldistill.training.pretext import pretext_metrics
from vldistill.training.rates import build_optimizer, build_schedule
from vldistill.training.retrieval import validated_by_recall
from vldistill.training.sharding import gathered, is_sharded, spread, weights_together
from vldistill.training.stages import Phase


def run_phase(
    phase: Phase, recipe: Recipe, parts: Parts, accelerator: Accelerator, teacher: Teacher | None, journal: Journal,
    keeper: Keeper, *, out: Path | None,
) -> Best:
    """Trains from a fresh optimiser, or from the keeper's checkpoint, to the phase's end; the student and what phases share are
    trained in place. out: the run's folder, where the best student is to be kept."""
    world, rank = accelerator.num_processes, accelerator.process_index
    optimizer = build_optimizer(recipe, parts.student, phase.objective, phase.pairs.mean)
    schedule = build_schedule(recipe, optimizer, phase.steps)
    learner = Learner(parts.student, phase.objective)
    if is_sharded(parts.student):
        spread(phase.objective.to(accelerator.device).parameters(), accelerator)
        optimizer = accelerator.prepare(optimizer)
    else:
        learner, optimizer = accelerator.prepare(learner, optimizer)
    loader = make_loader(phase.train, phase.batches, workers=recipe.data.workers, told=keeper.told)
    clean = CleanBatches(len(phase.val), eval_pairs(recipe), rank=rank, world=world)
    val_loader = make_loader(phase.val, clean, workers=recipe.data.workers, told=keeper.told)
    # Where training stops for a validation, its next batches are on their way as well.
    check_together(loader, val_loader)

    def validate() -> dict[str, Any]:
        # Running statistics are each process's own; those of the first are saved.
        spread((buffer for buffer in parts.student.buffers() if buffer.is_floating_point()), accelerator)
        with weights_together(parts.student):
            return _judged(phase, recipe, parts, accelerator, val_loader, keeper.watch)

    def save(step: int) -> dict[str, str]:
        weights, folder = gathered(parts.student.state_dict(), accelerator), folder_of(out, step)
        if not accelerator.is_main_process:
            return {}
        shutil.rmtree(folder, ignore_errors=True)  # of a run that has been here before
        save_model(folder, parts.student, parts.spec, parts.tokenizer, weights=weights)
        return digests_of(folder)

    best = fit(learner, teacher, optimizer, schedule, loader, phase.batches, accelerator, phase.plan, journal, validate=validate,
               save=save if out is not None else None, passes=_passes(recipe, phase, parts), keeper=keeper)
    # A second set of gradient hooks on the same parameters would stay with them.
    accelerator.free_memory(learner, optimizer)
    return best


def _judged(
    phase: Phase, recipe: Recipe, parts: Parts, accelerator: Accelerator, loader: Loader, watch: Watch
) -> dict[str, Any]:
    """The student's metrics over the whole validation split. loader: this process's share. watch: leaves its batches where the
    run is to leave."""
    if phase.objective.judged:
        return pretext_metrics(parts.student, phase.objective, watch(loader), accelerator, seed=recipe.train.seed)
    if isinstance(phase.objective, DualRetrieval):
        return validated_by_recall(parts.student, phase.val, accelerator, batch=eval_pairs(recipe), workers=recipe.data.workers,
                                   watch=watch)
    answers = answer(parts.student, watch(loader), parts.spec.labels, accelerator.device, autocast=accelerator.autocast,
                     tags=parts.spec.target == "tags")
    return score(phase.val.records, _of_all(answers, phase.val.records, accelerator), parts.spec.labels)


def _of_all(answers: list[Answer], records: list[Record], accelerator: Accelerator) -> list[Answer]:
    """All ranks' answers in the order of the records."""
    if accelerator.num_processes == 1:
        return answers
    from accelerate.utils import gather_object

    by_id = {given.id: given for given in gather_object(answers)}
    return [by_id[record.id] for record in records]


def _passes(recipe: Recipe, phase: Phase, parts: Parts) -> Passes:
    """Step 1 has no predictions of the task to keep in place, so it is trained without perturbation."""
    chosen = recipe.adversarial
    if chosen is None or phase.name == "matching":
        return descend
    return Adversarial(chosen.steps, chosen.lr, chosen.kl, chosen.text, chosen.image, parts.data.spec.target)
