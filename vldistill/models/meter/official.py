"""METER's official checkpoints, converted to model folders: their own names below `meter.`, without what METER does not use of
CLIP and RoBERTa. Every other key has a place or is an error that lists it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from vldistill.data.sources import nlvr2
from vldistill.data.text import read_byte_pairs
from vldistill.errors import InputError
from vldistill.models.base.checkpoint import ModelSpec
from vldistill.models.base.converter import CONSTANTS, HEADS, OfficialTask, renaming, sort_out, task_labels, task_of, write_fusion
from vldistill.models.base.official import BERT, CLIP_IMAGE, Stack, heads_of, read_official
from vldistill.models.meter.model import Meter
from vldistill.models.meter.parts import FIRST_POSITION, MeterConfig

# METER's order of SNLI's labels is its own.
_TASKS = {
    "vqa_classifier.": OfficialTask("vqa", 1, None),
    "nlvr2_classifier.": OfficialTask("nlvr2", 2, tuple(nlvr2.LABELS)),
    "snli_classifier.": OfficialTask("snli_ve", 1, ("contradiction", "neutral", "entailment")),
}
_LEFT_OUT = (
    (r"^meter\.vit_model\.(?!visual\.)", "CLIP's text side"),
    (r"^meter\.vit_model\.visual\.proj$", "CLIP's projection"),
    (r"^meter\.text_transformer\.pooler\.", "RoBERTa's pooler"),
    (r"\.position_ids$", CONSTANTS),
)
_RENAMED = ((r"^(?=vit_model\.|text_transformer\.|cross_modal_|token_type_embeddings\.)", "meter."), *HEADS)
_LONGEST = 50
"""Tokens of a text, as METER's configurations have it."""


def convert(
    source: Path,
    vocabulary: Path,
    out: Path,
    *,
    answers: Path | None = None,
    heads: Sequence[int] | None = None,
    overwrite: bool = False,
) -> ModelSpec:
    """Writes config.json, model.safetensors and the tokenizer; returns what it says of itself. vocabulary: the folder of its
    RoBERTa's vocab.json and merges.txt. answers: see `read_answers`; for a VQA checkpoint, and only for one. heads: see
    `heads_of`; of RoBERTa, CLIP's ViT and the co-attention. Raises InputError where the file cannot be read safely, a key has no
    place or is missing, or vocabulary or answers are another model's."""
    official = read_official(source)
    task = task_of(official, _TASKS)
    weights, account = sort_out(official, renaming(_RENAMED), _LEFT_OUT, str(source))
    config = _sizes(weights, source, heads)
    tokenizer = read_byte_pairs(vocabulary)
    if config.vocab_size != len(tokenizer.vocabulary):
        raise InputError(
            f"has {len(tokenizer.vocabulary):,} tokens, the checkpoint has {config.vocab_size:,}",
            where=str(vocabulary),
            hint="give the vocabulary of its RoBERTa",
        )
    labels = task_labels(task, weights, answers, source)
    spec = ModelSpec(
        "meter",
        config,
        task.task,
        task.images,
        labels,
        config.image_size,
        min(_LONGEST, config.max_position_embeddings),
        answer_loss="bce" if task.task == "vqa" else None,
    )
    write_fusion(Meter, spec, weights, tokenizer, source, out, account=account, overwrite=overwrite)
    return spec


def _sizes(weights: dict[str, Tensor], source: Path, heads: Sequence[int] | None) -> MeterConfig:
    text, visual, cross = "meter.text_transformer.", "meter.vit_model.visual.", "meter.cross_modal_text_layers."

    def depth(prefix: str) -> int:
        return len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)})

    try:
        words, text_width = weights[f"{text}embeddings.word_embeddings.weight"].shape
        vision_width, _, _, patch = weights[f"{visual}conv1.weight"].shape
        width = len(weights["meter.cross_modal_text_transform.bias"])
        side = round((len(weights[f"{visual}positional_embedding"]) - 1) ** 0.5)
        stacks = {"text": Stack(BERT, text_width), "image": Stack(CLIP_IMAGE, vision_width), "co-attention": Stack(BERT, width)}
        head_counts = heads_of(stacks, heads, source)
        return MeterConfig(
            vocab_size=words,
            hidden_size=width,
            num_hidden_layers=depth(cross),
            num_attention_heads=head_counts["co-attention"],
            intermediate_size=len(weights[f"{cross}0.intermediate.dense.bias"]),
            max_position_embeddings=len(weights[f"{text}embeddings.position_embeddings.weight"]) - FIRST_POSITION,
            modality_type_vocab_size=len(weights["meter.token_type_embeddings.weight"]),
            text_width=text_width,
            text_layers=depth(f"{text}encoder.layer."),
            text_heads=head_counts["text"],
            text_feedforward=len(weights[f"{text}encoder.layer.0.intermediate.dense.bias"]),
            vision_width=vision_width,
            vision_layers=depth(f"{visual}transformer.resblocks."),
            vision_heads=head_counts["image"],
            image_size=side * patch,
            patch_size=patch,
        )
    except (KeyError, ValueError) as error:
        raise InputError(
            f"is no meter checkpoint: it lacks {error}",
            where=str(source),
            hint="name METER's own file, with CLIP's ViT and RoBERTa, for example meter_clip16_288_roberta_pretrain.ckpt",
        ) from None
