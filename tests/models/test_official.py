"""Official checkpoints: made here in the published layouts with random weights, converted, and started from."""

from __future__ import annotations

import argparse
import re

import numpy as np
import pytest
import torch
from asked import asked
from safetensors.torch import load_file
from tiny_regions import CONFIG, WORDS, body, sized, write_words

from vldistill.data.text import load_tokenizer
from vldistill.errors import InputError
from vldistill.models.build import init_student
from vldistill.models.uniter import official as official_uniter
from vldistill.models.uniter.model import Uniter
from vldistill.models.uniter.texts import PERSONS
from vldistill.models.vlbert import official as official_vlbert
from vldistill.models.vlbert.model import VlBert


@pytest.fixture
def vocabulary(tmp_path):
    return write_words(tmp_path)


def uniter() -> dict[str, torch.Tensor]:
    """As the UNITER repository saves a pre-trained model: its heads stand beside it."""
    heads = {
        "cls.predictions.bias": torch.zeros(3),
        "feat_regress.bias": torch.zeros(3),
        "itm_output.weight": torch.zeros(2, 64),
        "region_classifier.net.0.bias": torch.zeros(3),
    }
    return body(Uniter(CONFIG, classes=1, target="label")) | heads


def vlbert() -> dict[str, torch.Tensor]:
    """As VL-BERT's pre-training saves it, on the processes' wrapper."""
    own = body(VlBert(sized(type_vocab_size=3), classes=1, target="label"))
    own |= {
        "vlbert.relationsip_head.caption_image_relationship.weight": torch.randn(2, 64),
        "vlbert.relationsip_head.caption_image_relationship.bias": torch.randn(2),
        "vlbert.mlm_head.predictions.transform.dense.weight": torch.randn(64, 64),
        "vlbert.mlm_head.predictions.transform.dense.bias": torch.randn(64),
        "vlbert.mlm_head.predictions.transform.LayerNorm.weight": torch.randn(64),
        "vlbert.mlm_head.predictions.transform.LayerNorm.bias": torch.randn(64),
        "vlbert.mlm_head.predictions.bias": torch.zeros(3),
        "vlbert.mvrc_head.transform.dense.bias": torch.zeros(3),
        "object_mask_word_embedding.weight": torch.zeros(1, 64),
        "object_mask_visual_embedding.weight": torch.zeros(1, 12),
    }
    return {f"module.{name}": value for name, value in own.items()}


def wanted(kind: str, task: str, labels: list[str], **changed):
    return asked(kind, task, 1, labels, 0, 20, 0.1, **changed)


@pytest.mark.parametrize("wrapped", ["plain", "villa", "old names", "model_state", "trainer"])
def test_uniter_and_villa_come_out_weight_for_weight(tmp_path, vocabulary, wrapped):
    official = uniter()
    saved = official
    if wrapped == "villa":
        saved = {re.sub(r"^uniter\.", "bert.", name): value for name, value in official.items()}
    elif wrapped == "old names":
        saved = {
            re.sub(r"LayerNorm\.weight$", "LayerNorm.gamma", re.sub(r"LayerNorm\.bias$", "LayerNorm.beta", name)): value
            for name, value in official.items()
        }
    elif wrapped == "model_state":
        saved = {"model_state": official, "step": 3}
    elif wrapped == "trainer":
        saved = {"state_dict": official, "args": argparse.Namespace(lr=1.0), "best": np.float64(0.5)}
    torch.save(saved, tmp_path / "official.pt")
    spec = official_uniter.LAYOUT.convert(tmp_path / "official.pt", vocabulary, tmp_path / "out")
    assert (spec.encoder.hidden_size, spec.encoder.num_hidden_layers, spec.encoder.region_size) == (64, 2, 12) and spec.official
    found = load_file(tmp_path / "out/model.safetensors")
    assert found.keys() == {name for name in official if name.startswith("uniter.")}
    assert all(torch.equal(value, official[name]) for name, value in found.items())
    assert load_tokenizer(tmp_path / "out").pieces(["The"])[0] == [WORDS.index("The")]  # cased


def test_uniter_grows_its_tables_for_vcr_and_only_there(tmp_path, vocabulary):
    torch.save(uniter(), tmp_path / "official.pt")
    official_uniter.LAYOUT.convert(tmp_path / "official.pt", vocabulary, tmp_path / "out")
    choices = ["0", "1", "2", "3"]
    student, spec, _ = init_student(str(tmp_path / "out"), wanted("uniter", "vcr", choices, regions="r"), keep_head=False)
    words, types = (student.uniter.embeddings.get_submodule(f"{name}_embeddings").weight for name in ("word", "token_type"))
    before = load_file(tmp_path / "out/model.safetensors")
    assert len(words) == len(WORDS) + PERSONS and len(types) == 4
    assert torch.equal(words[: len(WORDS)], before["uniter.embeddings.word_embeddings.weight"])
    known = before["uniter.embeddings.token_type_embeddings.weight"]
    assert torch.equal(types, torch.cat([known, known[:1], known[:1]]))
    assert 0 < float(words[len(WORDS) :].std().detach()) < 0.2 and spec.official and spec.regions == "r"
    student, *_ = init_student(str(tmp_path / "out"), wanted("uniter", "snli_ve", ["a", "b", "c"]), keep_head=False)
    assert len(student.uniter.embeddings.word_embeddings.weight) == len(WORDS)


def test_a_second_stage_checkpoint_has_grown_already(tmp_path, vocabulary):
    grown = sized(vocab_size=len(WORDS) + PERSONS, type_vocab_size=4)
    official = body(Uniter(grown, classes=1, target="label"))
    torch.save({"model_state": official}, tmp_path / "official.pt")
    official_uniter.LAYOUT.convert(tmp_path / "official.pt", vocabulary, tmp_path / "out")
    student, *_ = init_student(str(tmp_path / "out"), wanted("uniter", "vcr", ["0", "1", "2", "3"]), keep_head=False)
    assert all(torch.equal(student.state_dict()[name], value) for name, value in official.items())


def test_vlberts_heads_start_from_pre_training(tmp_path, vocabulary):
    official = vlbert()
    torch.save(
        {"state_dict": official, "optimizer": {"state": {}}, "validation_monitor": {"best": np.float32(1)}},
        tmp_path / "official.model",
    )
    official_vlbert.LAYOUT.convert(tmp_path / "official.model", vocabulary, tmp_path / "out", lowercase=True)
    student, *_ = init_student(str(tmp_path / "out"), wanted("vlbert", "vcr", ["0", "1", "2", "3"]), keep_head=False)
    relation = official["module.vlbert.relationsip_head.caption_image_relationship.weight"]
    assert torch.equal(student.classifier[1].weight, relation[1:] - relation[:1])
    segments = official["module.vlbert.token_type_embeddings.weight"]
    assert torch.equal(student.vlbert.token_type_embeddings.weight, segments[[0, 0, 2]])
    student, *_ = init_student(str(tmp_path / "out"), wanted("vlbert", "vqa", list("xyz")), keep_head=False)
    assert torch.equal(student.classifier[0].dense.weight, official["module.vlbert.mlm_head.predictions.transform.dense.weight"])
    assert torch.equal(student.vlbert.token_type_embeddings.weight, segments)
    assert torch.equal(student.vlbert.word_embeddings.weight, official["module.vlbert.word_embeddings.weight"])


class Payload:
    """Runs when unpickled."""

    def __reduce__(self):
        return (print, ("ran",))


@pytest.mark.parametrize(
    "change, part",
    [
        (lambda weights: weights | {"uniter.surprise.weight": torch.zeros(1)}, "unexpected uniter.surprise.weight"),
        (
            lambda weights: {n: v for n, v in weights.items() if n != "uniter.pooler.dense.bias"},
            "missing uniter.pooler.dense.bias",
        ),
        (
            lambda weights: {n: v for n, v in weights.items() if "word_embeddings" not in n},
            "it lacks 'uniter.embeddings.word_embedd",
        ),
        (lambda weights: {"state_dict": {"a": 1}}, "no table of tensors"),
        (lambda weights: [], "no table of tensors"),
        (lambda weights: {"state_dict": weights, "x": Payload()}, "which is not read"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(tmp_path, vocabulary, change, part, capsys):
    torch.save(change(uniter()), tmp_path / "official.pt")
    with pytest.raises(InputError) as caught:
        official_uniter.LAYOUT.convert(tmp_path / "official.pt", vocabulary, tmp_path / "out")
    assert part in str(caught.value) and "\n" not in str(caught.value) and "official.pt" in str(caught.value)
    assert not (tmp_path / "out").exists() and "ran" not in capsys.readouterr().out


def test_only_a_converted_model_is_converted_over(tmp_path, vocabulary):
    torch.save(uniter(), tmp_path / "official.pt")
    for _ in range(2):
        official_uniter.LAYOUT.convert(tmp_path / "official.pt", vocabulary, tmp_path / "out", overwrite=True)
    with pytest.raises(InputError, match="already exists"):
        official_uniter.LAYOUT.convert(tmp_path / "official.pt", vocabulary, tmp_path / "out")
    manifest = tmp_path / "out/manifest.json"
    manifest.write_text(manifest.read_text().replace('"stage": "convert"', '"stage": "prepare"'))
    with pytest.raises(InputError, match="is an artifact of `prepare`"):
        official_uniter.LAYOUT.convert(tmp_path / "official.pt", vocabulary, tmp_path / "out", overwrite=True)


def test_another_vocabulary_is_refused(tmp_path, vocabulary):
    torch.save(uniter(), tmp_path / "official.pt")
    vocabulary.write_text("\n".join([*WORDS, "more"]))
    with pytest.raises(InputError, match="the checkpoint has 17"):
        official_uniter.LAYOUT.convert(tmp_path / "official.pt", vocabulary, tmp_path / "out")


def test_a_student_starts_from_its_own_kind_only(tmp_path, vocabulary):
    torch.save(uniter(), tmp_path / "official.pt")
    official_uniter.LAYOUT.convert(tmp_path / "official.pt", vocabulary, tmp_path / "out")
    with pytest.raises(InputError, match="is a uniter model, from which a vlbert student cannot start"):
        init_student(str(tmp_path / "out"), wanted("vlbert", "vqa", list("xyz")), keep_head=False)
