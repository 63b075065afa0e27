"""METER, and the dual encoder that comes from it."""

from __future__ import annotations

from dataclasses import replace

from vldistill.data.text import WordTokenizer
from vldistill.errors import InputError
from vldistill.models.base.family import DualFamily, Family, FusionFamily, StudentRequest, common_sizes
from vldistill.models.meter.model import Meter, MeterDual
from vldistill.models.meter.parts import MeterConfig
from vldistill.models.meter.section import MeterDualSection, MeterSection


class _MeterSizes(Family):
    config = MeterConfig
    square = "crop"

    def scratch(self, request: StudentRequest, tokenizer: WordTokenizer) -> MeterConfig:
        sizes = request.section.sizes
        return self.fitted(
            MeterConfig(
                **common_sizes(request, tokenizer),
                max_position_embeddings=request.max_length,
                patch_size=sizes.patch,
                text_width=sizes.width,
                text_layers=sizes.layers,
                text_heads=sizes.heads,
                text_feedforward=sizes.feedforward,
                vision_width=sizes.width,
                vision_layers=sizes.layers,
                vision_heads=sizes.heads,
            ),
            request,
            tokenizer,
            "",
        )

    def fitted(self, initial: MeterConfig, request: StudentRequest, tokenizer: WordTokenizer, where: str) -> MeterConfig:
        """For images of the size asked for, and as many of a record; dropout is one number for states and attention, as in
        METER's code. Raises InputError where patches do not divide the size."""
        size, patch = request.image_size, initial.patch_size
        if size % patch:
            raise InputError(
                f"image.size {size} is no multiple of METER's patch, {patch}",
                hint=f"set image.size={size // patch * patch or patch}",
            )
        return replace(
            initial,
            hidden_dropout_prob=request.dropout,
            image_size=size,
            attention_probs_dropout_prob=request.dropout,
            modality_type_vocab_size=max(initial.modality_type_vocab_size, request.images + 1),
        )


class MeterFamily(_MeterSizes, FusionFamily):
    section = MeterSection
    model = Meter


class MeterDualFamily(_MeterSizes, DualFamily):
    section = MeterDualSection
    model = MeterDual
    crosses = True
    start = "name a meter or meter_dual model"
