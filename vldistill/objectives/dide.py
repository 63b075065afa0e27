"""DiDE's fine-tuning objective (Wang et al., 2022, section 3.2) with the fields of its ablations (Tables 6 and 7)."""

from __future__ import annotations

import torch
from torch import Tensor

from vldistill.data.batch import Batch
from vldistill.models.outputs import Capture, Output, QueryKey, View
from vldistill.objectives.attention import attention_loss, joined
from vldistill.objectives.base import Objective, Terms, task_loss
from vldistill.objectives.feature import masked_mse
from vldistill.objectives.soft_label import soft_label_bce, soft_label_kl


def mapped_layers(mapping: str, depth: int) -> tuple[int, ...]:
    """Layers (from 1) to distil, of `depth` in student and teacher alike: the "last", the "top" or "bottom" half, or "all".

    >>> mapped_layers("top", 12)
    (7, 8, 9, 10, 11, 12)
    """
    half = max(depth // 2, 1)
    ranges = {"last": range(depth, depth + 1), "top": range(depth - half + 1, depth + 1), "bottom": range(1, half + 1),
              "all": range(1, depth + 1)}
    return tuple(ranges[mapping])


class DiDE(Objective):
    """Soft labels and attention distillation.

    loss: a key of TASK_LOSSES, which also decides how predictions are distilled. attention: "cross" (the paper's), "uni"
    (within each modality), "whole" (one softmax over both) or "none". hidden_states: mean squared error of layer outputs, the
    paper's alternative. layers: see `mapped_layers`; several are averaged. hard_label_weight: weight of the task loss, 0 in
    the paper. kl: direction, see `attention_divergence`. Records with two images sum the attention terms of both.
    """

    def __init__(
        self, *, loss: str, depth: int, attention: str = "cross", hidden_states: bool = False, soft_labels: bool = True,
        layers: str = "last", kl: str = "forward", attention_weight: float = 1.0, soft_label_weight: float = 1.0,
        hidden_state_weight: float = 1.0, hard_label_weight: float = 0.0,
    ):
        super().__init__()
        self.attention, self.hidden_states, self.soft_labels, self.kl = attention, hidden_states, soft_labels, kl
        self.attention_weight, self.soft_label_weight = attention_weight, soft_label_weight
        self.hidden_state_weight, self.hard_label_weight = hidden_state_weight, hard_label_weight
        self.loss = loss
        # A softmax head's logits mean nothing one by one, so its predictions are distilled as one distribution.
        self.soft_loss = soft_label_bce if loss == "answer_bce" else soft_label_kl
        self.layers = mapped_layers(layers, depth)
        kept = Capture(qk=self.layers if attention != "none" else (), hidden=self.layers if hidden_states else ())
        self.student_capture = self.teacher_capture = kept
        # Attention and hidden states alone leave the head without a gradient.
        self.reaches_all = soft_labels or hard_label_weight > 0
        self.needs_teacher = soft_labels or hidden_states or attention != "none"

    def forward(self, student: Output, teacher: Output | None, batch: Batch) -> Terms:
        terms: Terms = {}
        if self.hard_label_weight:
            terms["task"] = self.hard_label_weight * task_loss(self.loss, student, batch.target)
        if self.soft_labels:
            terms["soft_label"] = self.soft_label_weight * self.soft_loss(student.logits, teacher.logits)
        if self.attention != "none":
            terms["attention"] = self.attention_weight * self._over_views(student, teacher, self._attention)
        if self.hidden_states:
            terms["hidden_state"] = self.hidden_state_weight * self._over_views(student, teacher, _hidden)
        return terms

    def _over_views(self, student: Output, teacher: Output, loss) -> Tensor:
        """Sum over images, mean over layers."""
        pairs = list(zip(student.views, teacher.views, strict=True))
        values = [loss(own, other, layer) for own, other in pairs for layer in self.layers]
        return torch.stack(values).sum() / len(self.layers)

    def _attention(self, student: View, teacher: View, layer: int) -> Tensor:
        own, other, text, image = student.qk[layer], teacher.qk[layer], student.text_mask, student.image_mask
        if self.attention == "cross":
            return cross_modal_attention_loss(own, other, text, image, kl=self.kl)
        if self.attention == "uni":
            return uni_modal_attention_loss(own, other, text, image, kl=self.kl)
        return whole_attention_loss(own, other, text, image, kl=self.kl)


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


def _hidden(student: View, teacher: View, layer: int) -> Tensor:
    """Text plus image mean squared error of one layer's outputs."""
    own, other = student.hidden[layer], teacher.hidden[layer]
    return masked_mse(own[0], other[0], student.text_mask) + masked_mse(own[1], other[1], student.image_mask)
