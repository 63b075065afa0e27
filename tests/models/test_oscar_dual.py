"""OSCAR's dual encoder: what it takes from a fusion folder, what its attention is compared with, and what learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from asked import asked
from tiny_oscar import CONFIG, make_batch, scrambled, write_vocabulary
from torch.nn import functional as F

from vldistill.data.text import read_vocabulary
from vldistill.errors import InputError
from vldistill.models.base.checkpoint import ModelSpec, save_model
from vldistill.models.base.outputs import Capture
from vldistill.models.build import init_student
from vldistill.models.oscar.model import Oscar, OscarDual
from vldistill.objectives.dide import DiDE
from vldistill.teachers.fusion import build_fusion_teacher

LABELS = ["False", "True"]
LAST = CONFIG.num_hidden_layers
TEXT_ONLY = {
    f"embeddings.{name}"
    for name in (
        "word_embeddings.weight",
        "position_embeddings.weight",
        "token_type_embeddings.weight",
        "LayerNorm.weight",
        "LayerNorm.bias",
    )
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, Oscar]:
    """A folder of a VinVL fine-tuned on pairs, and its model."""
    place = tmp_path_factory.mktemp("oscar")
    folder, tokenizer = place / "model", read_vocabulary(write_vocabulary(place), lowercase=True)
    config = replace(CONFIG, use_img_layernorm=True)
    model = scrambled(Oscar(config, images=2, classes=2))
    save_model(folder, model, ModelSpec("oscar", config, "nlvr2", 2, LABELS, 0, 12, regions="r"), tokenizer)
    return folder, model


def start(source: Path | str, kind: str = "oscar_dual", *, keep_head: bool = False, **changed):
    fields = {"task": "nlvr2", "images": 2, "labels": LABELS, "image_size": 0, "max_length": 12, "dropout": 0.1, "regions": "r"}
    return init_student(str(source), asked(kind, **(fields | changed)), keep_head=keep_head)


def test_towers_hold_exactly_the_fusion_weights_of_their_half(saved):
    folder, model = saved
    student, spec, _ = start(folder)
    whole = model.bert.state_dict()
    regions_only = {name for name in whole if name.startswith(("img_embedding.", "LayerNorm."))}
    texts, images = student.text_encoder.state_dict(), student.image_encoder.state_dict()
    assert set(texts) == set(whole) - regions_only and set(images) == set(whole) - TEXT_ONLY | {"cls_token"}
    assert all(torch.equal(value, whole[name]) for tower in (texts, images) for name, value in tower.items() if name in whole)
    assert spec.kind == "oscar_dual" and spec.image_size == 0 and spec.regions == "r"


def test_the_images_cls_starts_as_the_texts(saved):
    folder, model = saved
    student, _, tokenizer = start(folder)
    tables = model.bert.embeddings
    row = tables.word_embeddings.weight[tokenizer.cls_id] + tables.position_embeddings.weight[0]
    expected = tables.LayerNorm(row + tables.token_type_embeddings.weight[0])
    torch.testing.assert_close(student.image_encoder.cls_token[0, 0], expected, rtol=0, atol=1e-6)


def test_a_saved_student_is_continued_with_its_own_cls(saved, tmp_path):
    student, spec, tokenizer = start(saved[0])
    scrambled(student, 7)
    save_model(tmp_path / "model", student, spec, tokenizer)
    further, *_ = start(tmp_path / "model", keep_head=True)
    assert all(torch.equal(value, student.state_dict()[name]) for name, value in further.state_dict().items())
    with pytest.raises(InputError, match="is a oscar model, from which a dual_encoder student cannot start"):
        start(saved[0], "dual_encoder")


@torch.no_grad()
def test_views_are_of_the_regions_alone(saved):
    student, *_ = start(saved[0])
    batch = make_batch(images=2)
    output = student.eval()(batch, Capture(qk=(LAST,), hidden=(1,)))
    for place, view in enumerate(output.views):
        count = batch.images[place].mask.shape[1]
        assert torch.equal(view.image_mask, batch.images[place].mask) and torch.equal(view.visual, batch.images[place].mask)
        assert view.qk[LAST].image_query.shape[2] == view.qk[LAST].image_key.shape[2] == view.hidden[1][1].shape[1] == count
        # The first layer reads embeddings, so that its projections tell which tokens they are of.
        first = student.image_encoder.encode_image(batch.images[place], place, Capture(qk=(1,))).qk[1][0]
        layer, regions = student.image_encoder.encoder.layer[0], student.image_encoder._regions(batch.images[place])
        expected = layer.attention.self.query(regions).unflatten(-1, first.shape[1::2]).transpose(1, 2)
        torch.testing.assert_close(first, expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["cross", "uni", "whole"])
def test_the_attention_loss_of_a_teacher_against_itself_is_zero(saved, attention):
    objective = DiDE(loss="label", depth=LAST, attention=attention, hidden_states=True)
    batch = make_batch(images=2)
    output = saved[1](batch, objective.teacher_capture)
    terms = objective(output, output, batch)
    assert set(terms) == {"soft_label", "attention", "hidden_state"} and all(abs(float(term)) < 1e-6 for term in terms.values())


@pytest.mark.parametrize("attention", ["cross", "uni", "whole"])
def test_gradients_of_the_attention_loss_reach_both_towers(saved, attention):
    teacher = build_fusion_teacher("oscar", str(saved[0]), labels=LABELS, images=2)
    student, *_ = start(saved[0])
    scrambled(student, 3)
    objective = DiDE(loss="label", depth=LAST, attention=attention, soft_labels=False)
    batch = make_batch(images=2)
    loss = objective(student(batch, objective.student_capture), teacher(batch, objective.teacher_capture), batch)["attention"]
    loss.backward()
    assert float(loss.detach()) > 0.01
    read = {"text_encoder": "embeddings.LayerNorm.weight", "image_encoder": "img_embedding.weight"}
    for tower, name in read.items():
        assert getattr(student, tower).get_parameter(name).grad.abs().max() > 0
    # Nothing asks for what stands in the place of [I_CLS], but the regions read it on their way.
    assert student.image_encoder.cls_token.grad.abs().max() > 0 and student.image_encoder.pooler.dense.weight.grad is None


@torch.no_grad()
def test_what_stands_at_padding_and_the_place_of_an_image_make_no_difference():
    student = scrambled(OscarDual(CONFIG, images=2, classes=2))
    batch = make_batch(images=2)
    noisy = [replace(image, features=torch.where(image.mask[..., None], image.features, 9.0)) for image in batch.images]
    for before, after in zip(batch.images, noisy, strict=True):
        torch.testing.assert_close(student.encode_image(before, 0), student.encode_image(after, 1), rtol=0, atol=1e-6)
    assert not torch.allclose(student.encode_image(batch.images[0]), student.encode_image(batch.images[1]), atol=1e-2)


@torch.no_grad()
def test_an_image_without_regions_still_has_a_vector():
    student = scrambled(OscarDual(CONFIG, images=1, classes=2))
    image = make_batch().images[0]
    lone = student.encode_image(replace(image, mask=torch.zeros_like(image.mask)))
    # Its [I_CLS] sees itself alone, whatever stands at padding.
    assert torch.isfinite(lone).all() and torch.allclose(lone[0], lone[1], atol=1e-6)
    assert not torch.allclose(F.normalize(lone[0], dim=0), F.normalize(student.encode_image(image)[0], dim=0), atol=1e-3)
