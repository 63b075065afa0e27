"""Contrastive objectives."""

from __future__ import annotations

import torch
from torch import Tensor


def itm_info_nce(scores: Tensor) -> Tensor:
    """Image-text matching by InfoNCE (ADVL, Eq. 6): -log softmax of the matched pair's score, batch mean, fp32.

    scores: [B, 3] of (image, text), (image, another text), (another image, text), divided by the temperature: what the head says,
    as probabilities (the paper's) or logits. With probabilities at temperature 1 the loss lies between ln(1 + 2 / e) and
    ln(1 + 2e).
    """
    return -scores.float().log_softmax(dim=-1)[:, 0].mean()


def mismatched(same: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """For each row another row to take its image or text from, uniformly among those that are not the same.

    same: [B, B] bool, True where two rows hold the same image (or text), the diagonal included. Returns [B] row numbers, -1 where
    every other row is the same.
    """
    draws = torch.rand(same.shape, generator=generator, device=same.device).masked_fill(same, -1.0)
    best, row = draws.max(dim=-1)
    return row.masked_fill(best < 0, -1)
