"""Rows of all processes in one tensor, with gradients, so that each process may compare its own with everybody's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def processes() -> tuple[int, int]:
    """This process's rank, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def gather(rows: Tensor) -> Tensor:
    """[B, ...] of each process, all of equal shape, to [W * B, ...], those of rank 0 first.

    The gradient of a row is the sum of what all processes ask of it. Where every process takes the mean over its own rows, and
    their gradients are averaged (as DDP does), the result is the gradient of the mean over all rows.
    """
    return _Gather.apply(rows) if processes()[1] > 1 else rows


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        context.rows = len(rows)
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        # A reduce-scatter would move half as much, but gloo has none.
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        start = dist.get_rank() * context.rows
        return total[start : start + context.rows]
