"""The first gradients of ADVL's phases, in one process or in each of several.

Each process writes OUT/<rank>.safetensors, in which `task.scalars.raw` is the gradient of T, E and F in the phase "task".
"""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor

from vldistill.data.batch import Batch
from vldistill.data.loading import make_loader
from vldistill.data.samplers import EpochBatches
from vldistill.recipe.load import load_recipe
from vldistill.recipe.schema.recipe import Recipe
from vldistill.runtime import choose_precision, make_accelerator, seed_everything
from vldistill.training.build import build_parts
from vldistill.training.loop import Learner, forward_backward
from vldistill.training.parts import Parts
from vldistill.training.stages import Phase, make_phases


def load(file: Path) -> tuple[Recipe, Parts]:
    """The recipe and its parts, with the student's weights that its seed gives."""
    recipe = load_recipe(str(file))
    seed_everything(recipe.train.seed)
    return recipe, build_parts(recipe, print)


def first_batch(phase: Phase, recipe: Recipe, *, rank: int, world: int, times: int = 1) -> Batch:
    """What a process reads first. times: of the recipe's batch."""
    batches = EpochBatches(len(phase.train), times * recipe.train.batch.pairs, seed=recipe.train.seed, rank=rank, world=world)
    return next(iter(make_loader(phase.train, batches)))


def gradients(phase: Phase, parts: Parts, accelerator: Accelerator, batch: Batch, seed: int) -> dict[str, Tensor]:
    """Of everything that the phase's objective learns, and the sum of the student's magnitudes, after one backward pass. seed: of
    the mismatches that are drawn."""
    learner = accelerator.prepare(Learner(parts.student, phase.objective))
    learner.train()
    torch.manual_seed(seed)
    taught = parts.teacher(batch, phase.objective.teacher_capture)
    forward_backward(learner, phase.objective.prepare_batch(batch), taught, accelerator)
    found = {f"{phase.name}.{name}": parameter.grad.clone() for name, parameter in phase.objective.named_parameters()}
    found[f"{phase.name}.student"] = sum(p.grad.abs().sum() for p in parts.student.parameters() if p.grad is not None)
    accelerator.free_memory(learner)
    for parameter in (*parts.student.parameters(), *phase.objective.parameters()):
        parameter.grad = None
    return found


def main(recipe_file: Path, out: Path) -> None:
    recipe, parts = load(recipe_file)
    phases = make_phases(recipe, parts, 2)
    uses_all_parameters = all(phase.objective.uses_all_parameters for phase in phases)
    accelerator = make_accelerator(choose_precision("fp32"), 1, [], out, uses_all_parameters=uses_all_parameters)
    rank, world = accelerator.process_index, accelerator.num_processes
    found = {}
    for phase in phases:
        found |= gradients(phase, parts, accelerator, first_batch(phase, recipe, rank=rank, world=world), seed=rank)
    save_file(found, out / f"{rank}.safetensors")
    accelerator.end_training()
