"""Distilling the teacher's predictions (DiDE, section 3.2; Hinton et al., 2015, at temperature 1)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def soft_label_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of softmax distributions, batch mean, fp32. Logits: [B, C]. Returns a scalar >= 0."""
    return F.kl_div(
        student.float().log_softmax(dim=-1), teacher.float().log_softmax(dim=-1), reduction="batchmean", log_target=True
    )


def soft_label_bce(student: Tensor, teacher: Tensor) -> Tensor:
    """Binary cross-entropy against the teacher's sigmoids: mean over batch and answers, times the number of answers.

    Logits: [B, A]. As the authors' code has it for VQA, whose heads are trained with binary cross-entropy.
    """
    loss = F.binary_cross_entropy_with_logits(student.float(), teacher.float().sigmoid())
    return loss * student.shape[-1]
