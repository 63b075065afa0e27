"""CLIP, SLIP and DeCLIP with DiDE's fusion MLP."""

from __future__ import annotations

from vldistill.data.text import WordTokenizer
from vldistill.models.base.family import DualFamily, Made, StudentRequest, check_length
from vldistill.models.clip_dual.model import ClipConfig, ClipDual
from vldistill.models.clip_dual.section import ClipDualSection
from vldistill.models.clip_dual.start import Towers, load_towers, read_clip, read_slip, scratch_config, sized


class ClipDualFamily(DualFamily):
    section = ClipDualSection
    model = ClipDual
    config = ClipConfig
    square = "crop"
    start = "name a clip_dual model, or what `vldistill convert slip` wrote; a CLIP is student.clip.model"

    def scratch(self, request: StudentRequest, tokenizer: WordTokenizer) -> ClipConfig:
        config = scratch_config(
            len(tokenizer.vocabulary),
            request.max_length,
            **request.section.sizes.model_dump(),
        )
        return sized(config, request.image_size)

    def fitted(self, initial: ClipConfig, request: StudentRequest, tokenizer: WordTokenizer, where: str) -> ClipConfig:
        return sized(initial, request.image_size, where)

    def with_own_start(self, request: StudentRequest) -> Made | None:
        clip = request.section.clip
        return None if clip.model is None else self._of(read_clip(clip.model, clip.weights), request)

    def from_library(self, source: str, request: StudentRequest) -> Made | None:
        """From a SLIP."""
        slip = read_slip(source)
        return None if slip is None else self._of(slip, request)

    def _of(self, towers: Towers, request: StudentRequest) -> Made:
        check_length(request, towers.config.max_position_embeddings, towers.where)
        spec = self.spec(request, sized(towers.config, request.image_size, towers.where))
        model = self.new(spec)
        load_towers(model, towers.weights, towers.where)
        return model, spec, towers.tokenizer
