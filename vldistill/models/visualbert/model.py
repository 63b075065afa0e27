"""VisualBERT (Li et al., 2019) of `transformers` as a fusion baseline over a region store (DiDE, Table 2).

Sizes and defaults are named as in the library, and so is the encoder. The head reads the pooled first token
and is that of ViLT, where its authors have a Linear on the last word (VQA) or on the pooled vector. Two images are two passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vldistill.data.batch import RegionBatch, TextBatch
from vldistill.models.base.checkpoint import ModelConfig
from vldistill.models.base.heads import classifier, init_weights, initial_std
from vldistill.models.base.outputs import PairStates
from vldistill.models.base.region_student import JoinedStudent


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


class VisualBert(JoinedStudent):
    """One BERT over text and regions, which have a type and one position, and no box."""

    def __init__(self, config: VisualBertConfig, *, images: int, classes: int, target: str):
        super().__init__(config, target)
        from transformers import VisualBertConfig as Sizes
        from transformers import VisualBertModel

        self.visual_bert = VisualBertModel(Sizes(**config.to_dict(), pad_token_id=0))
        width = config.hidden_size
        init_weights(self.visual_bert, initial_std(width))
        self.classifier = classifier(width * images, width * 2, classes, width=width)

    def see(self, text: TextBatch, image: RegionBatch) -> tuple[Tensor, PairStates]:
        output = self.visual_bert(
            input_ids=text.ids,
            attention_mask=text.mask.long(),
            token_type_ids=text.segments.clamp(max=1),
            visual_embeds=image.features,
            visual_attention_mask=image.mask.long(),
        )
        return output.pooler_output, PairStates(text.mask, image.mask, image.mask)
