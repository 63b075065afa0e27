"""Parameter groups, optimisers and learning-rate schedules, from a recipe's `optim` section, and what a plan says of them."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from vldistill.recipe.schema.recipe import Recipe


def parameter_groups(
    student: nn.Module,
    objective: nn.Module,
    *,
    weight_decay: float,
    lr: float,
    head_lr_multiplier: float,
    cross_lr_multiplier: float = 1.0,
    objective_lr_multiplier: float = 1.0,
    decay_all: bool = False,
):
    """Groups by decay and by learning rate: biases, norms and what the objective learns do not decay; the student's `classifier`,
    METER's `cross_modal` parts and the objective have learning rates of their own. decay_all: the student's biases and norms
    decay too."""
    norms = {id(p) for module in student.modules() if isinstance(module, nn.LayerNorm) for p in module.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        if not parameter.requires_grad:
            continue
        spared = not decay_all and (id(parameter) in norms or name.endswith(".bias"))
        decay = 0.0 if spared else weight_decay
        rate = lr
        if name.startswith("classifier."):
            rate *= head_lr_multiplier
        elif "cross_modal_" in name:
            rate *= cross_lr_multiplier
        groups.setdefault((decay, rate), []).append(parameter)
    scalars = [p for p in objective.parameters() if p.requires_grad]
    if scalars:
        groups.setdefault((0.0, lr * objective_lr_multiplier), []).extend(scalars)
    return [{"params": params, "weight_decay": decay, "lr": rate} for (decay, rate), params in groups.items()]


def make_optimizer(
    groups: list[dict[str, Any]],
    *,
    kind: str = "adamw",
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-8,
    momentum: float | None = None,
) -> Optimizer:
    """ "adamw", or "sgd" with `momentum`, over the groups."""
    makers = {"adamw": lambda: AdamW(groups, betas=betas, eps=eps), "sgd": lambda: SGD(groups, momentum=momentum or 0.0)}
    return makers[kind]()


def phase_rate(lr: float, scale: str, pairs: float) -> float:
    """The peak learning rate. scale: "none", or "per_sample": `lr` is for one of the `pairs` of an optimiser step, as VL-BERT's
    configurations give it."""
    return {"none": lr, "per_sample": lr * pairs}[scale]


def warmup_steps(warmup: float, total: int) -> int:
    """Optimiser steps of warm-up: a fraction of `total` below 1, else a count."""
    return min(round(warmup * total) if warmup < 1 else int(warmup), total)


def linear_factor(step: int, warmup: int, total: int) -> float:
    """Learning-rate factor of optimiser step `step` (from 0): up to 1 over `warmup` steps, then linearly down towards 0.

    >>> [linear_factor(step, 2, 6) for step in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step < warmup:
        return (step + 1) / warmup
    return max((total - step) / max(total - warmup, 1), 0.0)


def milestone_steps(milestones: list[float], length: int, total: int) -> list[int]:
    """Milestones as optimiser steps of a phase of `total`. They are fractions below 1, else counts of the run's `length` (its
    epochs or steps), and keep their proportion in a phase that is shorter than the run.

    >>> milestone_steps([14, 18, 26], 30, 600), milestone_steps([0.5], 30, 600)
    ([280, 360, 520], [300])
    """
    return [round((place if place < 1 else place / length) * total) for place in milestones]


def stepped_factor(step: int, warmup: int, milestones: list[int], factor: float) -> float:
    """Learning-rate factor of optimiser step `step` (from 0): up to 1 over `warmup` steps, and times `factor` from each of the
    rising `milestones` on (VL-BERT's schedule).

    >>> [stepped_factor(step, 2, [4, 5], 0.5) for step in range(6)]
    [0.5, 1.0, 1.0, 1.0, 0.5, 0.25]
    """
    return min((step + 1) / max(warmup, 1), 1.0) * factor ** bisect_right(milestones, step)


def linear_schedule(optimizer: Optimizer, warmup: int, total: int) -> LambdaLR:
    """The schedule, to be stepped once per optimiser step."""
    return LambdaLR(optimizer, lambda step: linear_factor(step, warmup, total))


def stepped_schedule(optimizer: Optimizer, warmup: int, milestones: list[int], factor: float) -> LambdaLR:
    """The same with steps at milestones."""
    return LambdaLR(optimizer, lambda step: stepped_factor(step, warmup, milestones, factor))


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
