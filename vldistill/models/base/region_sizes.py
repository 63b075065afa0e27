"""Sizes of a BERT over regions from scratch."""

from __future__ import annotations

from typing import TypeVar

from vldistill.data.text import WordTokenizer
from vldistill.models.base.bert import RegionBertConfig
from vldistill.models.base.family import common_sizes
from vldistill.models.base.request import StudentRequest

Own = TypeVar("Own", bound=RegionBertConfig)
SEGMENTS = 3
"""Two of a text, and the regions'."""


def region_sizes(config: type[Own], request: StudentRequest, tokenizer: WordTokenizer) -> Own:
    """Two positions lie behind the text: VL-BERT's regions and [END] take them."""
    return config(
        **common_sizes(request, tokenizer),
        attention_probs_dropout_prob=request.dropout,
        region_size=request.region_size,
        max_position_embeddings=request.max_length + 2,
        type_vocab_size=SEGMENTS,
    )
