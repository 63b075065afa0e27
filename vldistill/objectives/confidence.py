"""Adaptive confidence-based weighting (ADVL, section 3.2.1): the surer the student, the less its teachers interfere."""

from __future__ import annotations

from torch import Tensor

FLOOR = 0.5
"""Least reference confidence: a student that is right by luck early on shall not count as sure (section 3.2.1)."""


def confidence(logits: Tensor) -> Tensor:
    """C: the largest softmax probability over the classes a question offers, without a gradient, fp32: a student that could
    raise it to lower its loss would become overconfident. logits: [B, C]. Returns [B] in (0, 1]."""
    return logits.detach().float().softmax(dim=-1).amax(dim=-1)


def distillation_weight(confidence: Tensor, reference: Tensor | float, temperature: Tensor | float) -> Tensor:
    """w = sigmoid(max(C_avg, 0.5) / C - 1) / T (Eq. 2). confidence: [B]; reference: C_avg, the mean confidence of right answers
    on validation; temperature: T > 0. Returns [B]: 1 / (2T) where the student is as sure as usual, more where it is less sure."""
    floor = reference.clamp(min=FLOOR) if isinstance(reference, Tensor) else max(reference, FLOOR)
    return (floor / confidence - 1).sigmoid() / temperature
