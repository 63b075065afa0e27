"""Losses on ground-truth labels. Which one a model is trained with is its own (UNITER, VL-BERT and ViLT each differ on VCR)."""

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


def label_bce(logits: Tensor, target: Tensor) -> Tensor:
    """A sigmoid for each class: binary cross-entropy, mean over batch and classes, times the number of classes, fp32 (UNITER on
    SNLI-VE). logits: [B, C]; target: [B] class indices."""
    return answer_bce(logits, F.one_hot(target, logits.shape[-1]))


def choice_bce(logits: Tensor, target: Tensor) -> Tensor:
    """A sigmoid for each choice: binary cross-entropy, mean over batch and choices, fp32 (VL-BERT on VCR). logits: [B, C];
    target: [B] index of the right choice."""
    return F.binary_cross_entropy_with_logits(logits.float(), F.one_hot(target, logits.shape[-1]).float())


def choice_pairs(pairs: Tensor, target: Tensor) -> Tensor:
    """Each choice an example of its own, wrong or right: cross-entropy, mean over batch and choices, fp32 (UNITER on VCR).
    pairs: [B, C, 2]; target: [B] index of the right choice."""
    return F.cross_entropy(pairs.float().flatten(0, 1), F.one_hot(target, pairs.shape[1]).flatten())
