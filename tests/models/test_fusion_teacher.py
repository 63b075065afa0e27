"""Fusion teachers: frozen, in evaluation mode, their classes mapped to the student's by name."""

from __future__ import annotations

import pytest
import torch
from asked import asked

from vldistill.errors import InputError
from vldistill.models.base.checkpoint import save_model
from vldistill.models.base.outputs import Capture
from vldistill.models.build import init_student
from vldistill.teachers.fusion import build_fusion_teacher

LABELS = ["no", "yes", "maybe"]


def build(source, labels=LABELS, images=1):
    return build_fusion_teacher("vilt", str(source), labels=list(labels), images=images)


def test_gives_the_saved_models_logits(fusion):
    teacher = build(fusion.folder)
    batch = fusion.batch(images=1)
    assert teacher.order is None
    with torch.no_grad():
        assert torch.equal(teacher(batch, Capture()).logits, fusion.model(batch).logits)


def test_stays_in_evaluation_and_without_gradient_while_the_student_trains(fusion):
    teacher = build(fusion.folder)
    student, *_ = init_student(str(fusion.folder), asked("vilt", "snli_ve", 1, LABELS, 8, 10, 0.5), keep_head=True)
    student.train()
    batch = fusion.batch(images=1)
    first, second = (teacher(batch, Capture(qk=(2,))) for _ in range(2))
    assert not teacher.model.training
    assert torch.equal(first.logits, second.logits)  # no dropout
    assert not first.logits.requires_grad and not first.views[0].qk[2].text_query.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    assert not torch.equal(student(batch).logits, student(batch).logits)


@torch.no_grad()
@pytest.mark.parametrize("labels", [["maybe", "no", "yes"], ["yes", "no"], ["maybe"]])
def test_label_order_is_mapped_by_name(fusion, labels):
    batch = fusion.batch(images=1)
    plain = dict(zip(LABELS, fusion.model(batch).logits.unbind(1), strict=True))
    found = build(fusion.folder, labels)(batch, Capture()).logits
    assert found.shape == (3, len(labels))
    for column, name in enumerate(labels):
        assert torch.equal(found[:, column], plain[name])


@torch.no_grad()
def test_pairs_give_one_view_per_image(fusion, tmp_path):
    teacher = build(fusion.save(tmp_path / "pairs", images=2), images=2)
    batch = fusion.batch(images=2)
    output = teacher(batch, Capture(qk=(2,)))
    assert len(output.views) == 2
    assert not torch.allclose(output.views[0].qk[2].text_key, output.views[1].qk[2].text_key, atol=1e-4)
    length = batch.text.ids.shape[1]
    for view, image in zip(output.views, batch.images, strict=True):
        assert view.qk[2].text_query.shape[2] == length and view.qk[2].image_query.shape[2] == image.mask.shape[1] + 1


def test_refusals(fusion, tmp_path):
    with pytest.raises(InputError, match=r"does not know 2 of the data's labels: blue, red") as caught:
        build(fusion.folder, ["no", "blue", "red"])
    assert "vldistill finetune" in caught.value.hint
    with pytest.raises(InputError, match=r"takes 1 image\(s\) a record, the data has 2"):
        build(fusion.folder, images=2)
    wanted = asked("dual_encoder", "snli_ve", 1, LABELS, 8, 10, 0.0)
    student, spec, tokenizer = init_student(str(fusion.folder), wanted, keep_head=False)
    save_model(tmp_path / "dual", student, spec, tokenizer)
    with pytest.raises(InputError, match="is a dual_encoder model, a vilt teacher was expected"):
        build(tmp_path / "dual")
