"""METER's official checkpoints, converted to model folders: their own names below `meter.`, without what METER does not use of
CLIP and RoBERTa. Every other key has a place or is an error that lists it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from vldistill.data.sources import nlvr2
from vldistill.data.text import WordTokenizer, read_byte_pairs
from vldistill.errors import needed
from vldistill.models.base.converter import CONSTANTS, HEADS, FusionLayout, OfficialTask, Weights, depth_of
from vldistill.models.base.official import BERT, CLIP_IMAGE, Stack, heads_of
from vldistill.models.meter.parts import FIRST_POSITION, MeterConfig

# METER's order of SNLI's labels is its own.
_LONGEST = 50
"""Tokens of a text, as METER's configurations have it."""


class MeterLayout(FusionLayout):
    kind = "meter"
    renamed = ((r"^(?=vit_model\.|text_transformer\.|cross_modal_|token_type_embeddings\.)", "meter."), *HEADS)
    left_out = (
        (r"^meter\.vit_model\.(?!visual\.)", "CLIP's text side"),
        (r"^meter\.vit_model\.visual\.proj$", "CLIP's projection"),
        (r"^meter\.text_transformer\.pooler\.", "RoBERTa's pooler"),
        (r"\.position_ids$", CONSTANTS),
    )
    vocabulary_hint = "give the vocabulary of its RoBERTa"
    file_hint = "name METER's own file, with CLIP's ViT and RoBERTa, for example meter_clip16_288_roberta_pretrain.ckpt"
    tasks: ClassVar = {
        "vqa_classifier.": OfficialTask("vqa", 1, None),
        "nlvr2_classifier.": OfficialTask("nlvr2", 2, tuple(nlvr2.LABELS)),
        "snli_classifier.": OfficialTask("snli_ve", 1, ("contradiction", "neutral", "entailment")),
    }

    def tokenizer(self, vocabulary: Path | None, lowercase: bool | None) -> WordTokenizer:
        """vocabulary: the folder of its RoBERTa's vocab.json and merges.txt."""
        return read_byte_pairs(needed(vocabulary, "the vocabulary"))

    def longest(self, config: MeterConfig) -> int:
        return min(_LONGEST, config.max_position_embeddings)

    def sizes(self, weights: Weights, file: Path, heads: Sequence[int] | None) -> MeterConfig:
        """heads: of RoBERTa, CLIP's ViT and the co-attention."""
        text, visual, cross = "meter.text_transformer.", "meter.vit_model.visual.", "meter.cross_modal_text_layers."
        words, text_width = weights[f"{text}embeddings.word_embeddings.weight"].shape
        vision_width, _, _, patch = weights[f"{visual}conv1.weight"].shape
        width = len(weights["meter.cross_modal_text_transform.bias"])
        side = round((len(weights[f"{visual}positional_embedding"]) - 1) ** 0.5)
        stacks = {"text": Stack(BERT, text_width), "image": Stack(CLIP_IMAGE, vision_width), "co-attention": Stack(BERT, width)}
        head_counts = heads_of(stacks, heads, file)
        return MeterConfig(
            vocab_size=words,
            hidden_size=width,
            num_hidden_layers=depth_of(weights, cross),
            num_attention_heads=head_counts["co-attention"],
            intermediate_size=len(weights[f"{cross}0.intermediate.dense.bias"]),
            max_position_embeddings=len(weights[f"{text}embeddings.position_embeddings.weight"]) - FIRST_POSITION,
            modality_type_vocab_size=len(weights["meter.token_type_embeddings.weight"]),
            text_width=text_width,
            text_layers=depth_of(weights, f"{text}encoder.layer."),
            text_heads=head_counts["text"],
            text_feedforward=len(weights[f"{text}encoder.layer.0.intermediate.dense.bias"]),
            vision_width=vision_width,
            vision_layers=depth_of(weights, f"{visual}transformer.resblocks."),
            vision_heads=head_counts["image"],
            image_size=side * patch,
            patch_size=patch,
        )


LAYOUT = MeterLayout()
