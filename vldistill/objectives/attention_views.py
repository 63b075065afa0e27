"""Attention distillation over the views of student and teacher (DiDE, section 3.2; Tables 6 and 7)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vldistill.models.base.outputs import PairStates, QueryKey
from vldistill.objectives.attention import attention_loss, joined


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
