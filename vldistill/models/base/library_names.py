"""What the weights of a folder of `transformers` are called."""

from __future__ import annotations

import re

from torch import Tensor

from vldistill.models.base.family import HEAD
from vldistill.models.base.official import current_name


def library_names(weights: dict[str, Tensor], prefix: str, heads: tuple[str, ...]) -> dict[str, Tensor]:
    """A student's or a published folder's weights under a student's names, without a published head. prefix: of the encoder.
    heads: beginnings of published heads, which no student takes over."""
    renamed = {}
    for name, value in weights.items():
        name = current_name(name)
        if name.startswith(heads) or re.search(r"embeddings\.position_ids$", name):
            continue
        renamed[name if name.startswith((prefix, HEAD)) else f"{prefix}{name}"] = value
    return renamed
