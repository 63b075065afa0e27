"""ViLT's official checkpoints, and those of DiDE's code, which are laid out alike, converted to folders in the library's layout.

Every key has a place or is an error that lists it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from vldistill.data.sources import nlvr2, snli_ve
from vldistill.data.text import read_vocabulary
from vldistill.errors import InputError
from vldistill.models.base.checkpoint import ModelSpec
from vldistill.models.base.converter import (
    CONSTANTS,
    HEADS,
    OfficialTask,
    case_of,
    renaming,
    sort_out,
    task_labels,
    task_of,
    write_fusion,
)
from vldistill.models.base.official import BERT, Stack, heads_of, read_official
from vldistill.models.vilt.model import EncoderConfig, Vilt

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
_LEFT_OUT = ((r"text_embeddings\.position_ids$", CONSTANTS),)
_TASKS = {
    "vqa_classifier.": OfficialTask("vqa", 1, None),
    "nlvr2_classifier.": OfficialTask("nlvr2", 2, tuple(nlvr2.LABELS)),
    "ve_classifier.": OfficialTask("snli_ve", 1, tuple(snli_ve.LABELS)),
}


def convert(
    source: Path,
    vocabulary: Path,
    out: Path,
    *,
    answers: Path | None = None,
    heads: Sequence[int] | None = None,
    lowercase: bool | None = None,
    overwrite: bool = False,
) -> ModelSpec:
    """Writes config.json, model.safetensors and the tokenizer; returns what it says of itself. answers: see `read_answers`; for a
    VQA checkpoint, and only for one. heads, lowercase: see `official.convert`. Raises InputError where the file cannot be read
    safely, a key has no place or is missing, or vocabulary or answers are those of another model."""
    official = read_official(source)
    task = task_of(official, _TASKS)
    weights, account = sort_out(official, _place, _LEFT_OUT, str(source))
    config = _sizes(weights, source, heads)
    tokenizer = read_vocabulary(vocabulary, lowercase=case_of(vocabulary, True, lowercase))
    if config.vocab_size != len(tokenizer.vocabulary):
        raise InputError(
            f"has {len(tokenizer.vocabulary):,} tokens, the checkpoint has {config.vocab_size:,}",
            where=str(vocabulary),
            hint="give the vocab.txt of its BERT (uncased)",
        )
    labels = task_labels(task, weights, answers, source)
    spec = ModelSpec(
        "vilt",
        config,
        task.task,
        task.images,
        labels,
        config.image_size,
        config.max_position_embeddings,
        answer_loss="bce" if task.task == "vqa" else None,
    )
    write_fusion(Vilt, spec, weights, tokenizer, source, out, account=account, overwrite=overwrite)
    return spec


def _place(name: str, value: Tensor) -> dict[str, Tensor]:
    """An official weight under the library's name, or three of them; a name that is not known stays as it is."""
    if joined := _JOINED.match(name):
        layer, kind = joined.groups()
        parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
        return {f"{_LAYER}{layer}.attention.attention.{part}.{kind}": rows for part, rows in parts}
    return renaming(_RENAMED)(name, value)


def _sizes(weights: dict[str, Tensor], source: Path, heads: Sequence[int] | None) -> EncoderConfig:
    try:
        text = "vilt.embeddings.text_embeddings."
        words, width = weights[f"{text}word_embeddings.weight"].shape
        patch = weights["vilt.embeddings.patch_embeddings.projection.weight"].shape[-1]
        side = round((weights["vilt.embeddings.position_embeddings"].shape[1] - 1) ** 0.5)
        [count] = heads_of({"encoder": Stack(BERT, width)}, heads, source).values()
        return EncoderConfig(
            vocab_size=words,
            hidden_size=width,
            num_attention_heads=count,
            num_hidden_layers=len({name.split(".")[3] for name in weights if name.startswith(_LAYER)}),
            intermediate_size=len(weights[f"{_LAYER}0.intermediate.dense.bias"]),
            image_size=side * patch,
            patch_size=patch,
            max_position_embeddings=len(weights[f"{text}position_embeddings.weight"]),
            type_vocab_size=len(weights[f"{text}token_type_embeddings.weight"]),
            modality_type_vocab_size=len(weights["vilt.embeddings.token_type_embeddings.weight"]),
        )
    except (KeyError, ValueError) as error:
        raise InputError(
            f"is no vilt checkpoint: it lacks {error}",
            where=str(source),
            hint="name ViLT's own file, for example vilt_200k_mlm_itm.ckpt",
        ) from None
