"""Encoders of one modality: their folders are the libraries' own, and teachers read from them say what the encoder says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from asked import asked, sizes
from PIL import Image
from transformers import AutoModel

from vldistill.data.batch import Batch, ImageBatch, TextBatch
from vldistill.data.text import train_tokenizer
from vldistill.data.transforms import ImageTransform, unpatchify
from vldistill.data.visual import PatchInput, stack_patches
from vldistill.errors import InputError
from vldistill.models.base.checkpoint import save_model
from vldistill.models.base.outputs import Capture
from vldistill.models.build import init_student, load_student, new_from_scratch
from vldistill.models.encoders.model import pixels_of
from vldistill.teachers.encoders import TimmVision, TransformersText

SENTENCE = ("a", "red", "square")


def wanted(kind: str, labels: list[str]):
    patches = {} if kind == "text_encoder" else {"patch": 4, "image_size": 12}
    return asked(kind, "tagging" if labels else "text", 1, labels, 12, 12, 0.0, own={"sizes": sizes(**patches)})


@pytest.fixture
def text(tmp_path):
    torch.manual_seed(0)
    model, spec, tokenizer = new_from_scratch(wanted("text_encoder", []), train_tokenizer([list(SENTENCE)], 60))
    save_model(tmp_path / "text", model, spec, tokenizer)
    return tmp_path / "text", model.eval(), tokenizer


@pytest.fixture
def vision(tmp_path):
    torch.manual_seed(0)
    model, spec, tokenizer = new_from_scratch(wanted("vision_encoder", ["red", "blue"]), train_tokenizer([["a"]], 60))
    save_model(tmp_path / "vision", model, spec, tokenizer)
    return tmp_path / "vision", model.eval()


def read(tokenizer) -> Batch:
    ids, words = tokenizer.pieces(SENTENCE)
    ids = torch.tensor([[tokenizer.cls_id, *ids, tokenizer.sep_id]])
    words = torch.tensor([[-1, *words, -1]])
    return Batch(["1"], TextBatch(ids, ids >= 0, words, torch.zeros_like(ids)), [], None)


@torch.no_grad()
def test_a_text_encoders_folder_is_one_of_transformers(text):
    folder, model, tokenizer = text
    batch = read(tokenizer)
    theirs = AutoModel.from_pretrained(folder).eval()(batch.text.ids).last_hidden_state
    torch.testing.assert_close(model(batch, Capture(hidden=(2,))).views[0].hidden[2][0], theirs, atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_text_teacher_read_from_the_folder_says_the_same(text):
    folder, model, tokenizer = text
    states = model(read(tokenizer), Capture(hidden=(2,))).views[0].hidden[2][0][0]
    found = TransformersText(str(folder))([(SENTENCE,)])
    torch.testing.assert_close(found.whole[0], states[0], atol=1e-5, rtol=0)
    words = read(tokenizer).text.words[0]
    for word in range(len(SENTENCE)):
        torch.testing.assert_close(found.words[0][word], states[words == word].mean(0), atol=1e-5, rtol=0)


def picture(width: int = 12, height: int = 12) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


class OneImage:
    def open(self, path: str) -> Image.Image:
        return picture(20, 12) if path == "wide" else picture()


@torch.no_grad()
@pytest.mark.parametrize("name", ["square", "wide"])
def test_a_vision_teacher_read_from_the_folder_says_the_same(vision, name):
    """The mean over normalised patches, of the square in the middle of the image; the head is the teacher's no more."""
    folder, model = vision
    visual = PatchInput(OneImage(), ImageTransform(12, 4, square="fit"))
    image = visual.stack([visual.read(name, None)])
    own = model.vit.forward_features(pixels_of(image)).mean(dim=1)
    found = TimmVision(str(folder))([OneImage().open(name)])
    torch.testing.assert_close(found, own, atol=1e-5, rtol=0)


def test_patches_become_the_pixels_that_they_were_cut_from():
    rows = np.random.default_rng(0).integers(0, 256, (6, 3 * 16), dtype=np.uint8)
    image = stack_patches([rows], [(2, 3)])
    whole = (unpatchify(rows, (2, 3), 4).astype(np.float32) / 255 - 0.5) / 0.5
    torch.testing.assert_close(pixels_of(image)[0], torch.from_numpy(whole).permute(2, 0, 1), atol=1e-6, rtol=0)


def test_images_of_two_sizes_are_refused():
    image = ImageBatch(torch.zeros(2, 6, 48), torch.ones(2, 6, dtype=torch.bool), [(2, 3), (3, 2)])
    with pytest.raises(InputError, match="one size"):
        pixels_of(image)


def test_a_vision_encoder_is_loaded_head_and_all_and_continued_without_it(vision):
    folder, model = vision
    again, spec, _ = load_student(str(folder))
    assert spec.labels == ["red", "blue"]
    torch.testing.assert_close(again.state_dict(), model.state_dict())
    other, _, _ = init_student(str(folder), wanted("vision_encoder", ["a", "b", "c"]), keep_head=False)
    assert other.vit.head.weight.shape == (3, 16)
    torch.testing.assert_close(other.vit.patch_embed.state_dict(), model.vit.patch_embed.state_dict())
    kept, _, _ = init_student(str(folder), wanted("vision_encoder", ["red", "blue"]), keep_head=True)
    torch.testing.assert_close(kept.state_dict(), model.state_dict())


def test_a_fusion_student_cannot_start_from_one_modality(text):
    with pytest.raises(InputError, match=r"is a text_encoder model.*name a fusion model"):
        init_student(str(text[0]), wanted("vilt", ["a"]), keep_head=False)
