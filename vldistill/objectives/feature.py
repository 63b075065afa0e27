"""Distances between features."""

from __future__ import annotations

from torch import Tensor


def masked_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over features and valid tokens, fp32. student, teacher: [B, S, D]; mask: [B, S] bool."""
    squared = (student.float() - teacher.float()).square().mean(dim=-1)
    return squared.masked_fill(~mask, 0.0).sum() / mask.sum()
