"""Small OSCARs, and batches of texts and regions for them."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from vldistill.data.batch import Batch, RegionBatch, TextBatch
from vldistill.data.text import SPECIALS
from vldistill.models.oscar.model import OscarConfig

WORDS, FEATURES = 40, 6
CONFIG = OscarConfig(
    vocab_size=WORDS,
    hidden_size=16,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=24,
    max_position_embeddings=20,
    region_size=FEATURES,
)
TEXTS, REGIONS = (5, 3, 7), (2, 4, 1)
"""Lengths of each row."""
NAMES = [*SPECIALS, *(f"w{number}" for number in range(WORDS - len(SPECIALS)))]
"""The tokens of its vocabulary."""
Model = TypeVar("Model", bound=nn.Module)


def scrambled(model: Model, seed: int = 0) -> Model:
    """Every parameter moved, norms and biases too, so that nothing agrees by being its start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def write_vocabulary(folder: Path) -> Path:
    """A vocab.txt."""
    path = folder / "vocab.txt"
    path.write_text("\n".join(NAMES) + "\n")
    return path


def write_features(images: Path, folder: Path, *, width: int = 12) -> None:
    """An npz with two to four random regions for each image below `images`, as UNITER's files have them; the same for files of
    the same content, of which the toy world has some."""
    folder.mkdir()
    for image in (path for path in images.glob("artifacts/raw/toy/**/*") if path.suffix in (".jpg", ".png")):
        random = np.random.default_rng(zlib.crc32(image.read_bytes()))
        count, corner = int(random.integers(2, 5)), random.random((4, 2)) * 0.5
        boxes = np.concatenate([corner, corner + 0.3, np.full((4, 2), 0.3)], axis=1)[:count]
        np.savez(
            folder / f"{image.stem}.npz",
            norm_bb=boxes.astype(np.float16),
            features=random.normal(size=(count, width)).astype(np.float16),
            conf=np.ones(count, np.float16),
            soft_labels=np.ones((count, 3), np.float16),
        )


def prepare_with_regions(folder: Path, well: Callable[..., object], datasets: str) -> None:
    """Toy data in `folder`, the working folder, and random regions for all their images in artifacts/regions/toy. well: runs a
    command."""
    well("prepare", "toy", "--scale", "0.01", "--datasets", datasets)
    write_features(folder, folder / "features")
    well("prepare", "regions", "import", "--raw", "features", "--out", "artifacts/regions/toy", "--boxes", "1,100")


def make_batch(*, images: int = 1, padded: bool = True, seed: int = 1) -> Batch:
    """Three records. What stands at padding is noise, which must not matter."""
    draw = torch.Generator().manual_seed(seed)
    rows = len(TEXTS)
    lengths, counts = (TEXTS, REGIONS) if padded else ((max(TEXTS),) * rows, (max(REGIONS),) * rows)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.randint(1, WORDS, mask.shape, generator=draw)
    segments = torch.randint(0, 2, mask.shape, generator=draw)

    def regions(counts: tuple[int, ...]) -> RegionBatch:
        known = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
        corners = torch.rand(*known.shape, 2, generator=draw) * 0.5
        boxes = torch.cat([corners, corners + 0.1 + 0.3 * torch.rand(*known.shape, 2, generator=draw)], dim=-1)
        return RegionBatch(torch.randn(*known.shape, FEATURES, generator=draw), boxes, known, torch.zeros(rows, FEATURES))

    seen = [regions(counts if place == 0 else counts[::-1]) for place in range(images)]
    return Batch([str(row) for row in range(rows)], TextBatch(ids, mask, None, segments), seen, torch.arange(rows) % 2)
