"""A small fusion model, saved with a tokenizer trained on a few sentences."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from vldistill.data.batch import Batch
from vldistill.data.loading import pad_text
from vldistill.data.sequences import join_parts
from vldistill.data.text import WordTokenizer, train_tokenizer
from vldistill.data.transforms import patchify
from vldistill.data.visual import stack_patches
from vldistill.models.base.checkpoint import ModelSpec, save_model
from vldistill.models.base.official import HEADS_OF_WIDTH
from vldistill.models.vilt.model import EncoderConfig, Vilt

SENTENCES = ["the left image has more green circles", "is there a red square ?", "two dogs run", "a yellow triangle"]
PATCH = 4


@pytest.fixture(autouse=True, scope="module")
def small_heads():
    """Small checkpoints of the tests of single converters have heads of 64, as the published ones do; through the command line
    `--heads` says so."""
    with pytest.MonkeyPatch.context() as patch:
        for of_width in HEADS_OF_WIDTH.values():
            for width in (64, 128):
                patch.setitem(of_width, width, width // 64)
        yield


@dataclass(frozen=True)
class Toolbox:
    """A saved fusion folder and what made it; `batch` draws inputs for it, `save` writes another one."""

    folder: Path
    model: Vilt
    spec: ModelSpec
    tokenizer: WordTokenizer

    def batch(self, *, images: int, rows: int = 3) -> Batch:
        random = np.random.default_rng(8)
        grids = [[(2, 2), (3, 2), (1, 2)][row % 3] for row in range(rows)]

        def one():
            pixels = [random.integers(0, 256, (h * PATCH, w * PATCH, 3), dtype=np.uint8) for h, w in grids]
            return stack_patches([patchify(values, PATCH) for values in pixels], grids)

        coded = [join_parts(self.tokenizer, (tuple(SENTENCES[row % 4].split()),), 10) for row in range(rows)]
        text = pad_text(coded, self.tokenizer.pad_id)
        return Batch([str(row) for row in range(rows)], text, [one() for _ in range(images)], torch.arange(rows) % 3)

    def save(self, folder: Path, *, images: int = 1, labels: tuple[str, ...] = ("no", "yes", "maybe"), seed: int = 5) -> Path:
        encoder = EncoderConfig(**(self.spec.encoder.to_dict() | {"modality_type_vocab_size": images + 1}))
        spec = ModelSpec("vilt", encoder, "snli_ve", images, list(labels), 8, 10)
        save_model(folder, fusion_model(spec, seed), spec, self.tokenizer)
        return folder


def fusion_model(spec: ModelSpec, seed: int) -> Vilt:
    model = Vilt(spec.encoder, images=spec.images, classes=len(spec.labels))
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


@pytest.fixture(scope="session")
def fusion(tmp_path_factory) -> Toolbox:
    tokenizer = train_tokenizer([sentence.split() for sentence in SENTENCES], 120)
    encoder = EncoderConfig(
        vocab_size=len(tokenizer.vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=8,
        patch_size=PATCH,
        max_position_embeddings=10,
    )
    spec = ModelSpec("vilt", encoder, "snli_ve", 1, ["no", "yes", "maybe"], 8, 10)
    model = fusion_model(spec, 1)
    folder = tmp_path_factory.mktemp("fusion") / "model"
    save_model(folder, model, spec, tokenizer)
    return Toolbox(folder, model, spec, tokenizer)
