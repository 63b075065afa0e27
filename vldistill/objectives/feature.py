"""Distances between features."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def masked_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over features and valid tokens, fp32. student, teacher: [B, S, D]; mask: [B, S] bool."""
    squared = (student.float() - teacher.float()).square().mean(dim=-1)
    return squared.masked_fill(~mask, 0.0).sum() / mask.sum()


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens of `mask`, fp32; zero where it has none. states: [B, S, D]; mask: [B, S] bool. Returns [B, D]."""
    counts = mask.sum(dim=-1, keepdim=True).clamp(min=1)
    return states.float().masked_fill(~mask[..., None], 0.0).sum(dim=-2) / counts


def unit_l1(student: Tensor, teacher: Tensor) -> Tensor:
    """L1 distance of features divided by their L2 norms, summed over features, fp32 (ADVL, Eq. 1 and 4).

    student, teacher: [..., D]. Returns [...], between 0 and 2 * sqrt(D); the distance of random directions grows as sqrt(D).
    """
    own, other = (F.normalize(features.float(), dim=-1) for features in (student, teacher))
    return (own - other).abs().sum(dim=-1)
