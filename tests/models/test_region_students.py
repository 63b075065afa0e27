"""UNITER and VL-BERT against the library's BERT: the same weights on embeddings worked out here, row by row without padding."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from vldistill.data.batch import Batch, RegionBatch, TextBatch
from vldistill.models.base.bert import RegionBertConfig, make_packing
from vldistill.models.base.outputs import Capture
from vldistill.models.uniter.model import Uniter, box_features
from vldistill.models.vlbert.model import VlBert, box_code

D, LAYERS, HEADS, F_SIZE, WORDS = 16, 3, 4, 6, 40
SIZES = {
    "vocab_size": WORDS,
    "hidden_size": D,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 32,
}
CONFIG = RegionBertConfig(**SIZES, max_position_embeddings=20, type_vocab_size=4, region_size=F_SIZE)
TEXTS, REGIONS = (5, 3, 7, 4), (2, 4, 1, 3)  # lengths of each row


def scrambled(model, seed: int):
    """Every parameter moved, norms and zero-initialised ones too, so that nothing agrees by being its start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def batch(choices: int = 1) -> Batch:
    draw = torch.Generator().manual_seed(1)
    rows, records = len(TEXTS), len(TEXTS) // choices
    longest, most = max(TEXTS), max(REGIONS[:records])
    mask = torch.arange(longest) < torch.tensor(TEXTS)[:, None]
    ids = torch.randint(1, WORDS, (rows, longest), generator=draw).masked_fill(~mask, 0)
    segments = torch.randint(0, 2, (rows, longest), generator=draw).masked_fill(~mask, 0)
    tags = torch.randint(-1, 6, (rows, longest), generator=draw).masked_fill(~mask, -1)  # some beyond the regions there are
    text = TextBatch(ids, mask, torch.full_like(ids, -1), segments, tags)
    known = torch.arange(most) < torch.tensor(REGIONS[:records])[:, None]
    corners = torch.rand(records, most, 2, generator=draw) * 0.5
    boxes = torch.cat([corners, corners + 0.1 + 0.3 * torch.rand(records, most, 2, generator=draw)], dim=-1)
    # What stands at padding must not matter.
    features = torch.randn(records, most, F_SIZE, generator=draw)
    regions = RegionBatch(features, boxes, known, torch.randn(records, F_SIZE, generator=draw))
    return Batch([str(row) for row in range(records)], text, [regions], torch.arange(records) % 3)


def library_bert(state: dict, prefix: str) -> BertModel:
    """The library's encoder and pooler with the weights below `prefix`."""
    model = BertModel(BertConfig(**SIZES, layer_norm_eps=1e-12)).eval()
    parts = (f"{prefix}encoder", f"{prefix}pooler")
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(parts)}
    missing = model.load_state_dict(own, strict=False)
    assert not missing.unexpected_keys and all(name.startswith("embeddings.") for name in missing.missing_keys)
    return model


def norm(states, state, name):
    return F.layer_norm(states, (D,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-12)


def linear(states, state, name):
    return F.linear(states, state[f"{name}.weight"], state[f"{name}.bias"])


def uniter_row(state, given: Batch, row: int, choices: int) -> torch.Tensor:
    """[1, t + r, D] embeddings of one row without padding."""
    text, regions, length = given.text, given.images[0], TEXTS[row]
    record = row // choices
    count = REGIONS[record]
    words = state["uniter.embeddings.word_embeddings.weight"][text.ids[row, :length]]
    positions = state["uniter.embeddings.position_embeddings.weight"][:length]
    types = state["uniter.embeddings.token_type_embeddings.weight"]
    first = norm(words + positions + types[text.segments[row, :length]], state, "uniter.embeddings.LayerNorm")
    x1, y1, x2, y2 = regions.boxes[record, :count].T
    seven = torch.stack([x1, y1, x2, y2, x2 - x1, y2 - y1, (x2 - x1) * (y2 - y1)], dim=1)
    image = norm(
        linear(regions.features[record, :count], state, "uniter.img_embeddings.img_linear"),
        state,
        "uniter.img_embeddings.img_layer_norm",
    )
    place = norm(linear(seven, state, "uniter.img_embeddings.pos_linear"), state, "uniter.img_embeddings.pos_layer_norm")
    second = norm(image + place + types[1], state, "uniter.img_embeddings.LayerNorm")
    return torch.cat([first, second])[None]


def vlbert_row(state, given: Batch, row: int, choices: int) -> torch.Tensor:
    text, regions, length = given.text, given.images[0], TEXTS[row]
    record = row // choices
    count = REGIONS[record]
    features = torch.cat([regions.whole[record][None], regions.features[record, :count]])
    boxes = torch.cat([torch.tensor([[0.0, 0.0, 1.0, 1.0]]), regions.boxes[record, :count]])
    codes = []
    for x1, y1, x2, y2 in boxes.tolist():
        values = [100 * (x1 + x2) / 2, 100 * (y1 + y2) / 2, 100 * (x2 - x1), 100 * (y2 - y1)]
        codes.append([f(value / 1000 ** (k / 256)) for value in values for f in (math.sin, math.cos) for k in range(256)])
    seen = linear(torch.cat([torch.tensor(codes), features], dim=1), state, "image_feature_extractor.obj_downsample.1").relu()
    beside = [seen[tag + 1] if 0 <= tag < count else seen[0] for tag in text.tags[row, :length].tolist()]
    words = state["vlbert.word_embeddings.weight"][text.ids[row, :length]]
    words = words + norm(torch.stack(beside), state, "vlbert.visual_ln_text")
    objects = state["object_linguistic_embeddings.weight"][0] + norm(seen, state, "vlbert.visual_ln_object")
    states = torch.cat([words, objects, state["vlbert.end_embedding.weight"]])
    positions = [*range(length), *[length] * (count + 1), length + 1]
    segments = [*text.segments[row, :length].tolist(), *[2] * (count + 2)]
    states = states + state["vlbert.position_embeddings.weight"][positions]
    states = states + state["vlbert.token_type_embeddings.weight"][segments]
    return norm(states, state, "vlbert.embedding_LayerNorm")[None]


STUDENTS = {"uniter": (Uniter, uniter_row, "uniter."), "vlbert": (VlBert, vlbert_row, "vlbert.")}


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize("choices", [1, 2])
@torch.no_grad()
def test_agrees_with_the_librarys_bert_on_rows_without_padding(name, choices):
    kind, embed, prefix = STUDENTS[name]
    model = scrambled(kind(CONFIG, classes=3 if choices == 1 else 1, target="label" if choices == 1 else "choice"), 2)
    state, given = model.state_dict(), batch(choices)
    library = library_bert(state, prefix)
    output = model(given, Capture(hidden=(1, LAYERS)))
    view = output.views[0]
    heads = []
    for row, length in enumerate(TEXTS):
        found = [embed(state, given, row, choices)]
        for layer in library.encoder.layer:
            after = layer(found[-1])
            found.append(after[0] if isinstance(after, tuple) else after)
        for layer in (1, LAYERS):
            states = found[layer][0]
            text, image = view.hidden[layer]
            torch.testing.assert_close(text[row, :length], states[:length], atol=1e-4, rtol=0)
            torch.testing.assert_close(image[row][view.image_mask[row]], states[length:], atol=1e-4, rtol=0)
        assert (view.hidden[1][0][row, length:] == 0).all()
        heads.append(model.classifier(library.pooler(found[-1]))[0])
    expected = torch.stack(heads)
    if choices == 2 and name == "uniter":
        torch.testing.assert_close(output.pairs, expected.view(2, 2, 2), atol=1e-4, rtol=0)
        expected = expected[:, 1:]
    torch.testing.assert_close(output.logits, expected.view(output.logits.shape), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", STUDENTS)
@torch.no_grad()
def test_a_row_alone_says_what_it_says_in_company(name):
    kind, *_ = STUDENTS[name]
    model, given = scrambled(kind(CONFIG, classes=3, target="answers"), 3), batch()
    together = model(given).logits
    for row in range(len(TEXTS)):
        only = torch.tensor([row])
        alone = Batch([str(row)], given.text[only], [given.images[0][only]], None)
        torch.testing.assert_close(model(alone).logits[0], together[row], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", STUDENTS)
def test_visual_tokens_are_the_regions(name):
    kind, *_ = STUDENTS[name]
    with torch.no_grad():
        view = scrambled(kind(CONFIG, classes=3, target="label"), 4)(batch()).views[0]
    whole = name == "vlbert"  # its first region is the whole image; its [END] is no region
    assert view.visual.sum(1).tolist() == [count + whole for count in REGIONS]
    assert view.image_mask.sum(1).tolist() == [count + 2 * whole for count in REGIONS]


@pytest.mark.parametrize("name", STUDENTS)
def test_queries_and_keys_come_back_in_the_places_of_their_tokens(name):
    kind, embed, prefix = STUDENTS[name]
    model, given = scrambled(kind(CONFIG, classes=3, target="label"), 5), batch()
    with torch.no_grad():
        kept = model(given, Capture(qk=(1,))).views[0].qk[1]
        first = model.get_submodule(f"{prefix}encoder").layer[0].attention.self
        for row, length in enumerate(TEXTS):
            query = first.query(embed(model.state_dict(), given, row, 1))[0].unflatten(-1, (HEADS, -1)).transpose(0, 1)
            torch.testing.assert_close(kept.text_query[row, :, :length], query[:, :length], atol=1e-5, rtol=0)
            mask = model(given).views[0].image_mask[row]
            torch.testing.assert_close(kept.image_query[row][:, mask], query[:, length:], atol=1e-5, rtol=0)


@torch.no_grad()
def test_two_images_are_two_passes_of_uniter_whose_pooled_vectors_are_joined():
    given = batch()
    other = replace(given.images[0], features=given.images[0].features.flip(0))
    pair = replace(given, images=[given.images[0], other])
    model = scrambled(Uniter(CONFIG, classes=2, target="label", images=2), 6)
    output = model(pair, Capture(hidden=(1,)))
    alone = [model.uniter.pooler(model._pass(given.text, image, Capture(), None, None).first[:, None]) for image in pair.images]
    torch.testing.assert_close(output.logits, model.classifier(torch.cat(alone, dim=-1)), atol=1e-6, rtol=0)
    assert len(output.views) == 2 and not torch.equal(output.views[0].hidden[1][0], output.views[1].hidden[1][0])
    assert model.losses == {} and Uniter(CONFIG, classes=3, target="label").losses["label"] == "label_bce"


def test_every_trained_parameter_of_uniter_gets_a_gradient():
    """Else several processes, each waiting for the others' gradients, would stop."""
    model = Uniter(CONFIG, classes=3, target="label")
    model(batch()).logits.sum().backward()
    assert not {name for name, value in model.named_parameters() if value.requires_grad and value.grad is None}


def test_packing_by_hand():
    masks = [torch.tensor([[1, 1, 0], [1, 0, 0]]).bool(), torch.tensor([[1, 0], [1, 1]]).bool()]
    packing = make_packing(masks)
    states = torch.arange(10.0).view(2, 5, 1)
    packed = packing.pack(states)
    assert packed[0, :, 0].tolist() == [0, 1, 3] and packed[1, :, 0].tolist() == [5, 8, 9]
    text, image = packing.split(packed)
    assert text[..., 0].tolist() == [[0, 1, 0], [5, 0, 0]] and image[..., 0].tolist() == [[3, 0], [8, 9]]


def test_boxes_by_hand():
    assert box_features(torch.tensor([0.1, 0.2, 0.5, 0.8])).tolist() == pytest.approx([0.1, 0.2, 0.5, 0.8, 0.4, 0.6, 0.24])
    code = box_code(torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    assert code.shape == (1, 2048)
    assert float(code[0, 0]) == pytest.approx(math.sin(50.0), abs=1e-4)  # centre x, longest frequency
    assert float(code[0, 256]) == pytest.approx(math.cos(50.0), abs=1e-4)
    assert float(code[0, 1024 + 512 + 255]) == pytest.approx(math.sin(100 / 1000 ** (255 / 256)), abs=1e-4)  # height, last sine


BERT_LAYER = {f"attention.self.{part}.{kind}" for part in ("query", "key", "value") for kind in ("weight", "bias")} | {
    f"{part}.{kind}"
    for part in ("attention.output.dense", "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm")
    for kind in ("weight", "bias")
}


def named(*parts: str) -> set[str]:
    return {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}


def test_names_are_the_official_checkpoints():
    body = {f"encoder.layer.{n}.{name}" for n in range(LAYERS) for name in BERT_LAYER} | named("pooler.dense")
    tables = {"word_embeddings.weight", "position_embeddings.weight", "token_type_embeddings.weight"}
    uniter = (
        {f"embeddings.{name}" for name in tables | named("LayerNorm")}
        | {"img_embeddings.mask_embedding.weight"}
        | {
            f"img_embeddings.{name}"
            for name in named("img_linear", "img_layer_norm", "pos_linear", "pos_layer_norm", "LayerNorm")
        }
    )
    own = {name for name in Uniter(CONFIG, classes=3, target="label").state_dict() if not name.startswith("classifier.")}
    assert own == {f"uniter.{name}" for name in uniter | body}
    vlbert = tables | {"end_embedding.weight"} | named("embedding_LayerNorm", "visual_ln_text", "visual_ln_object")
    own = {name for name in VlBert(CONFIG, classes=3, target="label").state_dict() if not name.startswith("classifier.")}
    assert own == {f"vlbert.{name}" for name in vlbert | body} | {"object_linguistic_embeddings.weight"} | named(
        "image_feature_extractor.obj_downsample.1"
    )


def test_heads_are_each_systems_own():
    shapes = {
        (kind.__name__, target): [
            tuple(value.shape)
            for name, value in kind(CONFIG, classes=classes, target=target).state_dict().items()
            if name.startswith("classifier.") and value.ndim == 2
        ]
        for kind in (Uniter, VlBert)
        for target, classes in (("answers", 9), ("label", 3), ("choice", 1))
    }
    assert shapes == {
        ("Uniter", "answers"): [(2 * D, D), (9, 2 * D)],
        ("Uniter", "label"): [(2 * D, D), (3, 2 * D)],
        ("Uniter", "choice"): [(2 * D, D), (2, 2 * D)],
        ("VlBert", "answers"): [(D, D), (9, D)],
        ("VlBert", "label"): [(3, D)],
        ("VlBert", "choice"): [(1, D)],
    }
    assert Uniter.losses == {"label": "label_bce", "choice": "choice_pairs"} and VlBert.losses["choice"] == "choice_bce"


def test_a_fresh_vlbert_does_not_look_yet():
    """Its visual norms start at zero, so that what a region looks like is mixed in little by little."""
    fresh = VlBert(CONFIG, classes=3, target="label").vlbert
    assert (fresh.visual_ln_text.weight == 0).all() and (fresh.visual_ln_object.weight == 0).all()
