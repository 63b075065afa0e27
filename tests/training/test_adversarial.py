"""VILLA's passes against the same computed step by step with plain autograd, and its divergence by hand."""

from __future__ import annotations

import math

import pytest
import torch
from accelerate import Accelerator

from vldistill.data.batch import Batch, RegionBatch, TextBatch
from vldistill.models.base.bert import RegionBertConfig
from vldistill.models.base.outputs import Output
from vldistill.models.uniter.model import Uniter
from vldistill.objectives.base import HardLabels, task_loss
from vldistill.objectives.soft_label import prediction_divergence
from vldistill.training.adversarial import AdversarialStep
from vldistill.training.loop import Learner

CONFIG = RegionBertConfig(
    vocab_size=20,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=8,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    max_position_embeddings=9,
    type_vocab_size=4,
    region_size=5,
)
LOSSES = {"label": "label_bce", "choice": "choice_pairs"}


def make(target: str) -> tuple[Learner, Batch]:
    torch.manual_seed(0)
    records = 2 if target == "choice" else 4
    student = Uniter(CONFIG, classes=1 if target == "choice" else 3, target=target)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    ids = torch.randint(1, 20, (4, 4)).masked_fill(~mask, 0)
    text = TextBatch(ids, mask, torch.full_like(ids, -1), torch.zeros_like(ids), torch.full_like(ids, -1))
    boxes = torch.rand(records, 3, 4).cumsum(-1) / 4
    regions = RegionBatch(torch.randn(records, 3, 5), boxes, torch.ones(records, 3).bool(), torch.randn(records, 5))
    learner = Learner(student, HardLabels(LOSSES[target])).train()
    return learner, Batch([str(row) for row in range(records)], text, [regions], torch.arange(records) % 2)


def by_hand(learner: Learner, batch: Batch, target: str, *, steps: int, lr: float, divergence: float) -> tuple[float, dict]:
    """The gradient of the mean loss over the passes, all in one graph."""
    student = learner.student
    clean = student(batch)
    deltas = [torch.zeros(4, 4, 8, requires_grad=True), torch.zeros(4, 3, 5, requires_grad=True)]
    losses = []
    for _ in range(steps):
        output = student(batch, text_delta=deltas[0], image_delta=deltas[1])
        loss = task_loss(LOSSES[target], output, batch.target) + divergence * prediction_divergence(clean, output, target)
        losses.append(loss / steps)
        gradients = torch.autograd.grad(loss, deltas, retain_graph=True)
        moved = []
        for delta, gradient in zip(deltas, gradients, strict=True):
            length = gradient.flatten(1).norm(dim=1).view(-1, 1, 1)
            moved.append((delta + lr * gradient / length).detach().requires_grad_())
        deltas = moved
    total = sum(losses)
    total.backward()
    return float(total.detach()), {
        name: parameter.grad.clone() for name, parameter in student.named_parameters() if parameter.grad is not None
    }


@pytest.mark.parametrize("target", ["label", "choice"])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_passes_are_those_worked_out_by_hand(target, steps):
    learner, batch = make(target)
    total, expected = by_hand(learner, batch, target, steps=steps, lr=0.5, divergence=1.5)
    learner.zero_grad()
    passes = AdversarialStep(steps, 0.5, 1.5, True, True, target)
    terms, loss = passes(learner, batch, None, Accelerator(cpu=True))
    assert set(terms) == {"task", "adversarial"} and float(loss) == pytest.approx(total, rel=1e-5)
    found = {name: parameter.grad for name, parameter in learner.student.named_parameters() if parameter.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("text, image, names", [(True, False, {"text_delta"}), (False, True, {"image_delta"})])
def test_only_what_is_asked_for_is_perturbed(text, image, names):
    learner, batch = make("label")
    assert set(AdversarialStep(2, 0.1, 1.0, text, image, "label")._zeros(learner.student, batch)) == names


def test_one_step_is_plain_training_since_nothing_has_moved_yet():
    learner, batch = make("label")
    terms, _ = AdversarialStep(1, 0.5, 1.5, True, True, "label")(learner, batch, None, Accelerator(cpu=True))
    assert float(terms["adversarial"]) == pytest.approx(0.0, abs=1e-6)
    assert float(terms["task"]) == pytest.approx(float(learner(batch, None)["task"].detach()), rel=1e-5)


def test_the_perturbation_raises_the_loss():
    learner, batch = make("label")
    plain = float(learner(batch, None)["task"].detach())
    terms, _ = AdversarialStep(4, 0.5, 0.0, True, True, "label")(learner, batch, None, Accelerator(cpu=True))
    assert float(terms["task"]) > plain and float(terms["adversarial"]) == 0.0


def test_the_divergence_by_hand():
    p, q = [0.5, 0.5], [0.8, 0.2]
    logits = [torch.tensor([values, values]).log() for values in (p, q)]
    first, second = (Output(values, []) for values in logits)
    both = sum(a * math.log(a / b) + b * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert float(prediction_divergence(first, second, "label")) == pytest.approx(both, rel=1e-5)
    assert float(prediction_divergence(second, first, "answers")) == pytest.approx(both, rel=1e-5)
    pairs = [Output(values, [], values[None].repeat(3, 1, 1)) for values in logits]
    assert float(prediction_divergence(*pairs, "choice")) == pytest.approx(both / 2, rel=1e-5)
