"""Encoding a set of captions: every image and every text once, in any batches, shared out among processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vldistill.data.datasets import RecordDataset
from vldistill.data.records import Record
from vldistill.data.sequences import PlainLayout
from vldistill.data.text import train_tokenizer
from vldistill.data.visual import stack_patches
from vldistill.metrics.retrieval import ranks_of_vectors
from vldistill.models.vilt.model import EncoderConfig, ViltDual, ViltEncoder
from vldistill.training.vectors import Encoding, caption_set, encode_images, encode_texts, rank_captions

TEXTS = ["a dog", "a red dog runs fast", "two cats", "a cat and a dog and a bird", "birds", "a bird sings"]
IMAGES = ["b", "a", "b", "c", "a", "c"]
TOKENIZER = train_tokenizer([text.split() for text in TEXTS], 80)


class Squares:
    """Images of 1, 2 and 4 patches, by their names; counts how often each is read."""

    def __init__(self) -> None:
        self.read_paths: list[str] = []

    def read(self, path, draw):
        assert draw is None
        self.read_paths.append(path)
        columns = {"a": 1, "b": 2, "c": 4}[path]
        return np.random.default_rng(columns).integers(0, 256, (columns, 48), dtype=np.uint8), (1, columns)

    def stack(self, items):
        return stack_patches([rows for rows, _ in items], [grid for _, grid in items])


@pytest.fixture
def dataset() -> RecordDataset:
    records = [
        Record(str(row), "caption", [image], text.split()) for row, (text, image) in enumerate(zip(TEXTS, IMAGES, strict=True))
    ]
    return RecordDataset(records, PlainLayout(TOKENIZER, 12), Squares(), pad_id=TOKENIZER.pad_id)


@pytest.fixture(scope="module")
def model() -> ViltDual:
    config = EncoderConfig(
        vocab_size=len(TOKENIZER.vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=8,
        patch_size=4,
        max_position_embeddings=12,
    )
    torch.manual_seed(0)
    found = ViltDual(config, images=1, classes=0)
    for parameter in found.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape)
    return found.eval()


def how(batch: int, **fields) -> Encoding:
    return Encoding(batch, torch.device("cpu"), **fields)


def test_which_captions_share_an_image(dataset):
    found = caption_set(dataset.records)
    assert found.first == [0, 1, 3] and found.owner.tolist() == [0, 1, 0, 2, 1, 2]


def test_a_vector_does_not_depend_on_its_batch(dataset, model):
    first = caption_set(dataset.records).first
    images, texts = encode_images(model, dataset, first, how(1)), encode_texts(model, dataset, how(1))
    for batch in (2, 4, 9):
        torch.testing.assert_close(encode_images(model, dataset, first, how(batch)), images, atol=1e-6, rtol=0)
        torch.testing.assert_close(encode_texts(model, dataset, how(batch)), texts, atol=1e-6, rtol=0)
    assert images.shape == (3, 16) and texts.shape == (6, 16) and torch.pdist(texts).min() > 1e-3


def test_processes_share_the_batches_out(dataset, model):
    first = caption_set(dataset.records).first
    for encode in (lambda one: encode_images(model, dataset, first, one), lambda one: encode_texts(model, dataset, one)):
        parts = [encode(how(1, rank=rank, world=4)) for rank in range(4)]
        assert torch.equal(sum(parts), encode(how(1)))
        assert (torch.stack(parts).abs().sum(dim=2) > 0).sum(dim=0).tolist() == [1] * len(parts[0])


def test_ranking_reads_each_image_and_each_text_once(dataset, model, monkeypatch):
    counts = dict.fromkeys(("encode_text", "encode_image"), 0)
    for name in counts:
        original = getattr(ViltEncoder, name)

        def counting(self, batch, *arguments, name=name, original=original):
            counts[name] += len(batch.ids if name == "encode_text" else batch.patches)
            return original(self, batch, *arguments)

        monkeypatch.setattr(ViltEncoder, name, counting)
    done: list[int] = []
    found = rank_captions(model.train(), dataset, how(2, tick=done.append))
    assert counts == {"encode_text": 6, "encode_image": 3} and sorted(dataset.visual.read_paths) == ["a", "b", "c"]
    assert model.training and sum(done) == 9 and set(found.seconds) == {"images", "texts", "ranking"}
    model.eval()
    first = caption_set(dataset.records)
    expected = ranks_of_vectors(
        F.normalize(encode_texts(model, dataset, how(3)), dim=1),
        F.normalize(encode_images(model, dataset, first.first, how(3)), dim=1),
        first.owner,
    )
    assert torch.equal(found.ranks.image, expected.image) and torch.equal(found.ranks.text, expected.text)
