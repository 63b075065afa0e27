"""A baseline in the style of Pixel-BERT: a BERT over a text and the cells of a ResNet."""

from __future__ import annotations

from dataclasses import replace

from vldistill.data.text import WordTokenizer
from vldistill.models.base.bert import RegionBertConfig
from vldistill.models.base.family import StudentRequest
from vldistill.models.base.letterbox_family import LetterboxFamily, Weights
from vldistill.models.pixelbert.model import PixelBert, PixelBertConfig, new_config, started
from vldistill.models.pixelbert.section import PixelBertSection


class PixelBertFamily(LetterboxFamily):
    section = PixelBertSection
    model = PixelBert
    config = PixelBertConfig
    start = "name a BERT of transformers, or a pixelbert model"

    def fitted(self, initial: PixelBertConfig, request: StudentRequest, tokenizer: WordTokenizer, where: str) -> PixelBertConfig:
        return replace(
            super().fitted(initial, request, tokenizer, where), long_side=request.long_side, sample=request.section.pixels.sample
        )

    def joined(self, bert: RegionBertConfig, request: StudentRequest) -> tuple[PixelBertConfig, Weights | None, str]:
        pixels = request.section.pixels
        return *new_config(bert, pixels, request.long_side, request.dropout), pixels.model

    def started(self, own: Weights, bert: Weights, network: Weights | None) -> Weights:
        return started(own, bert, network)
