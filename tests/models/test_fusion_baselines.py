"""VisualBERT and LXMERT against direct calls of `transformers`, Pixel-BERT's parts, two images, and where each may start."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from asked import asked, sizes
from torch.nn import functional as F
from transformers import LxmertConfig as LibraryLxmertConfig
from transformers import LxmertForPreTraining, LxmertModel, VisualBertForPreTraining, VisualBertModel
from transformers import VisualBertConfig as LibraryVisualBertConfig

from vldistill.data.batch import Batch, LetterboxBatch, RegionBatch, TextBatch
from vldistill.data.text import train_tokenizer
from vldistill.errors import InputError
from vldistill.models.base.checkpoint import ModelSpec, save_model
from vldistill.models.build import init_student, load_student, new_from_scratch, new_student
from vldistill.models.lxmert.model import LxmertConfig
from vldistill.models.pixelbert.model import PixelBertConfig
from vldistill.models.visualbert.model import VisualBertConfig

WORDS, D, FEATURES, RESNET, CELL = 40, 16, 6, "test_resnet", 96
COMMON = {"vocab_size": WORDS, "hidden_size": D, "num_attention_heads": 2, "intermediate_size": 24, "max_position_embeddings": 20}
CONFIGS = {
    "visualbert": VisualBertConfig(**COMMON, num_hidden_layers=2, visual_embedding_dim=FEATURES),
    "lxmert": LxmertConfig(**COMMON, l_layers=2, x_layers=1, r_layers=1, visual_feat_dim=FEATURES),
    "pixelbert": PixelBertConfig(**COMMON, num_hidden_layers=2, network=RESNET, region_size=CELL, long_side=128),
}
LIBRARY = {"visualbert": VisualBertModel, "lxmert": LxmertModel}
TEXTS, REGIONS = (5, 3, 7), (2, 4, 1)
LABELS = ["False", "True"]
TOKENIZER = train_tokenizer([["a", "red", "circle"], ["two", "dogs", "run"]], WORDS)


def scrambled(model, seed: int = 2):
    """Every parameter moved, so that nothing agrees by being its start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def spec_of(kind: str, images: int = 1) -> ModelSpec:
    return ModelSpec(kind, CONFIGS[kind], "nlvr2" if images == 2 else "snli_ve", images, LABELS, 64 * (kind == "pixelbert"), 20)


def regions_of(draw: torch.Generator) -> RegionBatch:
    mask = torch.arange(max(REGIONS)) < torch.tensor(REGIONS)[:, None]
    # What stands at padding must not matter.
    features, boxes = (torch.rand(len(REGIONS), max(REGIONS), size, generator=draw) for size in (FEATURES, 4))
    return RegionBatch(features, boxes, mask, features.mean(1))


def canvas_of(draw: torch.Generator) -> LetterboxBatch:
    pixels = torch.randint(0, 256, (len(TEXTS), 3, 64, 128), generator=draw, dtype=torch.uint8)
    return LetterboxBatch(pixels, [True, False, True], torch.arange(len(TEXTS)))


def batch(kind: str, images: int = 1) -> Batch:
    draw = torch.Generator().manual_seed(1)
    mask = torch.arange(max(TEXTS)) < torch.tensor(TEXTS)[:, None]
    ids = torch.randint(1, WORDS, mask.shape, generator=draw).masked_fill(~mask, 0)
    segments = torch.randint(0, 3, mask.shape, generator=draw).masked_fill(~mask, 0)
    views = [(canvas_of if kind == "pixelbert" else regions_of)(draw) for _ in range(images)]
    return Batch([str(row) for row in range(len(TEXTS))], TextBatch(ids, mask, None, segments), views, torch.tensor([0, 1, 1]))


def library_pooled(kind: str, model, text: TextBatch, image: RegionBatch, row: int) -> torch.Tensor:
    """[1, D] of one row without padding, by a direct call."""
    length, count = TEXTS[row], REGIONS[row]
    ids, types = text.ids[row : row + 1, :length], text.segments[row : row + 1, :length].clamp(max=1)
    features, boxes = image.features[row : row + 1, :count], image.boxes[row : row + 1, :count]
    if kind == "visualbert":
        return model(
            input_ids=ids,
            token_type_ids=types,
            visual_embeds=features,
            visual_token_type_ids=torch.ones(features.shape[:2], dtype=torch.long),
        ).pooler_output
    return model(input_ids=ids, token_type_ids=types, visual_feats=features, visual_pos=boxes).pooled_output


@pytest.mark.parametrize("kind", LIBRARY)
@pytest.mark.parametrize("images", [1, 2])
@torch.no_grad()
def test_agrees_with_direct_calls_of_the_library_on_its_own_folder(tmp_path, kind, images):
    spec = spec_of(kind, images)
    student = scrambled(new_student(spec))
    save_model(tmp_path, student, spec, TOKENIZER)
    theirs, told = LIBRARY[kind].from_pretrained(tmp_path, output_loading_info=True)
    assert not told["missing_keys"] and set(told["unexpected_keys"]) == {
        name for name in student.state_dict() if name.startswith("classifier.")
    }
    given = batch(kind, images)
    rows = [
        torch.cat([library_pooled(kind, theirs.eval(), given.text, image, row) for image in given.images], dim=-1)
        for row in range(len(TEXTS))
    ]
    output = student(given)
    torch.testing.assert_close(output.logits, student.classifier(torch.cat(rows)), atol=1e-5, rtol=0)
    assert [view.visual.sum(1).tolist() for view in output.views] == [list(REGIONS)] * images
    again, read, _ = load_student(str(tmp_path))
    assert read == spec and torch.equal(again(given).logits, output.logits)


@pytest.mark.parametrize(
    "kind, whole, sizes, head",
    [
        (
            "visualbert",
            VisualBertForPreTraining,
            LibraryVisualBertConfig(**COMMON, num_hidden_layers=2, visual_embedding_dim=FEATURES),
            "cls.",
        ),
        (
            "lxmert",
            LxmertForPreTraining,
            LibraryLxmertConfig(**COMMON, l_layers=2, x_layers=1, r_layers=1, visual_feat_dim=FEATURES, num_qa_labels=5),
            "answer_head.",
        ),
    ],
)
@pytest.mark.parametrize("bare", [False, True])
def test_starts_from_a_folder_of_the_library(tmp_path, kind, whole, sizes, head, bare):
    published = scrambled(LIBRARY[kind](sizes) if bare else whole(sizes))
    published.save_pretrained(tmp_path)
    TOKENIZER.save(tmp_path)
    assert bare or any(name.startswith(head) for name in published.state_dict())
    wanted = asked(kind, "nlvr2", 2, LABELS, 0, 12, 0.0, regions="store")
    student, spec, _ = init_student(str(tmp_path), wanted, keep_head=False)
    prefix = "visual_bert." if kind == "visualbert" else "lxmert."
    body = {name.removeprefix(prefix): value for name, value in published.state_dict().items() if bare or name.startswith(prefix)}
    own = {name.removeprefix(prefix): value for name, value in student.state_dict().items() if name.startswith(prefix)}
    assert own.keys() == body.keys() and all(torch.equal(value, body[name]) for name, value in own.items())
    assert spec.encoder.region_size == FEATURES and (spec.images, spec.max_length, spec.regions) == (2, 12, "store")
    assert student.classifier[0].in_features == 2 * D and spec.encoder.hidden_dropout_prob == 0.0
    with pytest.raises(InputError, match="from which a uniter student cannot start"):
        init_student(str(tmp_path), asked("uniter", "nlvr2", 2, LABELS, 0, 12, 0.0), keep_head=False)


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_trained_parameter_gets_a_gradient(kind):
    student = new_student(spec_of(kind, 2)).train()
    F.cross_entropy(student(batch(kind, 2)).logits, torch.tensor([0, 1, 1])).backward()
    idle = {name for name, value in student.named_parameters() if value.requires_grad and value.grad is None}
    assert not idle


@pytest.mark.parametrize("kind", CONFIGS)
@torch.no_grad()
def test_the_order_of_the_images_matters_and_a_row_alone_answers_the_same(kind):
    student, given = scrambled(new_student(spec_of(kind, 2))), batch(kind, 2)
    together = student(given).logits
    turned = Batch(given.ids, given.text, given.images[::-1], None)
    assert (student(turned).logits - together).abs().max() > 1e-3
    for row in range(len(TEXTS)):
        only = torch.tensor([row])
        alone = Batch([""], given.text[only], [image[only] for image in given.images], None)
        torch.testing.assert_close(student(alone).logits[0], together[row], atol=1e-5, rtol=0)


def test_lxmert_from_scratch_keeps_the_published_proportions():
    depths = {}
    for layers in (9, 4, 1):
        own = {"sizes": sizes(layers, D)}
        wanted = asked("lxmert", "vqa", 1, LABELS, 0, 20, 0.1, own=own, region_size=FEATURES)
        _, spec, _ = new_from_scratch(wanted, TOKENIZER)
        depths[layers] = (spec.encoder.l_layers, spec.encoder.r_layers, spec.encoder.x_layers)
    assert depths == {9: (9, 5, 5), 4: (4, 2, 2), 1: (1, 1, 1)}


@torch.no_grad()
def test_pixelbert_reads_the_pooled_map_of_its_network():
    """A text beside the cells of one image that lies and of one that stands, worked out here."""
    student, given = scrambled(new_student(spec_of("pixelbert"))), batch("pixelbert")
    view = student(given).views[0]
    assert view.visual.shape == (3, 1 * 2) and view.visual.all()  # 64 x 128 pixels: a map of 2 x 4, pooled to 1 x 2
    network = timm.create_model(RESNET, num_classes=0).eval()
    network.load_state_dict(student.network.body.state_dict())
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    text, state = given.text, student.state_dict()
    for row, upright in ((0, True), (1, False)):
        image = given.images[0].pixels[row] / 255
        found = network.forward_features((((image.transpose(1, 2) if upright else image) - mean) / std)[None])
        height, width = found.shape[2:]
        assert (height, width) == ((4, 2) if upright else (2, 4))
        cells = torch.stack(
            [found[0, :, y : y + 2, x : x + 2].amax((1, 2)) for y in range(0, height, 2) for x in range(0, width, 2)]
        )
        seen = F.linear(cells, state["cells.dense.weight"], state["cells.dense.bias"])
        kind = state["bert.embeddings.token_type_embeddings.weight"][1]
        seen = F.layer_norm(seen + kind, (D,), state["cells.LayerNorm.weight"], state["cells.LayerNorm.bias"], 1e-12)
        only = torch.tensor([row])
        words = replace(text[only], segments=text.segments[only].clamp(max=1))
        states = torch.cat([student.bert.embeddings(words)[:, : TEXTS[row]], seen[None]], dim=1)
        for layer in student.bert.encoder.layer:
            states, *_ = layer(states, None)
        logits = student.classifier(torch.tanh(student.bert.pooler.dense(states[:, 0])))
        torch.testing.assert_close(student(given).logits[row], logits[0], atol=1e-5, rtol=0)


def test_pixelbert_draws_cells_in_training_only():
    spec = ModelSpec("pixelbert", PixelBertConfig(**CONFIGS["pixelbert"].to_dict() | {"sample": 1}), "snli_ve", 1, LABELS, 64, 20)
    student, given = new_student(spec), batch("pixelbert")
    assert student.train()(given).views[0].visual.shape[1] == 1
    assert student.eval()(given).views[0].visual.shape[1] == 2
    cells = torch.arange(12.0).view(2, 6, 1)
    drawn = student.train()._drawn(cells)
    assert drawn.shape == (2, 1, 1) and all(value in cells[row] for row, value in enumerate(drawn[:, 0]))


def from_pixels(task: str, images: int, **pixels):
    own = {"pixels": pixels, "sizes": sizes(2, D)}
    return asked("pixelbert", task, images, LABELS, 64, 20, 0.1, own=own, long_side=128)


def test_pixelbert_starts_from_a_network_and_from_itself(tmp_path):
    file = tmp_path / "resnet.pth"
    network = scrambled(timm.create_model(RESNET, num_classes=0))
    torch.save(network.state_dict(), file)
    wanted = from_pixels("vqa", 1, model=RESNET, weights=str(file))
    student, spec, tokenizer = new_from_scratch(wanted, TOKENIZER)
    assert spec.encoder.region_size == CELL and (spec.encoder.long_side, spec.image_size) == (128, 64)
    own = student.network.body.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in network.state_dict().items())
    save_model(tmp_path / "first", student, spec, tokenizer)
    further = from_pixels("nlvr2", 2, sample=1)
    second, later, _ = init_student(str(tmp_path / "first"), further, keep_head=False)
    assert (later.encoder.network, later.encoder.sample) == (RESNET, 1)
    kept = {name: value for name, value in student.state_dict().items() if not name.startswith("classifier.")}
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in kept.items())


@pytest.mark.parametrize(
    "model, weights, part",
    [
        ("no_such_net", "random", "is no model of timm"),
        (RESNET, "gone.pth", "no such file"),
        ("test_vit", "random", "is no ResNet"),
    ],
)
def test_networks_that_do_not_serve(model, weights, part):
    wanted = from_pixels("vqa", 1, model=model, weights=weights)
    with pytest.raises(InputError, match=part):
        new_from_scratch(wanted, TOKENIZER)
