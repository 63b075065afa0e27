"""OSCAR's official folders: random ones in their layout, converted, and used."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from asked import asked
from safetensors.torch import load_file
from tiny_oscar import CONFIG, NAMES, make_batch, scrambled, write_vocabulary

from vldistill.data.batch import MLM
from vldistill.data.text import load_tokenizer
from vldistill.errors import InputError
from vldistill.models.build import init_student, load_student
from vldistill.models.oscar.model import Oscar
from vldistill.models.oscar.official import LAYOUT
from vldistill.teachers.fusion import build_fusion_teacher

SETTINGS = {
    "num_attention_heads": CONFIG.num_attention_heads,
    "img_layer_norm_eps": 1e-5,
    "hidden_act": "gelu",
    "img_feature_dim": CONFIG.region_size + 6,
    "classifier": "mlp",
}


@pytest.fixture
def vocabulary(tmp_path) -> Path:
    return write_vocabulary(tmp_path)


@pytest.fixture
def official(tmp_path):
    """A function: writes a folder as OSCAR's is, and returns it."""

    def write(weights: dict[str, torch.Tensor], **settings) -> Path:
        folder = tmp_path / "official"
        folder.mkdir()
        torch.save(weights, folder / "pytorch_model.bin")
        (folder / "config.json").write_text(json.dumps(SETTINGS | settings))
        return folder

    return write


def fine_tuned(images: int, classes: int, config=CONFIG) -> tuple[Oscar, dict[str, torch.Tensor]]:
    """A model with a head, and its weights under the official names."""
    model = scrambled(Oscar(config, images=images, classes=classes))
    weights = {
        re.sub(r"^classifier\.0\.", "classifier.", name) if images == 1 else name: value
        for name, value in model.state_dict().items()
    }
    return model, weights | {"bert.embeddings.position_ids": torch.arange(20)[None]}


def pretrained() -> dict[str, torch.Tensor]:
    """Pre-training's weights: old names of norms, and a decoder tied to the word embeddings."""
    model = scrambled(Oscar(CONFIG, images=1, classes=0, pretraining=[MLM]))
    weights = {re.sub(r"^mlm_score\.(?!decoder)", "cls.predictions.", name): value for name, value in model.state_dict().items()}
    weights["cls.predictions.bias"] = weights.pop("mlm_score.decoder.bias")
    del weights["mlm_score.decoder.weight"]
    weights["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"]
    weights |= {"cls.seq_relationship.weight": torch.zeros(2, 16), "cls.seq_relationship.bias": torch.zeros(2)}
    return {
        re.sub(r"LayerNorm\.weight$", "LayerNorm.gamma", re.sub(r"LayerNorm\.bias$", "LayerNorm.beta", name)): value
        for name, value in weights.items()
    }


@torch.no_grad()
@pytest.mark.parametrize("as_file", [True, False])
def test_a_model_of_pairs_comes_out_weight_for_weight_and_teaches(tmp_path, vocabulary, official, as_file):
    model, weights = fine_tuned(2, 2)
    folder = official(weights)
    spec = LAYOUT.convert(folder / "pytorch_model.bin" if as_file else folder, vocabulary, tmp_path / "out")
    assert (spec.task, spec.images, spec.labels, spec.official) == ("nlvr2", 2, ["False", "True"], True)
    assert spec.encoder == replace(CONFIG, img_layer_norm_eps=1e-5)
    found = load_file(tmp_path / "out/model.safetensors")
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(value, weights[name]) for name, value in found.items())
    teacher = build_fusion_teacher("oscar", str(tmp_path / "out"), labels=["True", "False"], images=2)
    batch = make_batch(images=2)
    taught = teacher.model(batch).logits[:, teacher.order]
    torch.testing.assert_close(taught, model(batch).logits.flip(1), rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_vqa_model_needs_the_names_of_its_answers(tmp_path, vocabulary, official):
    model, weights = fine_tuned(1, 3)
    folder = official(weights)
    with pytest.raises(InputError, match="does not hold the names of its answers"):
        LAYOUT.convert(folder, vocabulary, tmp_path / "out")
    (tmp_path / "answers.json").write_text('["yes", "no", "two"]')
    LAYOUT.convert(folder, vocabulary, tmp_path / "out", answers=tmp_path / "answers.json")
    loaded, spec, _ = load_student(str(tmp_path / "out"))
    assert (spec.task, spec.labels, spec.answer_loss) == ("vqa", ["yes", "no", "two"], "bce")
    batch = make_batch()
    torch.testing.assert_close(loaded(batch).logits, model(batch).logits, rtol=0, atol=1e-6)
    (tmp_path / "answers.json").write_text('["yes", "no"]')
    with pytest.raises(InputError, match="has 2 answers, the checkpoint has 3"):
        LAYOUT.convert(folder, vocabulary, tmp_path / "other", answers=tmp_path / "answers.json")


@pytest.mark.parametrize("kind", ["oscar", "oscar_dual"])
def test_students_start_from_a_pre_trained_one_with_its_head_for_words(tmp_path, vocabulary, official, kind):
    weights = pretrained()
    LAYOUT.convert(official(weights), vocabulary, tmp_path / "out")
    assert "mlm_score.decoder.weight" not in load_file(tmp_path / "out/model.safetensors")  # tied
    wanted = asked(kind, "captions", 1, [], 0, 20, 0.1, regions="r", pretraining=(MLM,))
    student, spec, tokenizer = init_student(str(tmp_path / "out"), wanted, keep_head=False)
    words = weights["bert.embeddings.word_embeddings.weight"]
    assert torch.equal(student.mlm_score.decoder.weight, words)
    assert torch.equal(student.mlm_score.decoder.bias, weights["cls.predictions.bias"])
    assert torch.equal(student.mlm_score.transform.LayerNorm.weight, weights["cls.predictions.transform.LayerNorm.gamma"])
    assert torch.equal(getattr(student, student.towers[0]).embeddings.word_embeddings.weight, words)
    assert spec.official and spec.encoder.hidden_dropout_prob == 0.1
    assert tokenizer.vocabulary == load_tokenizer(tmp_path / "out").vocabulary


def test_vinvls_norm_and_a_large_models_head_are_seen_in_the_weights(tmp_path, vocabulary, official):
    config = replace(CONFIG, use_img_layernorm=True, cls_hidden_scale=2, img_layer_norm_eps=1e-5)
    _, weights = fine_tuned(2, 2, config)
    assert "bert.LayerNorm.weight" in weights
    assert LAYOUT.convert(official(weights), vocabulary, tmp_path / "out").encoder == config


class Payload:
    """Runs when unpickled."""

    def __reduce__(self):
        return (print, ("ran",))


@pytest.mark.parametrize(
    "change, settings, part",
    [
        (lambda weights: weights | {"bert.surprise": torch.zeros(1)}, {}, "unexpected bert.surprise"),
        (
            lambda weights: {n: v for n, v in weights.items() if n != "bert.pooler.dense.bias"},
            {},
            "missing bert.pooler.dense.bias",
        ),
        (
            lambda weights: {n: v for n, v in weights.items() if "img_embedding" not in n},
            {},
            "it lacks 'bert.img_embedding.weight'",
        ),
        (lambda weights: {"weights": weights, "x": Payload()}, {}, "which is not read"),
        (lambda weights: weights, {"num_attention_heads": 3}, "says 3 heads, the weights are 16 wide"),
        (lambda weights: weights, {"num_attention_heads": "4"}, "num_attention_heads is '4', a number was expected"),
        (lambda weights: weights, {"hidden_act": "relu"}, "hidden_act is 'relu', OSCAR's is gelu"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(tmp_path, vocabulary, official, capsys, change, settings, part):
    folder = official(change(fine_tuned(2, 2)[1]), **settings)
    with pytest.raises(InputError) as caught:
        LAYOUT.convert(folder, vocabulary, tmp_path / "out")
    assert part in str(caught.value) and "\n" not in str(caught.value) and str(folder) in str(caught.value)
    assert not (tmp_path / "out").exists() and "ran" not in capsys.readouterr().out


def test_a_folder_without_weights_and_another_vocabulary_are_refused(tmp_path, vocabulary, official):
    with pytest.raises(InputError, match="no such file"):
        LAYOUT.convert(tmp_path, vocabulary, tmp_path / "out")
    vocabulary.write_text("\n".join([*NAMES, "more"]))
    with pytest.raises(InputError, match="has 41 tokens, the checkpoint has 40"):
        LAYOUT.convert(official(fine_tuned(2, 2)[1]), vocabulary, tmp_path / "out")
