"""ViLT's official checkpoints, and those of DiDE's code, which are laid out alike, converted to folders in the library's layout.

Every key has a place or is an error that lists it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from vldistill.data.sources import nlvr2, snli_ve
from vldistill.models.base.converter import CONSTANTS, HEADS, FusionLayout, OfficialTask, Weights, depth_of
from vldistill.models.base.official import BERT, Stack, heads_of
from vldistill.models.vilt.model import EncoderConfig

_LAYER = "vilt.encoder.layer."
_RENAMED = (
    (r"^text_embeddings\.", "vilt.embeddings.text_embeddings."),
    (r"^token_type_embeddings\.", "vilt.embeddings.token_type_embeddings."),
    (r"^transformer\.cls_token$", "vilt.embeddings.cls_token"),
    (r"^transformer\.pos_embed$", "vilt.embeddings.position_embeddings"),
    (r"^transformer\.patch_embed\.proj\.", "vilt.embeddings.patch_embeddings.projection."),
    (r"^transformer\.norm\.", "vilt.layernorm."),
    (r"^pooler\.", "vilt.pooler."),
    (r"^transformer\.blocks\.(\d+)\.norm1\.", rf"{_LAYER}\1.layernorm_before."),
    (r"^transformer\.blocks\.(\d+)\.norm2\.", rf"{_LAYER}\1.layernorm_after."),
    (r"^transformer\.blocks\.(\d+)\.attn\.proj\.", rf"{_LAYER}\1.attention.output.dense."),
    (r"^transformer\.blocks\.(\d+)\.mlp\.fc1\.", rf"{_LAYER}\1.intermediate.dense."),
    (r"^transformer\.blocks\.(\d+)\.mlp\.fc2\.", rf"{_LAYER}\1.output.dense."),
    *HEADS,
)
_JOINED = re.compile(r"^transformer\.blocks\.(\d+)\.attn\.qkv\.(weight|bias)$")


class ViltLayout(FusionLayout):
    kind = "vilt"
    renamed = _RENAMED
    left_out = ((r"text_embeddings\.position_ids$", CONSTANTS),)
    file_hint = "name ViLT's own file, for example vilt_200k_mlm_itm.ckpt"
    tasks: ClassVar = {
        "vqa_classifier.": OfficialTask("vqa", 1, None),
        "nlvr2_classifier.": OfficialTask("nlvr2", 2, tuple(nlvr2.LABELS)),
        "ve_classifier.": OfficialTask("snli_ve", 1, tuple(snli_ve.LABELS)),
    }

    def place(self, name: str, value: Tensor) -> Weights:
        """Query, key and value are one matrix there, three here."""
        if joined := _JOINED.match(name):
            layer, kind = joined.groups()
            parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
            return {f"{_LAYER}{layer}.attention.attention.{part}.{kind}": rows for part, rows in parts}
        return super().place(name, value)

    def sizes(self, weights: Weights, file: Path, heads: Sequence[int] | None) -> EncoderConfig:
        text = "vilt.embeddings.text_embeddings."
        words, width = weights[f"{text}word_embeddings.weight"].shape
        patch = weights["vilt.embeddings.patch_embeddings.projection.weight"].shape[-1]
        side = round((weights["vilt.embeddings.position_embeddings"].shape[1] - 1) ** 0.5)
        [count] = heads_of({"encoder": Stack(BERT, width)}, heads, file).values()
        return EncoderConfig(
            vocab_size=words,
            hidden_size=width,
            num_attention_heads=count,
            num_hidden_layers=depth_of(weights, _LAYER),
            intermediate_size=len(weights[f"{_LAYER}0.intermediate.dense.bias"]),
            image_size=side * patch,
            patch_size=patch,
            max_position_embeddings=len(weights[f"{text}position_embeddings.weight"]),
            type_vocab_size=len(weights[f"{text}token_type_embeddings.weight"]),
            modality_type_vocab_size=len(weights["vilt.embeddings.token_type_embeddings.weight"]),
        )


LAYOUT = ViltLayout()
