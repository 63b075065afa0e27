"""LXMERT (Tan and Bansal, 2019) of `transformers` as a fusion baseline over a region store (DiDE, Table 2).

Sizes and defaults are named as in the library, and so is the encoder. The head is the published one, on the
pooled first token. Two images are two passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vldistill.data.batch import RegionBatch, TextBatch
from vldistill.models.base.checkpoint import ModelConfig
from vldistill.models.base.heads import init_weights, initial_std, late_norm_classifier
from vldistill.models.base.outputs import PairStates
from vldistill.models.base.region_student import JoinedStudent


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


class Lxmert(JoinedStudent):
    """Text and regions, features with boxes, each in layers of their own, then in layers that cross; the pooled text answers."""

    def __init__(self, config: LxmertConfig, *, images: int, classes: int, target: str):
        super().__init__(config, target)
        from transformers import LxmertConfig as Sizes
        from transformers import LxmertModel

        self.lxmert = LxmertModel(Sizes(**config.to_dict()))
        width = config.hidden_size
        self.classifier = late_norm_classifier(width * images, width * 2, classes, eps=1e-12)
        init_weights(self, initial_std(width))
        # Nothing reads what the last layer makes of the regions, so these would get no gradient.
        last = self.lxmert.encoder.x_layers[-1]
        for part in (last.visn_self_att, last.visn_inter, last.visn_output):
            part.requires_grad_(False)

    @property
    def layers(self) -> int:
        return self.config.l_layers + self.config.x_layers

    def see(self, text: TextBatch, image: RegionBatch) -> tuple[Tensor, PairStates]:
        output = self.lxmert(
            input_ids=text.ids,
            attention_mask=text.mask,
            token_type_ids=text.segments.clamp(max=1),
            visual_feats=image.features,
            visual_pos=image.boxes,
            visual_attention_mask=image.mask,
        )
        return output.pooled_output, PairStates(text.mask, image.mask, image.mask)
