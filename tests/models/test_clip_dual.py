"""CLIP's, SLIP's and DeCLIP's towers: against open_clip's own CLIP, against SLIP's model, and against DeCLIP written out; where
they start from, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from asked import asked
from official_declip_layout import CONTEXT, PATCH, SHARED, SIDE, image_vectors, official_declip, text_vectors
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_teachers import write_clip
from torchvision.transforms import functional as pictures

from vldistill.data.batch import Batch, ImageBatch, TextBatch
from vldistill.data.loading import pad_text
from vldistill.data.sequences import join_parts
from vldistill.data.transforms import MEAN, STD, ImageTransform, normalise, patchify
from vldistill.errors import InputError
from vldistill.models.base import slip
from vldistill.models.base.checkpoint import save_model
from vldistill.models.base.family import family_of
from vldistill.models.base.slip import SlipModel
from vldistill.models.build import init_student, load_dual_encoder, load_student
from vldistill.models.clip_dual.model import ClipConfig, ClipDual
from vldistill.models.clip_dual.official import LAYOUT
from vldistill.models.clip_dual.section import Pair

LABELS = ["no", "yes"]
TEXTS = ["Two dogs run.", "A red circle, isn't it?", "dogs", "The left image has more green circles than the other one"]


def wanted(**changed):
    fields = {
        "kind": "clip_dual",
        "task": "nlvr2",
        "images": 2,
        "labels": LABELS,
        "image_size": 24,
        "max_length": 12,
        "dropout": 0.0,
    }
    return asked(**(fields | changed))


def moved(network: torch.nn.Module, seed: int = 1) -> dict[str, torch.Tensor]:
    """Its weights, none where it starts."""
    generator = torch.Generator().manual_seed(seed)
    return {name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in network.state_dict().items()}


def texts(tokenizer, length: int = 12) -> TextBatch:
    return pad_text([join_parts(tokenizer, (tuple(text.split()),), length) for text in TEXTS], tokenizer.pad_id)


def images(side: int, patch: int, rows: int = 4) -> tuple[ImageBatch, torch.Tensor]:
    """A batch, and its pixels [B, 3, side, side] in [0, 1]."""
    drawn = np.random.default_rng(4).integers(0, 256, (rows, side, side, 3), dtype=np.uint8)
    cells = torch.from_numpy(normalise(np.stack([patchify(values, patch) for values in drawn])))
    count = side // patch
    batch = ImageBatch(cells, torch.ones(rows, count**2, dtype=torch.bool), [(count, count)] * rows)
    return batch, torch.from_numpy(drawn).permute(0, 3, 1, 2) / 255


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A small CLIP in open_clip's layout, and that library's own network."""
    folder = write_clip(tmp_path_factory.mktemp("clip") / "clip")
    config = json.loads((folder / "open_clip_config.json").read_text())
    network = open_clip.CLIP(**config["model_cfg"])
    network.load_state_dict(moved(network))
    save_file(network.state_dict(), folder / "open_clip_model.safetensors")
    return folder, network.eval()


@pytest.fixture(scope="module")
def slip_folder(tmp_path_factory):
    """A small SLIP in its published layout, and the folder that it was converted to."""
    folder = tmp_path_factory.mktemp("slip")
    sizes = {
        "architecture": "vit_base_patch16_224",
        "options": {"embed_dim": 128, "depth": 2, "num_heads": 2},
        "width": 64,
        "layers": 2,
        "heads": 1,
        "shared": 8,
        "context": 12,
        "vocabulary": 49408,
    }
    network = SlipModel(**sizes)
    network.load_state_dict(moved(network))
    torch.save({"state_dict": {f"module.{name}": value for name, value in network.state_dict().items()}}, folder / "slip.pt")
    slip.LAYOUT.convert(folder / "slip.pt", None, folder / "out")
    return folder / "out", network.eval()


@pytest.fixture(scope="module")
def declip(tmp_path_factory):
    """A small DeCLIP's official weights, and the folder that they were converted to."""
    folder, weights = tmp_path_factory.mktemp("declip"), official_declip()
    torch.save({"model": weights, "last_iter": 3, "optimizer": {}}, folder / "declip.pth.tar")
    LAYOUT.convert(folder / "declip.pth.tar", None, folder / "out")
    return folder / "out", weights


def agree(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape and expected.std() > 0.05
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def new_from_clip(model: str, weights: str | None, request):
    section = request.section.model_copy(update={"clip": Pair(model=model, weights=weights)})
    return family_of("clip_dual").with_own_start(replace(request, section=section))


@torch.no_grad()
def test_towers_are_those_of_open_clip(clip):
    folder, network = clip
    student, spec, tokenizer = new_from_clip(str(folder), None, wanted())
    student.eval()
    assert student.width == spec.encoder.hidden_size == 8 and spec.images == 2
    agree(student.encode_text(texts(tokenizer)), network.encode_text(SimpleTokenizer()(TEXTS, context_length=12)))
    shown, pixels = images(24, 8)
    mean, std = (torch.tensor(values)[:, None, None] for values in ([0.48, 0.45, 0.4], [0.26, 0.26, 0.27]))
    agree(student.encode_image(shown), network.encode_image((pixels - mean) / std))


@torch.no_grad()
def test_towers_are_those_of_slip(slip_folder):
    folder, network = slip_folder
    student, spec, tokenizer = init_student(str(folder), wanted(image_size=224), keep_head=False)
    student.eval()
    assert spec.encoder.vision == "timm" and spec.encoder.patch_size == 16 and student.width == 8
    ids = SimpleTokenizer()(TEXTS, context_length=12)
    states = network.token_embedding(ids) + network.positional_embedding
    states = network.ln_final(network.transformer(states, attn_mask=network.attn_mask))
    agree(student.encode_text(texts(tokenizer)), states[torch.arange(4), ids.argmax(dim=1)] @ network.text_projection)
    shown, pixels = images(224, 16, rows=2)
    mean, std = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    agree(student.encode_image(shown), slip.image_states(network, (pixels - mean) / std)[0])


@torch.no_grad()
def test_towers_are_those_of_declip(declip):
    folder, weights = declip
    model, spec, tokenizer = load_dual_encoder(str(folder))
    assert (spec.kind, spec.labels, spec.max_length, spec.image_size) == ("clip_dual", [], CONTEXT, SIDE * PATCH)
    assert spec.encoder.text_projection_bias and spec.encoder.crop_ratio == 0.875 and model.width == SHARED
    assert not any(name.startswith(("fusion.", "classifier.")) for name in load_file(folder / "model.safetensors"))
    text = texts(tokenizer, CONTEXT)
    assert (tokenizer.mask_id, tokenizer.cls_id, tokenizer.sep_id) == (49406, 49407, 49408)
    agree(model.encode_text(text), text_vectors(weights, text.ids.masked_fill(~text.mask, 0)))
    shown, pixels = images(SIDE * PATCH, PATCH)
    agree(model.encode_image(shown), image_vectors(weights, pixels))


@torch.no_grad()
def test_a_text_is_read_at_its_last_end_token_whatever_stands_behind(clip):
    student, _, tokenizer = new_from_clip(str(clip[0]), None, wanted())
    student.eval()
    together = texts(tokenizer)
    assert together.mask.sum(1).unique().numel() > 1 and (together.ids[~together.mask] == tokenizer.sep_id).all()
    other = TextBatch(together.ids.masked_fill(~together.mask, 7), together.mask)
    assert torch.equal(student.encode_text(together), student.encode_text(other))
    for row in range(len(TEXTS)):
        length = int(together.mask[row].sum())
        alone = TextBatch(together.ids[row : row + 1, :length], together.mask[row : row + 1, :length])
        assert alone.ids[0, -1] == tokenizer.sep_id  # kept where the text was cut
        torch.testing.assert_close(student.encode_text(alone)[0], student.encode_text(together)[row], atol=1e-5, rtol=1e-5)
    # A text of two parts has an end token in the middle, too.
    pair = join_parts(tokenizer, (("two", "dogs"), ("run",)), 12)
    assert pair.ids.count(tokenizer.sep_id) == 2
    cut = TextBatch(torch.tensor([pair.ids]), torch.arange(len(pair.ids))[None] < 4)
    assert not torch.allclose(student.encode_text(pad_text([pair], 0)), student.encode_text(cut), atol=1e-4)


@torch.no_grad()
def test_cached_image_vectors_give_the_forward_logits(clip):
    student, _, tokenizer = new_from_clip(str(clip[0]), None, wanted())
    student.eval()
    batch = Batch(list("abcd"), texts(tokenizer), [images(24, 8)[0], images(24, 8)[0][torch.tensor([1, 0, 3, 2])]], None)
    vectors = [student.encode_image(image, place) for place, image in enumerate(batch.images)]
    logits = student.fuse(student.encode_text(batch.text), vectors)
    assert logits.shape == (4, 2) and torch.equal(logits, student(batch).logits)
    assert not torch.allclose(student.fuse(student.encode_text(batch.text), vectors[::-1]), logits, atol=1e-4)


def test_every_weight_learns(declip):
    student, _, tokenizer = init_student(str(declip[0]), wanted(image_size=SIDE * PATCH), keep_head=False)
    batch = Batch(list("abcd"), texts(tokenizer), [images(12, PATCH)[0], images(12, PATCH)[0]], None)
    student(batch).logits.square().sum().backward()
    assert [name for name, value in student.named_parameters() if value.grad is None] == []
    with torch.autocast("cpu", torch.bfloat16):
        assert student(batch).logits.isfinite().all()


@pytest.mark.parametrize("source, size", [("clip", 32), ("declip", 16)])
def test_it_is_saved_and_continued_on_images_of_another_size(clip, declip, tmp_path, source, size):
    if source == "clip":
        student, spec, tokenizer = new_from_clip(str(clip[0]), None, wanted())
    else:
        student, spec, tokenizer = init_student(str(declip[0]), wanted(image_size=SIDE * PATCH), keep_head=False)
    save_model(tmp_path, student, spec, tokenizer)
    loaded, read, _ = load_student(str(tmp_path))
    assert read == spec and all(torch.equal(value, student.state_dict()[name]) for name, value in loaded.state_dict().items())
    again, *_ = init_student(str(tmp_path), wanted(image_size=size), keep_head=True)
    assert torch.equal(again.fusion[0].weight, student.fusion[0].weight)
    assert torch.equal(again.classifier[0].weight, student.classifier[0].weight)
    assert len(again.image_encoder.visual.positional_embedding) == 1 + (size // spec.encoder.patch_size) ** 2


def test_timms_positions_are_resized_too(slip_folder):
    student, *_ = init_student(str(slip_folder[0]), wanted(image_size=32), keep_head=False)
    table = student.image_encoder.visual.pos_embed
    assert table.shape == (1, 5, 128) and torch.equal(table[:, 0], slip_folder[1].visual.pos_embed[:, 0])


@pytest.mark.parametrize("ratio, between", [(1.0, 24), (0.75, 32)])
def test_images_are_cut_out_of_what_was_resized(ratio, between):
    """Against torchvision: the shorter side, then the centre."""
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    found = ImageTransform(24, 8, square="crop", crop_ratio=ratio).resize(image)
    resized = pictures.resize(image, between, pictures.InterpolationMode.BICUBIC)
    assert np.array_equal(found, np.asarray(pictures.center_crop(resized, 24)))
    assert (MEAN, STD) == (0.5, 0.5)


def test_a_student_from_scratch_has_weights_of_clips_size():
    torch.manual_seed(0)
    student = ClipDual(ClipConfig(vocab_size=50, num_hidden_layers=1, vision_layers=1), images=1, classes=2)
    spread = {name: float(value.detach().std()) for name, value in student.named_parameters() if value.ndim > 1}
    assert all(0.015 < value < 0.03 for value in spread.values()), spread


@pytest.mark.parametrize(
    "changed",
    [
        {"vision_cfg": {"layers": [1, 1, 1, 1], "width": 8}},
        {"vision_cfg": {"pool_type": "avg"}},
        {"text_cfg": {"vocab_size": 99}},
        {"text_cfg": {"norm_kwargs": {"eps": 1e-6}}},
        {"quick_gelu": False, "text_cfg": {"act_kwargs": {"approximate": "tanh"}}},
        {"vision_cfg": {"attentional_pool": True, "attn_pooler_heads": 1}},
        {"text_cfg": {"no_causal_mask": True}},
    ],
)
def test_another_pair_of_towers_is_refused(tmp_path, changed):
    write_clip(tmp_path / "other")
    path = tmp_path / "other/open_clip_config.json"
    config = json.loads(path.read_text())
    for part, value in changed.items():
        config["model_cfg"][part] = config["model_cfg"][part] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match="is no pair of CLIP's own Transformers"):
        new_from_clip(str(tmp_path / "other"), "random", wanted())


def test_an_activation_of_its_own_is_kept(tmp_path):
    write_clip(tmp_path / "plain")
    path = tmp_path / "plain/open_clip_config.json"
    path.write_text(path.read_text().replace('"quick_gelu": true', '"quick_gelu": false'))
    _, spec, _ = new_from_clip(str(tmp_path / "plain"), "random", wanted())
    assert (spec.encoder.text_activation, spec.encoder.vision_activation) == ("gelu", "gelu")


@pytest.mark.parametrize(
    "fields, part",
    [
        ({"image_size": 25}, r"image.size 25 is no multiple of CLIP's patch, 8[\s\S]*set image.size=24"),
        ({"max_length": 13}, "has 12 text positions, text.max_length is 13"),
    ],
)
def test_what_does_not_fit_is_refused(clip, fields, part):
    with pytest.raises(InputError, match=part):
        new_from_clip(str(clip[0]), None, wanted(**fields))


@pytest.mark.parametrize(
    "name, value, part",
    [
        ("visual.conv1.weight", None, "is no DeCLIP checkpoint: it lacks 'visual.conv1.weight'"),
        ("encode_text.text_projection.bias", None, "is no DeCLIP checkpoint: it lacks 'text_projection.bias'"),
        ("encode_text.token_embedding.weight", torch.zeros(8, 64), "has 8 tokens, DeCLIP's vocabulary has 49,409"),
        ("visual.extra", torch.zeros(1), "unexpected visual.extra"),
        ("projector_x.weight", torch.zeros(1), "unexpected projector_x.weight"),
        ("visual.ln_pre.bias", None, "missing visual.ln_pre.bias"),
    ],
)
def test_a_file_that_is_no_declip_is_refused(tmp_path, name, value, part):
    weights = official_declip() | {f"module.{name}": value}
    torch.save({"model": {key: held for key, held in weights.items() if held is not None}}, tmp_path / "x.pth")
    with pytest.raises(InputError, match=part):
        LAYOUT.convert(tmp_path / "x.pth", None, tmp_path / "out")
    assert not (tmp_path / "out").exists()
