"""Attention distillation (DiDE, section 3.2): cross-modal, uni-modal and whole attention as distributions to match.

All functions are pure. Scores are computed in fp32, masked keys take a finite minimum (with minus infinity the divergence's
value is NaN), and the mean runs over valid query rows only.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Finite, and still finite after a log-softmax has subtracted the row's maximum and log-sum.
MASKED = -1e9


def attention_log_probs(query: Tensor, key: Tensor, key_mask: Tensor) -> Tensor:
    """log softmax(q k^T / sqrt(d)) over valid keys.

    query: [B, H, Q, d], key: [B, H, K, d], key_mask: [B, K] bool. Returns [B, H, Q, K] fp32.
    """
    # Autocast would take the product back to half precision, whose error is that of the divergence itself.
    with torch.autocast(query.device.type, enabled=False):
        scores = query.float() @ key.float().transpose(-1, -2) * query.shape[-1] ** -0.5
        return scores.masked_fill(~key_mask[:, None, None, :], MASKED).log_softmax(dim=-1)


def attention_divergence(
    student: Tensor, teacher: Tensor, query_mask: Tensor, key_mask: Tensor, *, kl: str = "forward"
) -> Tensor:
    """KL between attention distributions: summed over keys, mean over batch, heads and valid query rows.

    student, teacher: [B, H, Q, K] log-probabilities; query_mask: [B, Q], key_mask: [B, K] bool. kl: "forward" is
    KL(teacher || student), as the authors' code; "reverse" is KL(student || teacher), as the paper prints.
    Returns a scalar >= 0.
    """
    target, other = {"forward": (teacher, student), "reverse": (student, teacher)}[kl]
    terms = (target.exp() * (target - other)).masked_fill(~key_mask[:, None, None, :], 0.0)
    rows = terms.sum(dim=-1).masked_fill(~query_mask[:, None, :], 0.0)
    return rows.sum() / (query_mask.sum() * rows.shape[1])


def attention_loss(
    student_query: Tensor,
    student_key: Tensor,
    teacher_query: Tensor,
    teacher_key: Tensor,
    query_mask: Tensor,
    key_mask: Tensor,
    *,
    kl: str = "forward",
) -> Tensor:
    """Divergence of one attention block: queries of one set of tokens against keys of one set (each [B, H, ., d])."""
    student = attention_log_probs(student_query, student_key, key_mask)
    teacher = attention_log_probs(teacher_query, teacher_key, key_mask)
    return attention_divergence(student, teacher, query_mask, key_mask, kl=kl)


def joined(text: Tensor, image: Tensor) -> Tensor:
    """One sequence of both modalities, text first: [B, H, T, d] and [B, H, V, d] to [B, H, T + V, d]."""
    return torch.cat([text, image], dim=2)
