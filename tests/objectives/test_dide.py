"""DiDE's objective: which terms each ablation has, how images, layers and weights combine, and where gradients go."""

from __future__ import annotations

import pytest
import torch

from vldistill.data.batch import Batch, ImageBatch, TextBatch
from vldistill.models.base.outputs import NOTHING, Capture, Output, PairStates, QueryKey
from vldistill.models.vilt.model import EncoderConfig, Vilt, ViltDual
from vldistill.objectives.attention import (
    cross_modal_attention_loss,
    mapped_layers,
    uni_modal_attention_loss,
    whole_attention_loss,
)
from vldistill.objectives.base import HardLabels, answer_bce, answer_cross_entropy, label_cross_entropy
from vldistill.objectives.dide import DiDE
from vldistill.objectives.feature import masked_mse
from vldistill.objectives.soft_label import soft_label_bce, soft_label_kl
from vldistill.teachers.fusion import FusionTeacher

B, T, V, H, D, WIDTH, CLASSES, DEPTH = 2, 4, 5, 2, 3, 6, 3, 4
TEXT = torch.tensor([[True, True, True, True], [True, True, False, False]])
IMAGES = [torch.tensor([[True] * 5, [True] * 3 + [False] * 2]), torch.tensor([[True] * 2 + [False] * 3, [True] * 5])]
TARGET = torch.tensor([2, 0])
KINDS = {"cross": cross_modal_attention_loss, "uni": uni_modal_attention_loss, "whole": whole_attention_loss}


def output(seed: int, *, images: int = 1) -> Output:
    """Random logits, projections and outputs of every layer."""
    draw = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    views = []
    for mask in IMAGES[:images]:
        qk = {layer: QueryKey(*(random(B, H, length, D) for length in (T, T, V, V))) for layer in range(1, DEPTH + 1)}
        hidden = {layer: (random(B, T, WIDTH), random(B, V, WIDTH)) for layer in range(1, DEPTH + 1)}
        views.append(PairStates(TEXT, mask, mask, qk, hidden))
    return Output(random(B, CLASSES), views)


def batch(target: torch.Tensor = TARGET) -> Batch:
    """Only the target is read by an objective."""
    return Batch(["a", "b"], TextBatch(torch.zeros(B, T, dtype=torch.long), TEXT), [], target)


def objective(**fields) -> DiDE:
    return DiDE(loss="label", depth=DEPTH, **fields)


def in_order(value) -> str:
    """A parameter's id that does not depend on the hash seed, as a set's own text does."""
    return ",".join(sorted(value)) or "default"


@pytest.mark.parametrize(
    "fields, terms",
    [
        ({}, {"soft_label", "attention"}),
        ({"attention": "uni"}, {"soft_label", "attention"}),
        ({"attention": "whole"}, {"soft_label", "attention"}),
        ({"attention": "none"}, {"soft_label"}),
        ({"soft_labels": False}, {"attention"}),
        ({"hidden_states": True}, {"soft_label", "attention", "hidden_state"}),
        ({"hidden_states": True, "attention": "none"}, {"soft_label", "hidden_state"}),
        ({"hard_label_weight": 0.5}, {"task", "soft_label", "attention"}),
        ({"hard_label_weight": 1.0, "soft_labels": False, "attention": "none"}, {"task"}),
    ],
    ids=in_order,
)
def test_terms_of_each_ablation(fields, terms):
    found = objective(**fields)(output(1), output(2), batch())
    assert set(found) == terms
    assert all(value.shape == () and value > 0 for value in found.values())


@pytest.mark.parametrize("attention", KINDS)
@pytest.mark.parametrize("kl", ["forward", "reverse"])
def test_default_terms_are_the_pure_losses_of_the_last_layer(attention, kl):
    student, teacher = output(1), output(2)
    found = objective(attention=attention, kl=kl)(student, teacher, batch())
    own, other = student.views[0].qk[DEPTH], teacher.views[0].qk[DEPTH]
    torch.testing.assert_close(found["attention"], KINDS[attention](own, other, TEXT, IMAGES[0], kl=kl))
    torch.testing.assert_close(found["soft_label"], soft_label_kl(student.logits, teacher.logits))


def test_two_images_are_summed():
    student, teacher = output(1, images=2), output(2, images=2)
    both = objective(hidden_states=True)(student, teacher, batch())
    single = [
        objective(hidden_states=True)(Output(student.logits, [own]), Output(teacher.logits, [other]), batch())
        for own, other in zip(student.views, teacher.views, strict=True)
    ]
    for term in ("attention", "hidden_state"):
        torch.testing.assert_close(both[term], single[0][term] + single[1][term])
        assert single[0][term] != single[1][term]
    torch.testing.assert_close(both["soft_label"], single[0]["soft_label"])


def test_another_number_of_images_than_the_teacher_is_an_error():
    with pytest.raises(ValueError, match="zip"):
        objective()(output(1, images=1), output(2, images=2), batch())


@pytest.mark.parametrize(
    "mapping, depth, layers",
    [
        ("last", 12, (12,)),
        ("top", 12, (7, 8, 9, 10, 11, 12)),
        ("bottom", 12, (1, 2, 3, 4, 5, 6)),
        ("all", 3, (1, 2, 3)),
        ("top", 4, (3, 4)),
        ("bottom", 4, (1, 2)),
        ("last", 1, (1,)),
        ("all", 1, (1,)),
    ],
)
def test_layers_mapping(mapping, depth, layers):
    assert mapped_layers(mapping, depth) == layers


def test_several_layers_are_averaged():
    student, teacher = output(1), output(2)
    found = objective(layers="top", hidden_states=True)(student, teacher, batch())
    own, other = student.views[0], teacher.views[0]
    attention = [cross_modal_attention_loss(own.qk[n], other.qk[n], TEXT, IMAGES[0], kl="forward") for n in (3, 4)]
    hidden = [
        masked_mse(own.hidden[n][0], other.hidden[n][0], TEXT) + masked_mse(own.hidden[n][1], other.hidden[n][1], IMAGES[0])
        for n in (3, 4)
    ]
    torch.testing.assert_close(found["attention"], sum(attention) / 2)
    torch.testing.assert_close(found["hidden_state"], sum(hidden) / 2)


@pytest.mark.parametrize(
    "fields, capture",
    [
        ({}, Capture(qk=(4,))),
        ({"attention": "none"}, Capture()),
        ({"layers": "bottom", "hidden_states": True}, Capture(qk=(1, 2), hidden=(1, 2))),
        ({"layers": "all", "attention": "none", "hidden_states": True}, Capture(hidden=(1, 2, 3, 4))),
    ],
    ids=str,
)
def test_only_what_is_compared_is_captured(fields, capture):
    made = objective(**fields)
    assert made.student_capture == made.teacher_capture == capture


def test_weights_scale_their_own_term_only():
    student, teacher = output(1), output(2)
    plain = objective(hidden_states=True, hard_label_weight=1.0)(student, teacher, batch())
    weights = {"attention": 2.0, "soft_label": 3.0, "hidden_state": 0.5, "task": 0.25}
    named = {"attention_weight": 2.0, "soft_label_weight": 3.0, "hidden_state_weight": 0.5, "hard_label_weight": 0.25}
    found = objective(hidden_states=True, **named)(student, teacher, batch())
    for term, weight in weights.items():
        torch.testing.assert_close(found[term], weight * plain[term])
    torch.testing.assert_close(plain["task"], label_cross_entropy(student.logits, TARGET))


def test_answers_use_binary_losses():
    student, teacher, scores = output(1), output(2), torch.tensor([[0.0, 0.3, 1.0], [0.6, 0.0, 0.0]])
    made = DiDE(loss="answer_bce", depth=DEPTH, hard_label_weight=1.0, attention="none")
    found = made(student, teacher, batch(scores))
    torch.testing.assert_close(found["task"], answer_bce(student.logits, scores))
    torch.testing.assert_close(found["soft_label"], soft_label_bce(student.logits, teacher.logits))


def test_hard_labels_alone_need_no_teacher():
    made = objective(attention="none", soft_labels=False, hard_label_weight=2.0)
    student = output(1)
    assert not made.needs_teacher
    torch.testing.assert_close(made(student, None, batch())["task"], 2 * label_cross_entropy(student.logits, TARGET))
    assert objective(soft_labels=False).needs_teacher
    assert objective(attention="none").needs_teacher
    assert objective(attention="none", soft_labels=False, hidden_states=True).needs_teacher


SCORES = torch.tensor([[0.0, 0.3, 1.0], [0.6, 0.0, 0.0]])


@pytest.mark.parametrize(
    "loss, function, target",
    [
        ("label", label_cross_entropy, TARGET),
        ("answer_bce", answer_bce, SCORES),
        ("answer_softmax", answer_cross_entropy, SCORES),
    ],
)
def test_the_supervised_objective(loss, function, target):
    made, student = HardLabels(loss), output(1)
    assert made.student_capture == made.teacher_capture == NOTHING and not made.needs_teacher
    found = made(student, None, batch(target))
    assert set(found) == {"task"}
    torch.testing.assert_close(found["task"], function(student.logits, target))


@pytest.mark.parametrize("attention", ["cross", "uni", "whole"])
def test_gradient_reaches_the_student_and_never_the_teacher(attention):
    config = EncoderConfig(
        vocab_size=11,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=8,
        image_size=4,
        patch_size=2,
        max_position_embeddings=6,
    )
    torch.manual_seed(0)
    student = ViltDual(config, images=1, classes=CLASSES).train()
    model = Vilt(config, images=1, classes=CLASSES).eval().requires_grad_(False)
    teacher = FusionTeacher(model, None, None, None, "test")
    patches = ImageBatch(torch.randn(B, 4, 12), torch.ones(B, 4, dtype=torch.bool), [(2, 2)] * B)
    given = Batch(["a", "b"], TextBatch(torch.randint(1, 11, (B, T)), TEXT), [patches], TARGET)
    made = DiDE(loss="label", depth=2, attention=attention, soft_labels=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    target = teacher(given, made.teacher_capture)
    assert not target.logits.requires_grad and not target.views[0].qk[2].text_query.requires_grad
    made(student(given, made.student_capture), target, given)["attention"].backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    reached = {name for name, parameter in student.named_parameters() if parameter.grad is not None and parameter.grad.any()}
    for tower in ("text_encoder", "image_encoder"):
        assert {f"{tower}.encoder.layer.1.attention.attention.{part}.weight" for part in ("query", "key")} <= reached
        # What comes after the last layer's queries and keys has no part in the attention.
        assert not [name for name in reached if name.startswith((f"{tower}.encoder.layer.1.output", f"{tower}.pooler"))]
    assert "text_encoder.embeddings.text_embeddings.word_embeddings.weight" in reached
    assert not [name for name in reached if name.startswith(("fusion.", "classifier."))]
