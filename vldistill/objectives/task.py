"""Losses on ground-truth labels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def label_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy, batch mean, fp32. logits: [B, C]; target: [B] class indices."""
    return F.cross_entropy(logits.float(), target)


def answer_bce(logits: Tensor, target: Tensor) -> Tensor:
    """VQA: binary cross-entropy against soft answer scores, mean over batch and answers, times the number of answers.

    logits: [B, A]; target: [B, A] in [0, 1].
    """
    return F.binary_cross_entropy_with_logits(logits.float(), target.float()) * logits.shape[-1]


def answer_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """VQA with one softmax over all answers: cross-entropy against the soft scores, batch mean, fp32.

    logits: [B, A]; target: [B, A] in [0, 1], used as it is (a question's scores may sum to more or less than 1).
    """
    return -(target.float() * logits.float().log_softmax(dim=-1)).sum(dim=-1).mean()
