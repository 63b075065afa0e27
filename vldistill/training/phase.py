"""A phase of a run: its optimiser, its validation, and its best student on disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from vldistill.data.loading import check_together, make_loader
from vldistill.data.samplers import CleanBatches
from vldistill.errors import needed
from vldistill.models.base.checkpoint import save_model
from vldistill.recipe.schema.recipe import Recipe
from vldistill.training.adversarial import AdversarialStep
from vldistill.training.best import digests_of, folder_of
from vldistill.training.inputs import eval_pairs
from vldistill.training.loop import Best, Checkpointer, Learner, StepFn, Teacher, fit, forward_backward
from vldistill.training.optim import build_optimizer, build_schedule
from vldistill.training.parts import Parts
from vldistill.training.run_log import RunLog
from vldistill.training.sharding import gathered, is_sharded, spread, weights_together
from vldistill.training.stages import Phase
from vldistill.training.validation import Validation


def run_phase(
    phase: Phase,
    recipe: Recipe,
    parts: Parts,
    accelerator: Accelerator,
    teacher: Teacher | None,
    run_log: RunLog,
    checkpointer: Checkpointer,
    *,
    out: Path | None,
) -> Best:
    """Trains from a fresh optimiser, or from the checkpointer's checkpoint, to the phase's end; the student and what phases
    share are trained in place. out: the run's folder, where the best student is to be kept."""
    world, rank = accelerator.num_processes, accelerator.process_index
    optimizer = build_optimizer(recipe, parts.student, phase.objective, phase.pairs.mean)
    schedule = build_schedule(recipe, optimizer, phase.steps)
    learner = Learner(parts.student, phase.objective)
    if is_sharded(parts.student):
        spread(phase.objective.to(accelerator.device).parameters(), accelerator)
        optimizer = accelerator.prepare(optimizer)
    else:
        learner, optimizer = accelerator.prepare(learner, optimizer)
    loader = make_loader(phase.train, phase.batches, workers=recipe.data.workers, leaving=checkpointer.leaving)
    clean = CleanBatches(len(phase.val), eval_pairs(recipe), rank=rank, world=world)
    val_loader = make_loader(phase.val, clean, workers=recipe.data.workers, leaving=checkpointer.leaving)
    # Where training stops for a validation, its next batches are on their way as well.
    check_together(loader, val_loader)

    asked = Validation(
        parts.student,
        parts.spec,
        phase.objective,
        phase.val,
        val_loader,
        accelerator,
        checkpointer.watch,
        recipe.train.seed,
        eval_pairs(recipe),
        recipe.data.workers,
    )

    def validate() -> dict[str, Any]:
        # Running statistics are each process's own; those of the first are saved.
        spread((buffer for buffer in parts.student.buffers() if buffer.is_floating_point()), accelerator)
        with weights_together(parts.student):
            return phase.judge(asked)

    def save(step: int) -> dict[str, str]:
        weights, folder = gathered(parts.student.state_dict(), accelerator), folder_of(needed(out, "the run's folder"), step)
        if not accelerator.is_main_process:
            return {}
        shutil.rmtree(folder, ignore_errors=True)  # of a run that has been here before
        save_model(folder, parts.student, parts.spec, parts.tokenizer, weights=weights)
        return digests_of(folder)

    best = fit(
        learner,
        teacher,
        optimizer,
        schedule,
        loader,
        phase.batches,
        accelerator,
        phase.plan,
        run_log,
        validate=validate,
        save=save if out is not None else None,
        step_fn=_step_fn(recipe, phase, parts),
        checkpointer=checkpointer,
    )
    # A second set of gradient hooks on the same parameters would stay with them.
    accelerator.free_memory(learner, optimizer)
    return best


def _step_fn(recipe: Recipe, phase: Phase, parts: Parts) -> StepFn:
    """Step 1 has no predictions of the task to keep in place, so it is trained without perturbation."""
    chosen = recipe.adversarial
    if chosen is None or phase.name == "matching":
        return forward_backward
    return AdversarialStep(chosen.steps, chosen.lr, chosen.kl, chosen.text, chosen.image, parts.data.spec.target)
