"""Sizes of VisualBERT (Li et al., 2019) and LXMERT (Tan and Bansal, 2019), fields and defaults as `transformers` names them, and
what the weights of its folders are called."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vldistill.models.base.config import ModelConfig
from vldistill.models.base.official import current_name

PUBLISHED = {"visual_bert": "visualbert", "lxmert": "lxmert"}
"""Kinds, by the library's `model_type`."""


@dataclass(frozen=True)
class VisualBertConfig(ModelConfig):
    """visual_embedding_dim: width of a region's feature."""

    vocab_size: int = 30522
    hidden_size: int = 768
    visual_embedding_dim: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12

    @property
    def region_size(self) -> int:
        return self.visual_embedding_dim

    def library(self, classes: int) -> dict[str, Any]:
        return {"model_type": "visual_bert", "pad_token_id": 0, "architectures": ["VisualBertModel"]}


@dataclass(frozen=True)
class LxmertConfig(ModelConfig):
    """l_layers, r_layers, x_layers: of text alone, of regions alone, and across. visual_feat_dim: width of a region's feature."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    l_layers: int = 9
    x_layers: int = 5
    r_layers: int = 5
    visual_feat_dim: int = 2048
    visual_pos_dim: int = 4

    @property
    def region_size(self) -> int:
        return self.visual_feat_dim

    @classmethod
    def of_depth(cls, layers: int, **sizes: Any) -> LxmertConfig:
        """With `layers` layers of text, and of the others 5 for every 9 of them, as published."""
        others = max(round(layers * cls.x_layers / cls.l_layers), 1)
        return cls(l_layers=layers, x_layers=others, r_layers=others, **sizes)

    def library(self, classes: int) -> dict[str, Any]:
        return {"model_type": "lxmert", "architectures": ["LxmertModel"]}


@dataclass(frozen=True)
class _Names:
    """prefix: of the encoder. heads: beginnings of published heads, which no student takes over."""

    prefix: str
    heads: tuple[str, ...]


_NAMES = {"visualbert": _Names("visual_bert.", ("cls.",)),
          "lxmert": _Names("lxmert.", ("cls.", "obj_predict_head.", "answer_head."))}
_OWN_HEAD = "classifier."


def named_weights(kind: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A student's or a published folder's weights under a student's names, without a published head; those of another kind as
    they are."""
    if kind not in _NAMES:
        return weights
    names, found = _NAMES[kind], {}
    for name, value in weights.items():
        name = current_name(name)
        if name.startswith(names.heads) or re.search(r"embeddings\.position_ids$", name):
            continue
        found[name if name.startswith((names.prefix, _OWN_HEAD)) else f"{names.prefix}{name}"] = value
    return found
