"""CLIP-ViL: a BERT over a text and the grid of CLIP's image network."""

from __future__ import annotations

from vldistill.data.text import WordTokenizer
from vldistill.models.base.bert import RegionBertConfig
from vldistill.models.base.family import StudentRequest
from vldistill.models.base.letterbox_family import LetterboxFamily, Weights
from vldistill.models.clip_vil.model import ClipVil, ClipVilConfig
from vldistill.models.clip_vil.section import ClipVilSection
from vldistill.models.clip_vil.start import continued, new_config, started


class ClipVilFamily(LetterboxFamily):
    section = ClipVilSection
    model = ClipVil
    config = ClipVilConfig
    one_image = True
    start = "name a BERT of transformers, or a clip_vil model"

    def fitted(self, initial: ClipVilConfig, request: StudentRequest, tokenizer: WordTokenizer, where: str) -> ClipVilConfig:
        sizes = super().fitted(initial, request, tokenizer, where)
        return continued(sizes, request.section.clip, (request.image_size, request.long_side), where)

    def joined(self, bert: RegionBertConfig, request: StudentRequest) -> tuple[ClipVilConfig, Weights | None, str]:
        config, tower = new_config(bert, request.section.clip, (request.image_size, request.long_side), request.dropout)
        return config, tower.weights, request.section.clip.model

    def started(self, own: Weights, bert: Weights, network: Weights | None) -> Weights:
        return started(own, bert, network)
