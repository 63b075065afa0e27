"""ViLT, and the dual encoder that comes from it."""

from __future__ import annotations

from dataclasses import replace

from vldistill.data.text import WordTokenizer
from vldistill.models.base.family import DualFamily, Family, FusionFamily, common_sizes
from vldistill.models.base.request import Sizes, StudentRequest
from vldistill.models.vilt.dual import DualEncoder
from vldistill.models.vilt.encoder import EncoderConfig
from vldistill.models.vilt.fusion import FusionModel


class _Sized(Family):
    config = EncoderConfig
    start = "name a fusion model"

    def scratch(self, request: StudentRequest, sizes: Sizes, tokenizer: WordTokenizer) -> EncoderConfig:
        return EncoderConfig(
            **common_sizes(request, sizes, tokenizer),
            image_size=sizes.image_size,
            patch_size=sizes.patch,
            max_position_embeddings=request.max_length,
            modality_type_vocab_size=request.images + 1,
        )

    def fitted(self, found: EncoderConfig, request: StudentRequest, tokenizer: WordTokenizer, where: str) -> EncoderConfig:
        return replace(
            found,
            hidden_dropout_prob=request.dropout,
            modality_type_vocab_size=max(found.modality_type_vocab_size, request.images + 1),
        )


class Vilt(_Sized, FusionFamily):
    kind = "vilt"
    model = FusionModel
    one_stream = True


class ViltDual(_Sized, DualFamily):
    kind = "dual_encoder"
    model = DualEncoder
    fusion = "vilt"
    crosses = True
