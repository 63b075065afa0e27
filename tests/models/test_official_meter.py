"""METER's official checkpoints: random ones in their layout, converted, against a forward pass out of library parts."""

from __future__ import annotations

import json

import pytest
import torch
from asked import asked
from official_meter_layout import LAYERS, PATCH, POSITIONS, SIDE, OfficialMeter, write_vocabulary
from safetensors.torch import load_file
from torch import nn

from vldistill.data.batch import ITM, MLM, Batch, TextBatch
from vldistill.data.text import load_tokenizer
from vldistill.data.transforms import patchify
from vldistill.data.visual import stack_patches
from vldistill.errors import InputError
from vldistill.models.base.checkpoint import read_checkpoint
from vldistill.models.base.outputs import Capture
from vldistill.models.build import init_student, load_student
from vldistill.models.meter.official import LAYOUT
from vldistill.teachers.fusion import build_fusion_teacher

ANSWERS = ["yes", "no", "two"]
HEADS = {
    "vqa_classifier": (2, ANSWERS),
    "nlvr2_classifier": (3, ["False", "True"]),
    "snli_classifier": (2, ["contradiction", "neutral", "entailment"]),
}
ROWS = 3


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("roberta")
    return folder, write_vocabulary(folder)


@pytest.fixture
def converted(tmp_path, vocabulary):
    """A function: `converted(weights)` writes a checkpoint and converts it into a folder, which it returns with its spec."""

    def make(weights, **options):
        torch.save({"state_dict": weights, "epoch": 3, "pytorch-lightning_version": "1.3.2"}, tmp_path / "meter.ckpt")
        return tmp_path / "out", LAYOUT.convert(
            tmp_path / "meter.ckpt", vocabulary[0], tmp_path / "out", overwrite=True, **options
        )

    return make


def options(head: str, tmp_path) -> dict:
    (tmp_path / "answers.json").write_text(json.dumps(ANSWERS))
    return {"answers": tmp_path / "answers.json"} if head == "vqa_classifier" else {}


def inputs(images: int, words: int) -> tuple[Batch, list[torch.Tensor]]:
    """A batch with padded texts, and its images as pixels in [0, 1]."""
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(4, words, (ROWS, 9), generator=generator)
    mask = torch.arange(9) < torch.tensor([9, 5, 7])[:, None]
    ids[~mask] = 1
    side = SIDE * PATCH
    shown = [torch.randint(0, 256, (ROWS, side, side, 3), generator=generator, dtype=torch.uint8) for _ in range(images)]
    stacked = [stack_patches([patchify(one.numpy(), PATCH) for one in rows], [(SIDE, SIDE)] * ROWS) for rows in shown]
    return Batch(["a", "b", "c"], TextBatch(ids, mask), stacked, None), [rows.permute(0, 3, 1, 2) / 255 for rows in shown]


@torch.no_grad()
@pytest.mark.parametrize("head", HEADS)
def test_a_converted_model_answers_as_the_official_one(head, converted, vocabulary, tmp_path):
    types, labels = HEADS[head]
    official = OfficialMeter(vocabulary[1], types, head, len(labels))
    folder, spec = converted(official.weights(), **options(head, tmp_path))
    assert spec.labels == labels and spec.images == types - 1 and spec.max_length == POSITIONS
    model, read, _ = load_student(str(folder))
    assert read == spec and model.layers == LAYERS
    batch, pixels = inputs(types - 1, vocabulary[1])
    pooled = [official.pooled(batch.text.ids, batch.text.mask, one, 1 + place) for place, one in enumerate(pixels)]
    expected = getattr(official, head)(torch.cat(pooled, dim=-1))
    torch.testing.assert_close(model(batch).logits, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_states_and_cross_attention_are_the_official_ones(converted, vocabulary):
    official = OfficialMeter(vocabulary[1], 2, "snli_classifier", 3)
    model, *_ = load_student(str(converted(official.weights())[0]))
    batch, (pixels,) = inputs(1, vocabulary[1])
    seen = {}

    def keep(name):
        return lambda _, inputs, output: seen.update({name: output})

    for stream, layers in (("text", official.cross_modal_text_layers), ("image", official.cross_modal_image_layers)):
        for part in ("query", "key"):
            getattr(layers[-1].crossattention.self, part).register_forward_hook(keep(f"{stream} {part}"))
    text, image = official.streams(batch.text.ids, batch.text.mask, pixels)
    view = model(batch, Capture(qk=(LAYERS,), hidden=(LAYERS,))).views[0]
    states = view.hidden[LAYERS]
    torch.testing.assert_close(states[0][batch.text.mask], text[batch.text.mask], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(states[1], image, atol=1e-5, rtol=1e-5)
    # The text layer's queries read the text and its keys the image, the image layer's the other way round.
    held = view.qk[LAYERS]
    for part, name in (
        (held.text_query, "text query"),
        (held.image_key, "text key"),
        (held.image_query, "image query"),
        (held.text_key, "image key"),
    ):
        rows = batch.text.mask if part.shape[2] == 9 else ...
        torch.testing.assert_close(part.transpose(1, 2).flatten(2)[rows], seen[name][rows], atol=1e-5, rtol=1e-5)


def test_every_weight_is_kept_under_its_own_name(converted, vocabulary):
    official = OfficialMeter(vocabulary[1], 2)
    heads = {
        "mlm_score.bias": torch.randn(vocabulary[1]),
        "mlm_score.decoder.weight": torch.randn(vocabulary[1], 128),
        "itm_score.fc.weight": torch.randn(2, 256),
        "itm_score.fc.bias": torch.randn(2),
    }
    for part in ("dense", "LayerNorm"):
        shape = (128, 128) if part == "dense" else (128,)
        heads |= {f"mlm_score.transform.{part}.weight": torch.randn(shape), f"mlm_score.transform.{part}.bias": torch.randn(128)}
    folder, spec = converted(official.weights() | heads)
    assert spec.task == "" and spec.labels == []
    found = load_file(folder / "model.safetensors")
    back = {
        name.removeprefix("meter.").replace("mlm_score.decoder.bias", "mlm_score.bias"): value for name, value in found.items()
    }
    unused = (
        "vit_model.positional_embedding",
        "vit_model.ln_final.",
        "text_transformer.pooler.",
        "text_transformer.embeddings.position_ids",
    )
    given = {name: value for name, value in (official.weights() | heads).items() if not name.startswith(unused)}
    assert back.keys() == given.keys() and all(torch.equal(back[name], value) for name, value in given.items())
    teacher = build_fusion_teacher("meter", str(folder), labels=[], images=1, pretraining=(MLM, ITM))
    assert torch.equal(teacher.model.itm_score.fc.weight, heads["itm_score.fc.weight"])
    assert load_tokenizer(folder).mask_id == vocabulary[1] - 1


@torch.no_grad()
def test_its_labels_are_mapped_by_name(converted, vocabulary):
    labels = HEADS["snli_classifier"][1]
    folder, _ = converted(OfficialMeter(vocabulary[1], 2, "snli_classifier", 3).weights())
    ours = ["contradiction", "entailment", "neutral"]
    batch, _ = inputs(1, vocabulary[1])
    own = load_student(str(folder))[0](batch).logits
    taught = build_fusion_teacher("meter", str(folder), labels=ours, images=1)(batch, Capture()).logits
    assert all(torch.equal(taught[:, ours.index(name)], own[:, labels.index(name)]) for name in labels)


def test_another_image_size_resizes_the_positions_bicubically_and_a_second_image_gets_a_row(converted, vocabulary):
    folder, _ = converted(OfficialMeter(vocabulary[1], 2).weights())
    wanted = asked("meter", "nlvr2", 2, ["False", "True"], 5 * PATCH, POSITIONS, 0.1)
    student, spec, _ = init_student(str(folder), wanted, keep_head=False)
    weights = read_checkpoint(str(folder)).weights
    table, own = weights["meter.vit_model.visual.positional_embedding"], student.meter.vit_model.visual.positional_embedding
    square = table[1:].view(SIDE, SIDE, -1).permute(2, 0, 1)[None]
    expected = nn.functional.interpolate(square, size=(5, 5), mode="bicubic")[0].permute(1, 2, 0).flatten(0, 1)
    assert torch.equal(own[0], table[0]) and torch.allclose(own[1:], expected, atol=1e-6)
    types = student.meter.token_type_embeddings.weight
    assert spec.encoder.image_size == 5 * PATCH and len(types) == 3 and torch.equal(types[2], types[1])
    with pytest.raises(InputError, match=r"image\.size 18 is no multiple of METER's patch, 4") as caught:
        wanted = asked("meter_dual", "nlvr2", 2, ["False", "True"], 18, POSITIONS, 0.1)
        init_student(str(folder), wanted, keep_head=False)
    assert caught.value.hint == "set image.size=16"


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda weights: weights | {"cross_modal_text_layers.0.surprise": torch.zeros(1)},
            "unexpected meter.cross_modal_text_layers.0",
        ),
        (
            lambda weights: {n: v for n, v in weights.items() if n != "cross_modal_image_pooler.dense.bias"},
            "missing meter.cross_modal_image_pooler.dense.bias",
        ),
        (
            lambda weights: {n: v for n, v in weights.items() if not n.startswith("text_transformer.")},
            "is no meter checkpoint: it lacks",
        ),
        (
            lambda weights: weights | {"text_transformer.embeddings.word_embeddings.weight": torch.zeros(9, 64)},
            "tokens, the checkpoint has 9",
        ),
    ],
)
def test_what_does_not_fit_is_named(change, message, converted, vocabulary):
    with pytest.raises(InputError, match=message):
        converted(change(OfficialMeter(vocabulary[1], 2).weights()))


def test_a_folder_without_byte_pairs_is_refused(tmp_path, vocabulary):
    torch.save({"state_dict": OfficialMeter(vocabulary[1], 2).weights()}, tmp_path / "meter.ckpt")
    with pytest.raises(InputError, match="no such file") as caught:
        LAYOUT.convert(tmp_path / "meter.ckpt", tmp_path, tmp_path / "out")
    assert caught.value.where.endswith("vocab.json") and "merges.txt" in caught.value.hint
    assert not (tmp_path / "out").exists()
