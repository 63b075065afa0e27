"""AdamW's parameter groups and the learning-rate schedule."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


def parameter_groups(
    student: nn.Module, objective: nn.Module, *, weight_decay: float, lr: float, head_lr_multiplier: float,
    objective_lr_multiplier: float = 1.0,
):
    """Groups by decay and by learning rate: biases, norms and what the objective learns do not decay; the student's `classifier`
    and the objective have learning rates of their own."""
    undecayed = {id(p) for module in student.modules() if isinstance(module, nn.LayerNorm) for p in module.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in student.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = 0.0 if id(parameter) in undecayed or name.endswith(".bias") else weight_decay
        rate = lr * head_lr_multiplier if name.startswith("classifier.") else lr
        groups.setdefault((decay, rate), []).append(parameter)
    scalars = [p for p in objective.parameters() if p.requires_grad]
    if scalars:
        groups.setdefault((0.0, lr * objective_lr_multiplier), []).extend(scalars)
    return [{"params": params, "weight_decay": decay, "lr": rate} for (decay, rate), params in groups.items()]


def make_optimizer(groups: list[dict[str, Any]], *, betas: tuple[float, float], eps: float) -> Optimizer:
    """AdamW over the groups."""
    return AdamW(groups, betas=betas, eps=eps)


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


def linear_schedule(optimizer: Optimizer, warmup: int, total: int) -> LambdaLR:
    """The schedule, to be stepped once per optimiser step."""
    return LambdaLR(optimizer, lambda step: linear_factor(step, warmup, total))
