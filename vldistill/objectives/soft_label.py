"""Distances between predictions: a teacher's (DiDE, section 3.2; Hinton et al., 2015, at temperature 1), and one's own under a
perturbation (VILLA, Gan et al., 2020)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from vldistill.models.base.outputs import Output


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


def prediction_divergence(clean: Output, perturbed: Output, target: str) -> Tensor:
    """KL in both directions between the softmax distributions of two outputs, a gradient through both, fp32.

    Reduced as the authors' code does, task by task: the mean over elements times the number of classes, which is the batch mean
    (also for VQA, whose answers are trained one by one); on VCR ("choice") the mean over records, choices and both classes, where
    each choice is judged by two. Returns a scalar >= 0.
    """
    if target == "choice" and clean.pairs is not None and perturbed.pairs is not None:
        first, second = (pairs.float().log_softmax(dim=-1) for pairs in (clean.pairs, perturbed.pairs))
        return _both_ways(first, second).mean()
    first, second = (output.logits.float().log_softmax(dim=-1) for output in (clean, perturbed))
    return _both_ways(first, second).sum(dim=-1).mean()


def _both_ways(first: Tensor, second: Tensor) -> Tensor:
    """Elementwise KL(first || second) + KL(second || first) of log-probabilities."""
    return F.kl_div(first, second, reduction="none", log_target=True) + F.kl_div(second, first, reduction="none", log_target=True)
