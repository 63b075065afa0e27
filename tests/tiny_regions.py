"""A small student over regions in UNITER's layout, and what a checkpoint of one holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vldistill.data.text import SPECIALS
from vldistill.models.base.bert import RegionBertConfig

WORDS = [*SPECIALS, *"abcdefghij", "The", "##e"]
CONFIG = RegionBertConfig(
    vocab_size=len(WORDS),
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=1,
    intermediate_size=24,
    max_position_embeddings=30,
    region_size=12,
)


def sized(**changed: Any) -> RegionBertConfig:
    """The same in other sizes."""
    return replace(CONFIG, **changed)


def body(model: nn.Module) -> dict[str, Tensor]:
    """Its weights without a task's head, all of them drawn anew; counters are of a model that was trained."""
    torch.manual_seed(4)
    own = {name: value for name, value in model.state_dict().items() if not name.startswith("classifier.")}
    return {
        name: torch.rand_like(value) if value.is_floating_point() else value + 5 * (value.ndim == 0)
        for name, value in own.items()
    }


def write_words(folder: Path, tokens: list[str] = WORDS) -> Path:
    """A vocabulary's file."""
    path = folder / "vocab.txt"
    path.write_text("\n".join(tokens) + "\n")
    return path
