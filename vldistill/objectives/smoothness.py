"""How far predictions move under a perturbation (VILLA, Gan et al., 2020): the divergence that its adversarial training adds."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from vldistill.models.base.outputs import Output


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
