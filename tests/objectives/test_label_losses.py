"""Soft labels, task losses and feature distances against values worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from vldistill.objectives.base import answer_bce, answer_cross_entropy, label_cross_entropy
from vldistill.objectives.feature import masked_mse
from vldistill.objectives.soft_label import soft_label_bce, soft_label_kl

LN3 = math.log(3)  # softmax of (ln 3, 0) is (3/4, 1/4); the sigmoid of ln 3 is 3/4


def test_soft_label_kl_by_hand():
    """KL((3/4, 1/4) || (1/2, 1/2)) = 0.130812; the reverse would be 0.143841. The second row agrees: half the sum."""
    student, teacher = torch.tensor([[0.0, 0.0], [2.0, 1.0]]), torch.tensor([[LN3, 0.0], [5.0, 4.0]])
    assert soft_label_kl(student[:1], teacher[:1]).item() == pytest.approx(0.130812, abs=1e-6)
    assert soft_label_kl(student, teacher).item() == pytest.approx(0.130812 / 2, abs=1e-6)


def test_soft_label_bce_by_hand():
    """Student's sigmoids (3/4, 1/2), teacher's (1/2, 3/4), two answers.

    First:  -1/2 ln(3/4) - 1/2 ln(1/4) = 0.143841 + 0.693147 = 0.836988. Second: ln 2 = 0.693147, whatever the target.
    Mean over the answers times their number: 1.530135. A second row of ln 2 twice (1.386294) makes the mean 1.458215.
    """
    student, teacher = torch.tensor([[LN3, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, LN3], [3.0, -3.0]])
    assert soft_label_bce(student[:1], teacher[:1]).item() == pytest.approx(1.530135, abs=1e-5)
    assert soft_label_bce(student, teacher).item() == pytest.approx(1.458215, abs=1e-5)


def test_cross_entropy_by_hand():
    """-ln(3/4) = 0.287682 and -ln(1/4) = 1.386294: mean 0.836988."""
    logits = torch.tensor([[LN3, 0.0], [LN3, 0.0]])
    assert label_cross_entropy(logits, torch.tensor([0, 1])).item() == pytest.approx(0.836988, abs=1e-5)


def test_answer_bce_by_hand():
    """Sigmoids (3/4, 1/2, 1/4), scores (1, 0.3, 0.6).

    -ln(3/4) = 0.287682; ln 2 = 0.693147; -0.6 ln(1/4) - 0.4 ln(3/4) = 0.831777 + 0.115073 = 0.946850: sum 1.927679.
    """
    logits, target = torch.tensor([[LN3, 0.0, -LN3]]), torch.tensor([[1.0, 0.3, 0.6]])
    assert answer_bce(logits, target).item() == pytest.approx(1.927679, abs=1e-5)
    twice = answer_bce(logits.repeat(2, 1), target.repeat(2, 1))
    assert twice.item() == pytest.approx(1.927679, abs=1e-5)  # a mean over the batch


def test_answer_cross_entropy_by_hand():
    """Softmax (3/4, 1/4), scores (1, 0.3): -ln(3/4) - 0.3 ln(1/4) = 0.287682 + 0.415888 = 0.703570.

    A question whose annotators gave no known answer has no score and costs nothing: half of it in the mean of two.
    """
    logits, target = torch.tensor([[LN3, 0.0], [1.0, 2.0]]), torch.tensor([[1.0, 0.3], [0.0, 0.0]])
    assert answer_cross_entropy(logits[:1], target[:1]).item() == pytest.approx(0.703570, abs=1e-5)
    assert answer_cross_entropy(logits, target).item() == pytest.approx(0.703570 / 2, abs=1e-5)


@pytest.mark.parametrize("loss", [soft_label_kl, soft_label_bce])
def test_soft_labels_pull_the_student_to_the_teacher(loss):
    student = torch.zeros(1, 2, requires_grad=True)
    loss(student, torch.tensor([[LN3, 0.0]])).backward()
    # The gradient is student probability minus teacher probability: (1/2 - 3/4, 1/2 - 1/4), or - 1/2 for sigmoids.
    expected = [[-0.25, 0.25]] if loss is soft_label_kl else [[-0.25, 0.0]]
    torch.testing.assert_close(student.grad, torch.tensor(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("loss", [soft_label_kl, soft_label_bce, answer_bce, answer_cross_entropy])
def test_bf16_logits_give_a_finite_fp32_loss(loss):
    logits = torch.tensor([[60.0, -60.0, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    value = loss(logits, torch.tensor([[0.0, 1.0, 0.5]], dtype=torch.bfloat16))
    value.backward()
    assert value.dtype == torch.float32 and torch.isfinite(value) and torch.isfinite(logits.grad).all()


def test_masked_mse_by_hand():
    """Squared errors of two features: (1 + 9) / 2 = 5, (4 + 0) / 2 = 2, padding left out: mean over three tokens 8 / 3."""
    student = torch.tensor([[[1.0, 3.0], [2.0, 0.0]], [[1.0, 1.0], [99.0, 99.0]]])
    teacher = torch.tensor([[[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    mask = torch.tensor([[True, True], [True, False]])
    assert masked_mse(student, teacher, mask).item() == pytest.approx((5 + 2 + 1) / 3)
