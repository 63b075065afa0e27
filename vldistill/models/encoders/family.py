"""Encoders of one modality, which are trained to be teachers of ADVL."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vldistill.data.text import WordTokenizer
from vldistill.models.base.checkpoint import Checkpoint
from vldistill.models.base.family import Family, StudentRequest, common_sizes
from vldistill.models.encoders.model import TextConfig, TextEncoder, VisionConfig, VisionEncoder
from vldistill.models.encoders.section import TextSection, VisionSection


class _Lone(Family):
    """head: the beginning of its names, as its library has them."""

    head: str
    start = "name a run of its own kind"

    def continued(self, model: Any, checkpoint: Checkpoint, request: StudentRequest, keep_head: bool) -> dict[str, Tensor]:
        kept = checkpoint.weights if keep_head else model.state_dict()
        body = {name: value for name, value in checkpoint.weights.items() if not name.startswith(self.head)}
        return {**body, **{name: value for name, value in kept.items() if name.startswith(self.head)}}


class TextFamily(_Lone):
    section = TextSection
    model = TextEncoder
    config = TextConfig
    head = unsaved = "mlm_score."

    def scratch(self, request: StudentRequest, tokenizer: WordTokenizer) -> TextConfig:
        return TextConfig(
            **common_sizes(request, tokenizer),
            attention_probs_dropout_prob=request.dropout,
            max_position_embeddings=request.max_length,
        )


class VisionFamily(_Lone):
    section = VisionSection
    model = VisionEncoder
    config = VisionConfig
    square = "fit"
    head = "vit.head."
    library_prefix = "vit."

    def scratch(self, request: StudentRequest, tokenizer: WordTokenizer) -> VisionConfig:
        return VisionConfig.from_dict(
            {
                **common_sizes(request, tokenizer),
                "image_size": request.section.sizes.image_size,
                "patch_size": request.section.sizes.patch,
                "max_position_embeddings": request.max_length,
            }
        )
