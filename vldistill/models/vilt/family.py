"""ViLT, and the dual encoder that comes from it."""

from __future__ import annotations

from dataclasses import replace

from vldistill.data.text import WordTokenizer
from vldistill.models.base.family import DualFamily, Family, FusionFamily, StudentRequest, common_sizes
from vldistill.models.vilt.model import EncoderConfig, Vilt, ViltDual
from vldistill.models.vilt.section import ViltDualSection, ViltSection


class _ViltSizes(Family):
    config = EncoderConfig
    start = "name a fusion model"

    def scratch(self, request: StudentRequest, tokenizer: WordTokenizer) -> EncoderConfig:
        return EncoderConfig(
            **common_sizes(request, tokenizer),
            image_size=request.section.sizes.image_size,
            patch_size=request.section.sizes.patch,
            max_position_embeddings=request.max_length,
            modality_type_vocab_size=request.images + 1,
        )

    def fitted(self, initial: EncoderConfig, request: StudentRequest, tokenizer: WordTokenizer, where: str) -> EncoderConfig:
        return replace(
            initial,
            hidden_dropout_prob=request.dropout,
            modality_type_vocab_size=max(initial.modality_type_vocab_size, request.images + 1),
        )


class ViltFamily(_ViltSizes, FusionFamily):
    section = ViltSection
    model = Vilt
    one_stream = True


class ViltDualFamily(_ViltSizes, DualFamily):
    section = ViltDualSection
    model = ViltDual
    crosses = True
