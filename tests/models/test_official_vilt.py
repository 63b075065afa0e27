"""ViLT's official checkpoints: random ones in their layout, converted, against a forward pass in that layout."""

from __future__ import annotations

import json
import sys
import types

import pytest
import torch
from official_vilt_layout import LAYERS, PATCH, POSITIONS, SIDE, WIDTH, OfficialVilt
from safetensors.torch import load_file
from transformers import (
    ViltForImageAndTextRetrieval,
    ViltForImagesAndTextClassification,
    ViltForMaskedLM,
    ViltForQuestionAnswering,
)

from vldistill.data.batch import ITM, MLM, Batch, TextBatch
from vldistill.data.text import SPECIALS
from vldistill.data.transforms import patchify
from vldistill.data.visual import stack_patches
from vldistill.errors import InputError
from vldistill.models.base.checkpoint import fusion_encoder_weights, load_strict, read_checkpoint
from vldistill.models.base.converter import read_answers
from vldistill.models.build import load_student
from vldistill.models.vilt.model import ViltEncoder
from vldistill.models.vilt.official import LAYOUT
from vldistill.teachers.fusion import build_fusion_teacher

WORDS = [*SPECIALS, *"abcdefghij", "the", "##e"]
ANSWERS = ["yes", "no", "two"]
ROWS = 3


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(WORDS) + "\n")
    return path


@pytest.fixture
def answers(tmp_path):
    path = tmp_path / "answers.json"
    path.write_text(json.dumps({"min_count": 9, "answers": ANSWERS}))
    return path


@pytest.fixture
def saved(tmp_path):
    def save(weights: dict[str, torch.Tensor], **beside):
        torch.save({"state_dict": weights, "epoch": 3, "pytorch-lightning_version": "1.1.4", **beside}, tmp_path / "vilt.ckpt")
        return tmp_path / "vilt.ckpt"

    return save


def inputs(images: int) -> tuple[Batch, list[torch.Tensor]]:
    """A batch, and its pixels [B, 3, H, W]."""
    generator = torch.Generator().manual_seed(6)
    ids = torch.randint(5, len(WORDS), (ROWS, 7), generator=generator)
    drawn = [
        torch.randint(0, 256, (ROWS, SIDE * PATCH, SIDE * PATCH, 3), generator=generator, dtype=torch.uint8)
        for _ in range(images)
    ]
    views = [stack_patches([patchify(row.numpy(), PATCH) for row in pixels], [(SIDE, SIDE)] * ROWS) for pixels in drawn]
    text = TextBatch(ids, torch.ones_like(ids, dtype=torch.bool))
    return Batch([""] * ROWS, text, views, None), [(pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5 for pixels in drawn]


def extra_heads() -> dict[str, torch.Tensor]:
    """Pre-training's and retrieval's."""
    sizes = {
        "mlm_score.transform.dense.weight": (WIDTH, WIDTH),
        "mlm_score.transform.dense.bias": (WIDTH,),
        "mlm_score.transform.LayerNorm.weight": (WIDTH,),
        "mlm_score.transform.LayerNorm.bias": (WIDTH,),
        "mlm_score.decoder.weight": (len(WORDS), WIDTH),
        "mlm_score.bias": (len(WORDS),),
        "itm_score.fc.weight": (2, WIDTH),
        "itm_score.fc.bias": (2,),
        "rank_output.weight": (1, WIDTH),
        "rank_output.bias": (1,),
    }
    generator = torch.Generator().manual_seed(7)
    return {name: torch.randn(shape, generator=generator) for name, shape in sizes.items()}


@torch.no_grad()
def test_a_vqa_checkpoint_answers_as_before(tmp_path, vocabulary, answers, saved):
    official = OfficialVilt(len(WORDS), 2, "vqa_classifier", len(ANSWERS))
    spec = LAYOUT.convert(saved(official.weights()), vocabulary, tmp_path / "out", answers=answers)
    assert (spec.task, spec.images, spec.labels, spec.image_size, spec.answer_loss) == ("vqa", 1, ANSWERS, SIDE * PATCH, "bce")
    assert (spec.encoder.num_hidden_layers, spec.encoder.hidden_size, spec.max_length) == (LAYERS, WIDTH, POSITIONS)
    batch, (pixels,) = inputs(1)
    wanted = official.vqa_classifier(official.pooled(batch.text.ids, pixels))
    model, read, tokenizer = load_student(str(tmp_path / "out"))
    torch.testing.assert_close(model(batch).logits, wanted, atol=1e-5, rtol=0)
    theirs = ViltForQuestionAnswering.from_pretrained(tmp_path / "out").eval()
    assert theirs.config.id2label == dict(enumerate(ANSWERS)) and read == spec
    torch.testing.assert_close(theirs(input_ids=batch.text.ids, pixel_values=pixels).logits, wanted, atol=1e-5, rtol=0)
    assert tokenizer.pieces(["THE"])[0] == [WORDS.index("the")]


@torch.no_grad()
def test_an_nlvr2_checkpoint_sees_its_second_image_by_its_third_type(tmp_path, vocabulary, saved):
    official = OfficialVilt(len(WORDS), 3, "nlvr2_classifier", 2)
    spec = LAYOUT.convert(saved(official.weights()), vocabulary, tmp_path / "out")
    assert (spec.task, spec.images, spec.labels) == ("nlvr2", 2, ["False", "True"])
    batch, pixels = inputs(2)
    pooled = [official.pooled(batch.text.ids, image, 1 + place) for place, image in enumerate(pixels)]
    wanted = official.nlvr2_classifier(torch.cat(pooled, dim=-1))
    model, *_ = load_student(str(tmp_path / "out"))
    torch.testing.assert_close(model(batch).logits, wanted, atol=1e-5, rtol=0)
    theirs = ViltForImagesAndTextClassification.from_pretrained(tmp_path / "out").eval()
    found = theirs(input_ids=batch.text.ids, pixel_values=torch.stack(pixels, dim=1)).logits
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_pre_trained_checkpoint_keeps_its_heads(tmp_path, vocabulary, saved):
    official, heads = OfficialVilt(len(WORDS), 2), extra_heads()
    spec = LAYOUT.convert(saved(official.weights() | heads), vocabulary, tmp_path / "out")
    assert (spec.task, spec.labels) == ("", [])
    batch, (pixels,) = inputs(1)
    encoder = ViltEncoder(spec.encoder).eval()
    load_strict(encoder, fusion_encoder_weights(read_checkpoint(str(tmp_path / "out"))), "out")
    found = encoder.pool(encoder.encode_pair(batch.text, batch.images[0]).hidden)
    torch.testing.assert_close(found, official.pooled(batch.text.ids, pixels), atol=1e-5, rtol=0)
    kept = load_file(tmp_path / "out/model.safetensors")
    for name, value in heads.items():
        assert torch.equal(kept[name.replace("mlm_score.bias", "mlm_score.decoder.bias")], value)
    for kind, part in ((ViltForMaskedLM, "mlm_score"), (ViltForImageAndTextRetrieval, "rank_output")):
        theirs, told = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
        assert not told["missing_keys"] and not told["mismatched_keys"]
        for name, value in getattr(theirs, part).state_dict().items():
            assert torch.equal(value, kept[f"{part}.{name}"])
        assert set(told["unexpected_keys"]) == {name for name in kept if not name.startswith(("vilt.", part))}


def test_a_pre_trained_checkpoint_teaches_pre_training(tmp_path, vocabulary, saved):
    heads = extra_heads()
    LAYOUT.convert(saved(OfficialVilt(len(WORDS), 2).weights() | heads), vocabulary, tmp_path / "out")
    teacher = build_fusion_teacher("vilt", str(tmp_path / "out"), labels=[], images=1, pretraining=(MLM, ITM))
    assert torch.equal(teacher.model.mlm_score.decoder.bias, heads["mlm_score.bias"])
    assert torch.equal(teacher.model.itm_score.fc.weight, heads["itm_score.fc.weight"])


@pytest.fixture
def lightning(monkeypatch):
    """Classes under the names that Lightning and Sacred give theirs, importable while a file is written only."""
    parents = {"utilities.parsing": "AttributeDict", "callbacks.model_checkpoint": "ModelCheckpoint"}
    made = []
    with monkeypatch.context() as patch:
        for place, name in parents.items():
            parts = ["pytorch_lightning", *place.split(".")]
            for depth in range(1, len(parts) + 1):
                module = sys.modules.get(".".join(parts[:depth])) or types.ModuleType(".".join(parts[:depth]))
                patch.setitem(sys.modules, ".".join(parts[:depth]), module)
            module.__dict__[name] = type(name, (dict,), {"__module__": ".".join(parts)})
            made.append(module.__dict__[name])
        yield made


def test_a_trainers_objects_are_read_as_plain_ones_without_its_code(tmp_path, vocabulary, answers, saved, lightning):
    attributes, callback = lightning
    official = OfficialVilt(len(WORDS), 2, "vqa_classifier", len(ANSWERS))
    path = saved(
        official.weights(),
        hyper_parameters=attributes(config=attributes(seed=0)),
        callbacks={callback: {"best": 1.0}},
        optimizer_states=[{"state": {}}],
    )
    for name in [name for name in sys.modules if name.startswith("pytorch_lightning")]:
        del sys.modules[name]
    LAYOUT.convert(path, vocabulary, tmp_path / "out", answers=answers)
    assert not any(name.startswith("pytorch_lightning") for name in sys.modules)


class Payload:
    """Runs when unpickled."""

    def __reduce__(self):
        return (print, ("ran",))


@pytest.mark.parametrize(
    "change, beside, part",
    [
        (lambda weights: weights | {"transformer.surprise": torch.zeros(1)}, {}, "unexpected transformer.surprise"),
        (lambda weights: {n: v for n, v in weights.items() if n != "pooler.dense.bias"}, {}, "missing vilt.pooler.dense.bias"),
        (lambda weights: {n: v for n, v in weights.items() if "qkv.bias" not in n}, {}, "attention.attention.query.bias"),
        (lambda weights: {n: v for n, v in weights.items() if "word_embeddings" not in n}, {}, "is no vilt checkpoint: it lacks"),
        (lambda weights: weights, {"hyper_parameters": Payload()}, "which is not read"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(tmp_path, vocabulary, saved, capsys, change, beside, part):
    path = saved(change(OfficialVilt(len(WORDS), 3, "nlvr2_classifier", 2).weights()), **beside)
    with pytest.raises(InputError) as caught:
        LAYOUT.convert(path, vocabulary, tmp_path / "out")
    assert part in str(caught.value) and "\n" not in str(caught.value) and "vilt.ckpt" in str(caught.value)
    assert not (tmp_path / "out").exists() and "ran" not in capsys.readouterr().out


def test_answers_are_asked_for_where_they_are_needed_and_nowhere_else(tmp_path, vocabulary, answers, saved):
    path = saved(OfficialVilt(len(WORDS), 2, "vqa_classifier", len(ANSWERS)).weights())
    with pytest.raises(InputError, match="does not hold the names of its answers"):
        LAYOUT.convert(path, vocabulary, tmp_path / "out")
    answers.write_text(json.dumps([*ANSWERS, "three"]))
    with pytest.raises(InputError, match="has 4 answers, the checkpoint has 3"):
        LAYOUT.convert(path, vocabulary, tmp_path / "out", answers=answers)
    path = saved(OfficialVilt(len(WORDS), 3, "nlvr2_classifier", 2).weights())
    with pytest.raises(InputError, match="has no VQA head"):
        LAYOUT.convert(path, vocabulary, tmp_path / "out", answers=answers)
    vocabulary.write_text("\n".join([*WORDS, "more"]))
    with pytest.raises(InputError, match="the checkpoint has 17"):
        LAYOUT.convert(path, vocabulary, tmp_path / "out")


@pytest.mark.parametrize(
    "content",
    [
        ANSWERS,
        {"min_count": 9, "answers": ANSWERS},
        {"model_type": "vilt", "id2label": dict(enumerate(ANSWERS))},
    ],
    ids=["list", "ours", "theirs"],
)
def test_where_answers_may_be_named(tmp_path, content):
    (tmp_path / "answers.json").write_text(json.dumps(content))
    assert read_answers(tmp_path) == read_answers(tmp_path / "answers.json") == ANSWERS


@pytest.mark.parametrize(
    "content",
    [
        {},
        "yes",
        ["a", "a"],
        ["a", 1],
        {"id2label": {"0": "a", "2": "b"}},
        {"answers": 3},
    ],
    ids=str,
)
def test_answers_that_are_none(tmp_path, content):
    (tmp_path / "answers.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"does not name each answer once|none of number [01]"):
        read_answers(tmp_path)
