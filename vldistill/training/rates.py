"""From a recipe's `optim` section to the optimiser and the schedule of a phase, and what a plan says of them."""

from __future__ import annotations

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from vldistill.recipe.schema.recipe import Recipe
from vldistill.training.optim import (
    linear_schedule,
    make_optimizer,
    milestone_steps,
    parameter_groups,
    phase_rate,
    stepped_schedule,
    warmup_steps,
)


def build_optimizer(recipe: Recipe, student: nn.Module, objective: nn.Module, pairs: float) -> Optimizer:
    """pairs: of an optimiser step, over all processes."""
    optim = recipe.optim
    groups = parameter_groups(
        student,
        objective,
        weight_decay=optim.weight_decay,
        decay_all={"weights": False, "all": True}[optim.decay],
        lr=phase_rate(optim.lr, optim.lr_scale, pairs),
        head_lr_multiplier=optim.head_lr_multiplier,
        cross_lr_multiplier=optim.cross_lr_multiplier,
        objective_lr_multiplier=getattr(recipe.objective, "lr_multiplier", 1.0),
    )
    return make_optimizer(groups, kind=optim.kind, betas=(optim.betas[0], optim.betas[1]), eps=optim.eps, momentum=optim.momentum)


def build_schedule(recipe: Recipe, optimizer: Optimizer, steps: int) -> LRScheduler:
    """steps: of the phase."""
    warmup = warmup_steps(recipe.optim.warmup, steps)
    schedules = {
        "linear": lambda: linear_schedule(optimizer, warmup, steps),
        "steps": lambda: stepped_schedule(optimizer, warmup, _milestones(recipe, steps), recipe.optim.factor),
    }
    return schedules[recipe.optim.schedule]()


def describe_rates(recipe: Recipe, steps: int, pairs: float) -> str:
    """The optimiser and how its learning rate goes through a phase's steps."""
    optim = recipe.optim
    name = {"adamw": "AdamW", "sgd": f"SGD, momentum {optim.momentum or 0:g}"}[optim.kind]
    rate = f"lr {phase_rate(optim.lr, optim.lr_scale, pairs):.4g}"
    if optim.lr_scale == "per_sample":
        rate += f" = {optim.lr:g} x {pairs:g} pairs a step"
    warmup = f"{warmup_steps(optim.warmup, steps)} steps of warm-up"
    course = "linear to 0"
    if optim.schedule == "steps":
        course = f"x {optim.factor:g} after {', '.join(map(str, _milestones(recipe, steps)))} steps"
    return f"{name}, {rate}; {warmup}, then {course}"


def _milestones(recipe: Recipe, steps: int) -> list[int]:
    return milestone_steps(recipe.optim.milestones, recipe.train.length[1], steps)
