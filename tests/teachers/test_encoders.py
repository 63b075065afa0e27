"""Each teacher against its library called by hand: pooling, layers, word features, and what identifies it."""

from __future__ import annotations

import argparse
import shutil

import numpy as np
import open_clip
import pytest
import timm
import torch
from tiny_teachers import write_bert, write_vit
from transformers import AutoModel, AutoTokenizer

from vldistill import artifacts
from vldistill.errors import InputError
from vldistill.models.base import slip
from vldistill.models.base.clip import published
from vldistill.recipe.schema.teachers import RelevanceModel, TextTeacher, VisionTeacher
from vldistill.teachers.clip import Clip, ClipText, ClipVision
from vldistill.teachers.encoders import UNKNOWN, TimmVision, TransformersText, mean_by_word, weights_digest
from vldistill.teachers.unimodal import build_relevance, build_text, build_vision

# --- vision -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_vits_feature_is_the_mean_of_its_patches_without_cls(tiny, pictures):
    library = timm.create_model(f"local-dir:{tiny / 'vit'}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(library), is_training=False)
    states = library.forward_features(torch.stack([transform(picture) for picture in pictures]))
    found = TimmVision(str(tiny / "vit"))(pictures)
    assert states.shape == (3, 10, 16)
    torch.testing.assert_close(found, states[:, 1:].mean(1), atol=1e-5, rtol=0)


@torch.no_grad()
def test_an_inner_layer_is_that_blocks_output_after_the_norm(tiny, pictures):
    library = timm.create_model(f"local-dir:{tiny / 'vit'}", pretrained=True).eval()
    kept = []
    library.blocks[0].register_forward_hook(lambda module, inputs, output: kept.append(output))
    teacher = TimmVision(str(tiny / "vit"), layer=1)
    found = teacher(pictures)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(library), is_training=False)
    library.forward_features(torch.stack([transform(picture) for picture in pictures]))
    torch.testing.assert_close(found, library.norm(kept[0])[:, 1:].mean(1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["swinv2_cr_tiny_ns_224", "resnet18"])
@torch.no_grad()
def test_maps_are_pooled_over_their_places_whatever_their_order(name, pictures):
    """Swin's family keeps channels last, a ResNet has them first."""
    teacher = TimmVision(name, weights="random")
    states = teacher.network.forward_features(
        torch.stack(
            [
                timm.data.create_transform(**timm.data.resolve_model_data_config(teacher.network), is_training=False)(picture)
                for picture in pictures[:1]
            ]
        )
    )
    axis = states.shape.index(teacher.width, 1)
    places = [dimension for dimension in (1, 2, 3) if dimension != axis]
    torch.testing.assert_close(teacher(pictures[:1]), states.mean(places), atol=1e-5, rtol=0)


def test_random_weights_are_always_the_same_and_draw_nothing_from_the_caller(tiny, pictures):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second = (TimmVision(str(tiny / "vit"), weights="random")(pictures) for _ in range(2))
    assert torch.equal(first, second) and torch.equal(before, torch.random.get_rng_state())
    assert not torch.allclose(first, TimmVision(str(tiny / "vit"))(pictures))


def test_teachers_are_frozen_and_in_evaluation(tiny):
    for network in (
        TimmVision(str(tiny / "vit")).network,
        TransformersText(str(tiny / "bert")).network,
        Clip("open_clip", str(tiny / "clip"), "random").network,
    ):
        assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())


# --- text ---------------------------------------------------------------------------------------------------------------

ONE, TWO = (("is", "there", "a", "red", "circle", "?"),), (("two", "blue", "squares"), ("the", "dog", "sleeps"))


@torch.no_grad()
def test_a_sentence_is_its_first_token_and_a_word_the_mean_of_its_own(tiny):
    library, tokenizer = AutoModel.from_pretrained(tiny / "bert"), AutoTokenizer.from_pretrained(tiny / "bert")
    features = TransformersText(str(tiny / "bert"))([ONE, TWO, (("circle?red",),)])
    for row, text in enumerate(["is there a red circle ?", None, "circle?red"]):
        if text is not None:
            states = library(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            torch.testing.assert_close(features.whole[row], states[0], atol=1e-5, rtol=0)
    pair = library(**tokenizer("two blue squares", "the dog sleeps", return_tensors="pt")).last_hidden_state[0]
    torch.testing.assert_close(features.whole[1], pair[0], atol=1e-5, rtol=0)
    words = features.words[1]
    assert words.shape == (6, 16) and len(features.words[0]) == 6
    ids = tokenizer("two blue squares", "the dog sleeps").input_ids
    whole = {
        name: [place for place, token in enumerate(ids) if token == tokenizer.convert_tokens_to_ids(name)]
        for name in ("two", "dog", "sleeps")
    }
    for name, place in (("two", 0), ("dog", 4), ("sleeps", 5)):
        torch.testing.assert_close(words[place], pair[whole[name]].mean(0), atol=1e-5, rtol=0)
    split = library(**tokenizer("circle?red", return_tensors="pt")).last_hidden_state[0]
    torch.testing.assert_close(features.words[2][0], split[1:-1].mean(0), atol=1e-5, rtol=0)  # one word of several tokens


@torch.no_grad()
def test_a_tag_is_one_word_and_company_does_not_matter(tiny):
    teacher = TransformersText(str(tiny / "bert"))
    tagged = (("is", "dog1 and dog2", "red"),)
    together = teacher([tagged, ONE, TWO])
    alone = teacher([tagged])
    assert together.words[0].shape == (3, 16)
    torch.testing.assert_close(together.words[0], alone.words[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(together.whole[:1], alone.whole, atol=1e-5, rtol=0)


@torch.no_grad()
def test_words_beyond_the_teachers_reach_are_zero(tiny):
    features = TransformersText(str(tiny / "bert"))([(("dog",) * 60,)])
    assert features.words[0].shape == (60, 16)
    assert (features.words[0][:30] != 0).any(1).all() and (features.words[0][40:] == 0).all()


def test_mean_by_word_by_hand():
    states = torch.tensor([[1.0], [2.0], [4.0], [8.0]])
    assert mean_by_word(states, [-1, 0, 0, 2], 3).tolist() == [[3.0], [0.0], [8.0]]


@torch.no_grad()
def test_an_inner_text_layer_is_that_layers_output(tiny):
    library, tokenizer = AutoModel.from_pretrained(tiny / "bert"), AutoTokenizer.from_pretrained(tiny / "bert")
    states = library(**tokenizer("the dog sleeps", return_tensors="pt"), output_hidden_states=True).hidden_states
    found = TransformersText(str(tiny / "bert"), layer=1)([(("the", "dog", "sleeps"),)])
    torch.testing.assert_close(found.whole[0], states[1][0, 0], atol=1e-5, rtol=0)


# --- CLIP and SLIP ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_clips_towers_agree_with_open_clip(tiny, pictures):
    clip = Clip("open_clip", str(tiny / "clip"), "random")
    library = clip.network
    pixels = torch.stack([clip.transform(picture) for picture in pictures])
    embeddings, patches = clip.images(pictures)
    torch.testing.assert_close(
        embeddings,
        library.encode_image(pixels)[0] if isinstance(library.encode_image(pixels), tuple) else library.encode_image(pixels),
        atol=1e-5,
        rtol=0,
    )
    torch.testing.assert_close(ClipVision(clip)(pictures), patches.mean(1), atol=1e-5, rtol=0)
    text = "two blue squares run"
    ids, place = clip.tokens(text.split())
    expected = open_clip.tokenizer.tokenize([text], context_length=12)
    assert ids == expected[0][: len(ids)].tolist() and place[0] == place[-1] == -1 and place[1:-1] == [0, 1, 2, 3]
    states, last = clip.text_states([ids])
    torch.testing.assert_close(clip.project_text(states[0, last[0]])[None], library.encode_text(expected), atol=1e-5, rtol=0)
    torch.testing.assert_close(ClipText(clip)([(tuple(text.split()),)]).whole[0], states[0, last[0]], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_end_token_stays_however_long_the_text_is(tiny):
    clip = Clip("open_clip", str(tiny / "clip"), "random")
    ids, place = clip.tokens(["dog"] * 50)
    assert len(ids) == len(place) == 12 and ids[-1] == 49407 and place[-1] == -1
    features = ClipText(clip)([(("dog",) * 50,), (("red",),)])
    assert features.words[0].shape == (50, 64) and (features.words[0][10:] == 0).all()
    torch.testing.assert_close(features.whole[1:], ClipText(clip)([(("red",),)]).whole, atol=1e-5, rtol=0)


def test_openais_weights_come_with_quick_gelu():
    assert published("ViT-B-32", "openai")["quick_gelu"] is True
    with pytest.raises(InputError, match="set weights to one of: openai"):
        _ = Clip("open_clip", "ViT-B-32", "opanai").fields


def slip_checkpoint(path, *, width: int = 64) -> dict[str, torch.Tensor]:
    """As SLIP's trainer saves one, with its arguments and its self-supervised head."""
    torch.manual_seed(2)
    sizes = {
        "architecture": "vit_base_patch16_224",
        "options": {"embed_dim": width, "depth": 1, "num_heads": 1},
        "width": 64,
        "layers": 1,
        "heads": 1,
        "shared": 8,
        "context": 12,
        "vocabulary": 49408,
    }
    weights = {f"module.{name}": torch.randn_like(value) * 0.1 for name, value in slip.SlipModel(**sizes).state_dict().items()}
    weights["module.image_mlp.layer1.weight"] = torch.zeros(2)
    torch.save({"epoch": 3, "state_dict": weights, "args": argparse.Namespace(model="SLIP"), "best_acc1": 1.0}, path)
    return weights


@torch.no_grad()
def test_slip_is_converted_and_gives_features(tmp_path, pictures):
    official = slip_checkpoint(tmp_path / "slip.pt")
    slip.LAYOUT.convert(tmp_path / "slip.pt", None, tmp_path / "slip", heads=(1,))
    clip = Clip("slip", str(tmp_path / "slip"))
    state = clip.network.state_dict()
    assert {f"module.{name}" for name in state} == {name for name in official if "image_mlp" not in name}
    assert all(torch.equal(value, official[f"module.{name}"]) for name, value in state.items())
    embeddings, patches = clip.images(pictures)
    assert embeddings.shape == (3, 8) and patches.shape == (3, 196, 64) and ClipVision(clip)(pictures).shape == (3, 64)
    states = clip.network.visual.forward_features(torch.stack([clip.transform(picture) for picture in pictures]))
    torch.testing.assert_close(embeddings, states[:, 0] @ clip.network.image_projection, atol=1e-4, rtol=0)
    assert ClipText(clip)([ONE, TWO]).whole.shape == (2, 64)
    # ImageNet's normalisation, not CLIP's.
    assert "0.485" in str(clip.transform) or any(
        abs(float(mean) - 0.485) < 1e-3 for step in clip.transform.transforms for mean in np.atleast_1d(getattr(step, "mean", []))
    )


def test_a_file_that_is_no_slip_checkpoint_is_refused(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "x.pt")
    with pytest.raises(InputError, match="is no SLIP checkpoint"):
        slip.LAYOUT.convert(tmp_path / "x.pt", None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- what identifies a teacher ---------------------------------------------------------------------------------------------


def test_fields_change_with_whatever_changes_the_features(tiny, tmp_path):
    first = TimmVision(str(tiny / "vit")).fields
    write_vit(tmp_path / "vit", seed=1)
    assert TimmVision(str(tmp_path / "vit")).fields["weights"] != first["weights"]
    assert TimmVision(str(tiny / "vit"), layer=1).fields["layer"] != first["layer"]
    shutil.copytree(tiny / "vit", tmp_path / "copy/vit")
    assert TimmVision(str(tmp_path / "copy/vit")).fields == first  # wherever it lies
    config = tmp_path / "copy/vit/config.json"
    config.write_text(config.read_text().replace('"crop_pct": 1.0', '"crop_pct": 0.9'))
    assert TimmVision(str(tmp_path / "copy/vit")).fields["transform"] != first["transform"]
    text = TransformersText(str(tiny / "bert")).fields
    write_bert(tmp_path / "bert", seed=3)
    assert TransformersText(str(tmp_path / "bert")).fields["weights"] != text["weights"]


def test_a_file_of_weights_is_read_once_and_again_when_it_changed(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(artifacts, "file_digest", lambda path: read.append(path) or "0" * 64)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"a")
    for _ in range(3):
        weights_digest(tmp_path, None)
    assert len(read) == 1
    file.write_bytes(b"ab")
    weights_digest(tmp_path, None)
    assert len(read) == 2


def test_one_clip_teaches_and_judges(tiny, monkeypatch):
    monkeypatch.chdir(tiny)
    source = {"kind": "open_clip", "model": "clip", "weights": "random"}
    vision, text = build_vision(VisionTeacher(**source)), build_text(TextTeacher(**source))
    assert vision.clip is text.clip is build_relevance(RelevanceModel(**source)).clip


def test_published_weights_that_are_not_here_have_no_hash_and_cannot_be_loaded():
    teacher = TimmVision("swinv2_large_window12_192.ms_in22k")
    assert teacher.fields["weights"] == UNKNOWN and "(3, 192, 192)" in teacher.fields["transform"]
    for other in (teacher, TransformersText("FacebookAI/roberta-large"), ClipVision(Clip("open_clip", "ViT-B-32", "openai"))):
        assert other.fields["weights"] == UNKNOWN
        with pytest.raises(InputError, match="vldistill cache --recipe R --prefetch") as caught:
            _ = other.width
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "make, part",
    [
        (lambda: TimmVision("no_such_model").fields, "is no model of timm"),
        (lambda: Clip("slip", "nowhere"), "vldistill convert slip"),
    ],
)
def test_what_is_not_there_is_refused(make, part):
    with pytest.raises(InputError, match=part):
        make()
