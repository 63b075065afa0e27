"""Distances between features, and a word's features among a sequence's tokens (ADVL, section 3.2.2), aligned by word index, never
by token position."""

from __future__ import annotations

import torch
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


def word_features(states: Tensor, words: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over each selected word's tokens, fp32.

    states: [S, T, D]. words: [S, T] word index of each token, -1 at specials. index: [S, m] selected words, -1 for none. Returns
    features [S, m, D] and [S, m] bool, False where there is no such word or all its tokens were cut off (features are then zero).
    """
    member = (words[:, None, :] == index[:, :, None]) & (index[:, :, None] >= 0)
    counts = member.sum(dim=-1)
    # Autocast would take the product back to half precision.
    with torch.autocast(states.device.type, enabled=False):
        sums = member.float() @ states.float()
    return sums / counts.clamp(min=1)[..., None], counts > 0
