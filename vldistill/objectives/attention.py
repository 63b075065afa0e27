"""Attention distillation (DiDE, section 3.2): cross-modal, uni-modal and whole attention as distributions to match.

Scores are computed in fp32, masked keys take a finite minimum (with minus infinity the divergence's value is NaN), and the mean
runs over valid query rows only. The rows of the ablations are Tables 6 and 7.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vldistill.models.base.outputs import PairStates, QueryKey

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


def mapped_layers(mapping: str, depth: int) -> tuple[int, ...]:
    """Layers (from 1) to distil, of `depth` in student and teacher alike: the "last", the "top" or "bottom" half, or "all".

    >>> mapped_layers("top", 12)
    (7, 8, 9, 10, 11, 12)
    """
    half = max(depth // 2, 1)
    ranges = {
        "last": range(depth, depth + 1),
        "top": range(depth - half + 1, depth + 1),
        "bottom": range(1, half + 1),
        "all": range(1, depth + 1),
    }
    return tuple(ranges[mapping])


def over_views(
    student: Sequence[PairStates],
    teacher: Sequence[PairStates],
    layers: Sequence[int],
    loss: Callable[[PairStates, PairStates, int], Tensor],
) -> Tensor:
    """A loss of one layer of one view, summed over the images of a record and averaged over layers."""
    values = [loss(own, other, layer) for own, other in zip(student, teacher, strict=True) for layer in layers]
    return torch.stack(values).sum() / len(layers)


@dataclass(frozen=True)
class AttentionMatch:
    """What of the attention is matched. kind: "cross" (the paper's), "uni" (within each modality) or "whole" (one softmax over
    both). layers: from 1, averaged. kl: direction, see `attention_divergence`."""

    kind: str
    layers: tuple[int, ...]
    kl: str = "forward"

    def __call__(self, student: Sequence[PairStates], teacher: Sequence[PairStates]) -> Tensor:
        """A scalar >= 0; records with two images sum the terms of both."""
        return over_views(student, teacher, self.layers, self._of_layer)

    def _of_layer(self, student: PairStates, teacher: PairStates, layer: int) -> Tensor:
        return ATTENTION[self.kind](student.qk[layer], teacher.qk[layer], student.text_mask, student.image_mask, kl=self.kl)


def cross_modal_attention_loss(student: QueryKey, teacher: QueryKey, text: Tensor, image: Tensor, *, kl: str) -> Tensor:
    """Text-to-image plus image-to-text divergence (L_CA). text: [B, T], image: [B, V] bool masks."""
    return attention_loss(
        student.text_query, student.image_key, teacher.text_query, teacher.image_key, text, image, kl=kl
    ) + attention_loss(student.image_query, student.text_key, teacher.image_query, teacher.text_key, image, text, kl=kl)


def uni_modal_attention_loss(student: QueryKey, teacher: QueryKey, text: Tensor, image: Tensor, *, kl: str) -> Tensor:
    """Text-to-text plus image-to-image divergence, each re-softmaxed within its modality."""
    return attention_loss(
        student.text_query, student.text_key, teacher.text_query, teacher.text_key, text, text, kl=kl
    ) + attention_loss(student.image_query, student.image_key, teacher.image_query, teacher.image_key, image, image, kl=kl)


def whole_attention_loss(student: QueryKey, teacher: QueryKey, text: Tensor, image: Tensor, *, kl: str) -> Tensor:
    """Divergence of one softmax over the keys of both modalities, for the queries of both."""
    mask = torch.cat([text, image], dim=1)
    sides = [joined(side.text_query, side.image_query) for side in (student, teacher)]
    keys = [joined(side.text_key, side.image_key) for side in (student, teacher)]
    return attention_loss(sides[0], keys[0], sides[1], keys[1], mask, mask, kl=kl)


ATTENTION = {"cross": cross_modal_attention_loss, "uni": uni_modal_attention_loss, "whole": whole_attention_loss}
