"""DiDE's fine-tuning objective (Wang et al., 2022, section 3.2) with the fields of its ablations (Tables 6 and 7)."""

from __future__ import annotations

from torch import Tensor

from vldistill.data.batch import Batch
from vldistill.errors import needed
from vldistill.models.base.outputs import Capture, Output, PairStates
from vldistill.objectives.attention import AttentionMatch, mapped_layers, over_views
from vldistill.objectives.base import Objective, Terms, task_loss
from vldistill.objectives.feature import masked_mse
from vldistill.objectives.soft_label import soft_label_bce, soft_label_kl


class DiDE(Objective):
    """Soft labels and attention distillation.

    loss: a key of TASK_LOSSES, which also decides how predictions are distilled. attention: "cross" (the paper's), "uni"
    (within each modality), "whole" (one softmax over both) or "none". hidden_states: mean squared error of layer outputs, the
    paper's alternative. layers: see `mapped_layers`; several are averaged. hard_label_weight: weight of the task loss, 0 in
    the paper. kl: direction, see `attention_divergence`. Records with two images sum the attention terms of both.
    """

    def __init__(
        self,
        *,
        loss: str,
        depth: int,
        attention: str = "cross",
        hidden_states: bool = False,
        soft_labels: bool = True,
        layers: str = "last",
        kl: str = "forward",
        attention_weight: float = 1.0,
        soft_label_weight: float = 1.0,
        hidden_state_weight: float = 1.0,
        hard_label_weight: float = 0.0,
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
        self.uses_all_parameters = soft_labels or hard_label_weight > 0
        self.needs_teacher = soft_labels or hidden_states or attention != "none"

    def forward(self, student: Output, teacher: Output | None, batch: Batch) -> Terms:
        terms: Terms = {}
        if self.hard_label_weight:
            terms["task"] = self.hard_label_weight * task_loss(self.loss, student, needed(batch.target, "the label"))
        if self.soft_labels:
            terms["soft_label"] = self.soft_label_weight * self.soft_loss(student.logits, needed(teacher, "the teacher").logits)
        if self.attention != "none":
            match = AttentionMatch(self.attention, self.layers, self.kl)
            terms["attention"] = self.attention_weight * match(student.views, needed(teacher, "the teacher").views)
        if self.hidden_states:
            views = needed(teacher, "the teacher").views
            terms["hidden_state"] = self.hidden_state_weight * over_views(student.views, views, self.layers, _hidden)
        return terms


def _hidden(student: PairStates, teacher: PairStates, layer: int) -> Tensor:
    """Text plus image mean squared error of one layer's outputs."""
    own, other = student.hidden[layer], teacher.hidden[layer]
    return masked_mse(own[0], other[0], student.text_mask) + masked_mse(own[1], other[1], student.image_mask)
