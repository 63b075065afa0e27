"""OSCAR and the towers of its dual encoder against the library's BERT, on embeddings made here, row by row without padding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_oscar import CONFIG, REGIONS, TEXTS, make_batch, scrambled
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from vldistill.data.batch import Batch
from vldistill.models.base.outputs import Capture
from vldistill.models.oscar.model import Oscar, OscarDual, OscarEncoder, box_features

D, LAYERS = CONFIG.hidden_size, CONFIG.num_hidden_layers
VINVL = replace(CONFIG, use_img_layernorm=True, img_layer_norm_eps=0.1)


class Reference:
    """The library's BERT with an encoder's weights, and the embeddings before it."""

    def __init__(self, encoder: OscarEncoder):
        self.weights, config = encoder.state_dict(), encoder.config
        sizes = {
            name: getattr(config, name)
            for name in (
                "vocab_size",
                "hidden_size",
                "num_hidden_layers",
                "num_attention_heads",
                "intermediate_size",
                "layer_norm_eps",
            )
        }
        self.bert, self.eps = BertModel(BertConfig(**sizes, attn_implementation="eager")).eval(), config.img_layer_norm_eps
        own = {name: value for name, value in self.weights.items() if name.startswith(("encoder.", "pooler."))}
        found = self.bert.load_state_dict(own, strict=False)
        assert not found.unexpected_keys and all(name.startswith("embeddings.") for name in found.missing_keys)

    def text(self, batch: Batch, row: int, length: int) -> torch.Tensor:
        """[1, t, D]: word, position and segment, normed."""
        word, position, segment = (
            self.weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
        )
        states = torch.stack(
            [
                word[batch.text.ids[row, place]] + position[place] + segment[batch.text.segments[row, place]]
                for place in range(length)
            ]
        )
        return F.layer_norm(
            states, (D,), self.weights["embeddings.LayerNorm.weight"], self.weights["embeddings.LayerNorm.bias"], 1e-12
        )[None]

    def regions(self, batch: Batch, place: int, row: int, count: int) -> torch.Tensor:
        """[1, r, D]: a map of feature and box; a norm only where there are weights for it."""
        seen, rows = batch.images[place], []
        for region in range(count):
            x1, y1, x2, y2 = seen.boxes[row, region].tolist()
            numbers = torch.cat([seen.features[row, region], torch.tensor([x1, y1, x2, y2, x2 - x1, y2 - y1])])
            rows.append(self.weights["img_embedding.weight"] @ numbers + self.weights["img_embedding.bias"])
        states = torch.stack(rows)
        if "LayerNorm.weight" in self.weights:
            states = F.layer_norm(states, (D,), self.weights["LayerNorm.weight"], self.weights["LayerNorm.bias"], self.eps)
        return states[None]

    def __call__(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[1, S, D] final states, and [1, D] the pooled one. BERT's own embeddings would norm what goes in once more."""
        found = self.bert.encoder(states).last_hidden_state
        return found, self.bert.pooler(found)


def lengths(padded: bool):
    return zip(*((TEXTS, REGIONS) if padded else ((max(TEXTS),) * 3, (max(REGIONS),) * 3)), strict=True)


@torch.no_grad()
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("config", [CONFIG, VINVL], ids=["oscar", "vinvl"])
def test_text_and_regions_in_one_sequence_are_the_librarys_bert(config, padded):
    model = scrambled(Oscar(config, images=1, classes=3))
    batch, reference = make_batch(padded=padded), Reference(model.bert)
    found = model.bert.encode_pair(batch.text, batch.images[0], Capture(qk=(2,), hidden=(1,)))
    logits = model(batch).logits
    layer = reference.bert.encoder.layer[1].attention.self
    for row, (text, count) in enumerate(lengths(padded)):
        states = torch.cat([reference.text(batch, row, text), reference.regions(batch, 0, row, count)], dim=1)
        final, pooled = reference(states)
        ours = torch.cat([found.parts[0][row, :text], found.parts[1][row, :count]])
        torch.testing.assert_close(ours, final[0], rtol=0, atol=1e-5)
        head = model.classifier[0]
        torch.testing.assert_close(logits[row], head(pooled[0]), rtol=0, atol=1e-5)
        before = reference.bert.encoder.layer[0](states)  # what layer 2's projections read
        before = before[0] if isinstance(before, tuple) else before
        query, key = (
            part(before)[0].unflatten(-1, (CONFIG.num_attention_heads, -1)).transpose(0, 1) for part in (layer.query, layer.key)
        )
        kept, hidden = found.view.qk[2], found.view.hidden[1]
        for mine, theirs in (
            (kept.text_query[row, :, :text], query[:, :text]),
            (kept.text_key[row, :, :text], key[:, :text]),
            (kept.image_query[row, :, :count], query[:, text:]),
            (kept.image_key[row, :, :count], key[:, text:]),
            (hidden[0][row, :text], before[0, :text]),
            (hidden[1][row, :count], before[0, text:]),
        ):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("padded", [True, False])
def test_two_images_are_two_passes_and_the_official_head(padded):
    model = scrambled(Oscar(CONFIG, images=2, classes=2))
    batch, reference = make_batch(images=2, padded=padded), Reference(model.bert)
    counts = [image.mask.sum(dim=1).tolist() for image in batch.images]
    weights = model.state_dict()
    assert weights["classifier.0.weight"].shape == (3 * D, 2 * D) and weights["classifier.2.weight"].shape == (2, 3 * D)
    output = model(batch)
    assert len(output.views) == 2
    for row in range(len(batch)):
        text = reference.text(batch, row, int(batch.text.mask[row].sum()))
        pooled = [
            reference(torch.cat([text, reference.regions(batch, place, row, counts[place][row])], dim=1))[1][0]
            for place in (0, 1)
        ]
        inner = (weights["classifier.0.weight"] @ torch.cat(pooled) + weights["classifier.0.bias"]).clamp(min=0)
        expected = weights["classifier.2.weight"] @ inner + weights["classifier.2.bias"]
        torch.testing.assert_close(output.logits[row], expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("padded", [True, False])
def test_the_towers_are_the_librarys_bert_each_on_its_own(padded):
    model = scrambled(OscarDual(CONFIG, images=1, classes=2))
    batch = make_batch(padded=padded)
    vectors = model.encode_text(batch.text), model.encode_image(batch.images[0])
    texts, images = Reference(model.text_encoder), Reference(model.image_encoder)
    for row, (text, count) in enumerate(lengths(padded)):
        expected = texts(texts.text(batch, row, text))[1][0]
        torch.testing.assert_close(vectors[0][row], expected, rtol=0, atol=1e-5)
        states = torch.cat([model.image_encoder.cls_token, images.regions(batch, 0, row, count)], dim=1)
        torch.testing.assert_close(vectors[1][row], images(states)[1][0], rtol=0, atol=1e-5)


def test_a_large_model_has_its_own_head():
    assert Oscar(replace(CONFIG, cls_hidden_scale=2), images=2, classes=2).classifier[0].out_features == 2 * D
    assert Oscar(CONFIG, images=1, classes=5).classifier[0].weight.shape == (5, D)


def test_dropout_stands_before_the_head():
    model = Oscar(replace(CONFIG, hidden_dropout_prob=1.0), images=1, classes=3)
    torch.nn.init.ones_(model.classifier[0].weight)
    pooled = torch.ones(2, D)
    assert model.train().classifier(pooled).eq(0).all() and model.eval().classifier(pooled).eq(D).all()


def test_a_box_is_corners_width_and_height():
    found = box_features(torch.tensor([[0.25, 0.5, 0.75, 0.625]]))
    assert found.tolist() == [[0.25, 0.5, 0.75, 0.625, 0.5, 0.125]]
