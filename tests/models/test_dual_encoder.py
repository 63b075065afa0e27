"""DiDE's student: what it takes from a fusion folder, how it encodes, and how it is saved and continued."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from asked import asked
from safetensors.torch import load_file, save_file

from vldistill.errors import InputError
from vldistill.models.base.checkpoint import load_strict, save_model
from vldistill.models.base.outputs import Capture
from vldistill.models.build import init_student, load_student

LABELS = ["no", "yes", "maybe"]


def start(source, **changed):
    """A student from `source`, with the arguments that fit the small fusion model."""
    fields = {
        "kind": "dual_encoder",
        "task": "snli_ve",
        "images": 1,
        "labels": LABELS,
        "image_size": 8,
        "max_length": 10,
        "dropout": 0.1,
    }
    keep_head = changed.pop("keep_head", False)
    return init_student(str(source), asked(**(fields | changed)), keep_head=keep_head)


def refusal(*args, **fields) -> InputError:
    with pytest.raises(InputError) as caught:
        start(*args, **fields)
    assert caught.value.exit_code == 2
    return caught.value


TEXT_ONLY = {
    "embeddings.text_embeddings.word_embeddings.weight",
    "embeddings.text_embeddings.position_embeddings.weight",
    "embeddings.text_embeddings.token_type_embeddings.weight",
    "embeddings.text_embeddings.LayerNorm.weight",
    "embeddings.text_embeddings.LayerNorm.bias",
}
IMAGE_ONLY = {
    "embeddings.cls_token",
    "embeddings.position_embeddings",
    "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embeddings.projection.bias",
}


@pytest.mark.parametrize("images", [1, 2])
def test_towers_hold_exactly_the_fusion_weights_of_their_half(fusion, images):
    student, spec, tokenizer = start(fusion.folder, images=images)
    whole = {name.removeprefix("vilt."): value for name, value in fusion.model.state_dict().items() if name.startswith("vilt.")}
    types = "embeddings.token_type_embeddings.weight"
    for tower, other in ((student.text_encoder, IMAGE_ONLY), (student.image_encoder, TEXT_ONLY)):
        held = tower.state_dict()
        assert set(held) == set(whole) - other
        assert all(torch.equal(value, whole[name]) for name, value in held.items() if name != types)
        assert torch.equal(held[types][:2], whole[types])
        assert len(held[types]) == images + 1
        if images == 2:
            assert torch.equal(held[types][2], whole[types][1])
    assert spec.kind == "dual_encoder" and spec.images == images and spec.labels == LABELS
    assert spec.encoder.modality_type_vocab_size == images + 1
    assert tokenizer.vocabulary == fusion.tokenizer.vocabulary


def test_towers_share_no_storage(fusion):
    student, *_ = start(fusion.folder)
    name = "encoder.layer.0.output.dense.weight"
    text, image = student.text_encoder.state_dict()[name], student.image_encoder.state_dict()[name]
    assert torch.equal(text, image) and text.data_ptr() != image.data_ptr()


def test_head_shapes_are_the_papers(fusion):
    """Fusion MLP 2D -> 2D -> D on [text; image]; the head D -> 2D -> classes, or 2D -> 2D -> classes for pairs."""
    for images in (1, 2):
        student, *_ = start(fusion.folder, images=images)
        shapes = {
            name: tuple(value.shape)
            for name, value in student.state_dict().items()
            if name.startswith(("fusion", "classifier")) and value.ndim == 2
        }
        assert shapes == {
            "fusion.0.weight": (32, 32),
            "fusion.3.weight": (16, 32),
            "classifier.0.weight": (32, 16 * images),
            "classifier.3.weight": (3, 32),
        }


@torch.no_grad()
def test_pairs_encode_the_text_once_and_each_image_once(fusion):
    student, *_ = start(fusion.folder, images=2)
    counts = {"text": 0, "image": 0}

    def count(name):
        def hook(*_):
            counts[name] += 1

        return hook

    student.text_encoder.encoder.layer[0].register_forward_hook(count("text"))
    student.image_encoder.encoder.layer[0].register_forward_hook(count("image"))
    output = student.eval()(fusion.batch(images=2))
    assert counts == {"text": 1, "image": 2}
    assert output.logits.shape == (3, 3) and len(output.views) == 2


@torch.no_grad()
@pytest.mark.parametrize("images", [1, 2])
def test_cached_image_vectors_give_the_forward_logits(fusion, images):
    student, *_ = start(fusion.folder, images=images)
    student.eval()
    student.image_encoder.embeddings.token_type_embeddings.weight[images] += torch.linspace(-1, 1, 16)  # as after training
    batch = fusion.batch(images=images)
    vectors = [student.encode_image(image, place) for place, image in enumerate(batch.images)]
    assert all(vector.shape == (3, 16) for vector in vectors)
    logits = student.fuse(student.encode_text(batch.text), vectors)
    assert torch.equal(logits, student(batch).logits)
    other = student.fuse(student.encode_text(batch.text), vectors[::-1] if images == 2 else [vectors[0].flip(0)])
    assert not torch.allclose(other, logits, atol=1e-4)  # the vectors matter, and so does their order


@torch.no_grad()
def test_fusion_reads_text_then_image_and_the_head_reads_images_in_order(fusion):
    student, *_ = start(fusion.folder, images=2)
    seen = []
    for part in (student.fusion, student.classifier):
        part.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    text, first, second = (torch.full((1, 16), value) for value in (1.0, 2.0, 3.0))
    student.eval().fuse(text, [first, second])
    assert seen[0].tolist() == [[1.0] * 16 + [2.0] * 16] and seen[1].tolist() == [[1.0] * 16 + [3.0] * 16]
    assert torch.equal(seen[2], torch.cat([student.fusion(seen[0]), student.fusion(seen[1])], dim=1))


@torch.no_grad()
def test_the_place_of_an_image_matters_once_its_type_row_differs(fusion):
    student, *_ = start(fusion.folder, images=2)
    image = fusion.batch(images=1).images[0]
    student.eval()
    assert torch.equal(student.encode_image(image, 0), student.encode_image(image, 1))  # row 2 starts as row 1
    student.image_encoder.embeddings.token_type_embeddings.weight[2] += torch.linspace(-1, 1, 16)
    assert not torch.allclose(student.encode_image(image, 0), student.encode_image(image, 1), atol=1e-3)


@torch.no_grad()
def test_views_hold_the_towers_projections(fusion):
    student, *_ = start(fusion.folder, images=2)
    batch = fusion.batch(images=2)
    output = student.eval()(batch, Capture(qk=(2,), hidden=(1,)))
    text = student.text_encoder.encode_text(batch.text, Capture(qk=(2,), hidden=(1,)))
    for place, view in enumerate(output.views):
        image = student.image_encoder.encode_image(batch.images[place], place, Capture(qk=(2,), hidden=(1,)))
        assert set(view.qk) == {2} and set(view.hidden) == {1}
        found = view.qk[2]
        expected = (*text.qk[2], *image.qk[2])
        for part, value in zip((found.text_query, found.text_key, found.image_query, found.image_key), expected, strict=True):
            assert torch.equal(part, value)
        assert torch.equal(view.hidden[1][0], text.layers[1]) and torch.equal(view.hidden[1][1], image.layers[1])
        assert torch.equal(view.text_mask, batch.text.mask)
        assert view.image_mask[:, 0].all() and torch.equal(view.image_mask[:, 1:], batch.images[place].mask)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["dual_encoder", "vilt"])
@pytest.mark.parametrize("images", [1, 2])
def test_save_and_load_is_equal_to_the_bit(fusion, tmp_path, kind, images):
    student, spec, tokenizer = start(fusion.folder, kind=kind, images=images)
    student.eval()
    save_model(tmp_path / "out", student, spec, tokenizer)
    loaded, read, words = load_student(str(tmp_path / "out"))
    assert read == spec and words.vocabulary == tokenizer.vocabulary and not loaded.training
    assert {name: value.shape for name, value in loaded.state_dict().items()} == {
        name: value.shape for name, value in student.state_dict().items()
    }
    assert all(torch.equal(value, student.state_dict()[name]) for name, value in loaded.state_dict().items())
    batch = fusion.batch(images=images)
    assert torch.equal(loaded(batch).logits, student(batch).logits)
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("kind", ["dual_encoder", "vilt"])
def test_keep_head(fusion, tmp_path, kind):
    first, spec, tokenizer = start(fusion.folder, kind=kind)
    save_model(tmp_path / "out", first, spec, tokenizer)
    kept, *_ = start(tmp_path / "out", kind=kind, keep_head=True)
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in kept.state_dict().items())
    fresh, *_ = start(tmp_path / "out", kind=kind)
    assert {
        name.partition(".")[0] for name, value in fresh.state_dict().items() if not torch.equal(value, first.state_dict()[name])
    } == {"classifier"}


def test_a_continued_student_may_take_pairs(fusion, tmp_path):
    first, spec, tokenizer = start(fusion.folder)
    save_model(tmp_path / "out", first, spec, tokenizer)
    pairs, *_ = start(tmp_path / "out", images=2, labels=["False", "True"])
    types = pairs.image_encoder.embeddings.token_type_embeddings.weight
    assert len(types) == 3 and torch.equal(types[2], types[1])
    assert torch.equal(pairs.fusion[0].weight, first.fusion[0].weight)


def test_dropout_is_the_recipes(fusion):
    student, *_ = start(fusion.folder, dropout=0.35)
    assert student.text_encoder.encoder.layer[0].dropout.p == 0.35


# Refusals.


def test_a_fusion_student_cannot_start_from_a_dual_encoder(fusion, tmp_path):
    student, spec, tokenizer = start(fusion.folder)
    save_model(tmp_path / "out", student, spec, tokenizer)
    error = refusal(tmp_path / "out", kind="vilt")
    assert "dual_encoder" in error.message and "vilt" in error.message
    assert error.where == str(tmp_path / "out") and "fusion model" in error.hint


def test_longer_text_than_the_positions(fusion):
    error = refusal(fusion.folder, max_length=11)
    assert "10 text positions" in error.message and "11" in error.message and error.hint == "set text.max_length=10"


def test_keep_head_with_other_labels(fusion, tmp_path):
    student, spec, tokenizer = start(fusion.folder)
    save_model(tmp_path / "out", student, spec, tokenizer)
    for labels in (["yes", "no", "maybe"], ["no", "yes"]):
        error = refusal(tmp_path / "out", labels=labels, keep_head=True)
        assert "labels" in error.message and error.hint == "set student.keep_head=false"


def rewritten(fusion, folder, change, **fields):
    """A student's folder whose weights `change` has edited."""
    student, spec, tokenizer = start(fusion.folder, **fields)
    save_model(folder, student, spec, tokenizer)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    "kind, key",
    [("vilt", "vilt.layernorm.weight"), ("dual_encoder", "text_encoder.layernorm.weight"), ("dual_encoder", "fusion.0.weight")],
)
def test_a_missing_key_is_named(fusion, tmp_path, kind, key):
    folder = rewritten(fusion, tmp_path / "out", lambda weights: weights.pop(key), kind=kind)
    error = refusal(folder, kind=kind)
    assert f"missing {key}" in error.message and error.where == str(folder)
    with pytest.raises(InputError, match=f"missing {key}"):
        load_student(str(folder))


def test_a_key_missing_from_the_fusion_model_is_named(fusion, tmp_path):
    folder = rewritten(fusion, tmp_path / "out", lambda weights: weights.pop("vilt.pooler.dense.bias"), kind="vilt")
    assert "missing pooler.dense.bias" in refusal(folder).message


@pytest.mark.parametrize(
    "kind, key",
    [
        ("vilt", "vilt.adapter.weight"),
        ("dual_encoder", "text_encoder.adapter.weight"),
        pytest.param("dual_encoder", "adapter.weight"),
    ],
)
def test_a_key_without_a_place_is_named(fusion, tmp_path, kind, key):
    folder = rewritten(fusion, tmp_path / "out", lambda weights: weights.update({key: torch.zeros(1)}), kind=kind)
    with pytest.raises(InputError, match=f"unexpected {key}"):
        load_student(str(folder))
    assert "adapter.weight" in refusal(folder, kind=kind).message


def test_a_shape_that_differs_is_named(fusion, tmp_path):
    key = "vilt.encoder.layer.0.intermediate.dense.bias"
    folder = rewritten(fusion, tmp_path / "out", lambda weights: weights.update({key: torch.zeros(7)}), kind="vilt")
    assert "intermediate.dense.bias has shape (7,), expected (24,)" in refusal(folder).message


def test_many_faults_are_counted():
    with pytest.raises(InputError) as caught:
        load_strict(torch.nn.Linear(2, 2), {f"k{index}": torch.zeros(1) for index in range(20)}, "here")
    assert caught.value.message.count("unexpected") == 8 and "and 14 more" in caught.value.message  # 20 unknown, 2 missing


def test_a_model_without_labels_cannot_answer(fusion, tmp_path):
    student, spec, tokenizer = start(fusion.folder)
    save_model(tmp_path / "out", student, replace(spec, labels=[]), tokenizer)
    with pytest.raises(InputError, match="no head"):
        load_student(str(tmp_path / "out"))


def test_a_folder_that_is_not_there(tmp_path):
    error = refusal(tmp_path / "nowhere")
    assert error.where == str(tmp_path / "nowhere") and "vldistill finetune" in error.hint
