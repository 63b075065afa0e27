"""ViLT's official checkpoints, and those of DiDE's code, which are laid out alike, converted to folders in the library's layout.

A checkpoint holds one encoder and the heads of what it was trained on: pre-training (`mlm_score`, `itm_score`), retrieval
(`rank_output`, beside `itm_score`), or a task with a classifier. Every key has a place or is an error that lists it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vldistill.artifacts import CONVERTED, building, new_manifest, write_manifest
from vldistill.data.answers import ANSWERS_FILE
from vldistill.data.records import read_json
from vldistill.data.sources import nlvr2, snli_ve
from vldistill.data.text import read_vocabulary
from vldistill.errors import InputError
from vldistill.models.checkpoint import ModelSpec, load_strict, save_weights, write_spec
from vldistill.models.fusion import FusionModel
from vldistill.models.official import read_official
from vldistill.models.vilt import EncoderConfig
from vldistill.students.official import HEAD_WIDTH

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
    (r"^(?:vqa|nlvr2|ve)_classifier\.", "classifier."),
    # Where the library has it.
    (r"^mlm_score\.bias$", "mlm_score.decoder.bias"),
)
_JOINED = re.compile(r"^transformer\.blocks\.(\d+)\.attn\.qkv\.(weight|bias)$")
# A buffer of constants in older checkpoints.
_LEFT_OUT = ("text_embeddings.position_ids",)
_DENSE = ("weight", "bias")
_OTHER_HEADS = {
    "mlm_score.": [f"{part}.{kind}" for part in ("transform.dense", "transform.LayerNorm", "decoder") for kind in _DENSE],
    "itm_score.fc.": _DENSE,
    "rank_output.": _DENSE,
}


@dataclass(frozen=True)
class _Task:
    """task: of a classifier. images: of a record. labels: in the order of its classes; None where the file alone cannot say."""

    task: str
    images: int
    labels: tuple[str, ...] | None


_TASKS = {"vqa_classifier.": _Task("vqa", 1, None), "nlvr2_classifier.": _Task("nlvr2", 2, tuple(nlvr2.LABELS)),
          "ve_classifier.": _Task("snli_ve", 1, tuple(snli_ve.LABELS))}
_NO_TASK = _Task("", 1, ())


def convert(source: Path, vocabulary: Path, out: Path, *, answers: Path | None = None, overwrite: bool = False) -> ModelSpec:
    """Writes config.json, model.safetensors and the tokenizer; returns what it says of itself. answers: see `read_answers`; for a
    VQA checkpoint, and only for one. Raises InputError where the file cannot be read safely, a key has no place or is missing, or
    vocabulary or answers are those of another model."""
    official = read_official(source)
    task = next((task for prefix, task in _TASKS.items() if any(name.startswith(prefix) for name in official)), _NO_TASK)
    weights = renamed(official)
    config = _sizes(weights, source)
    tokenizer = read_vocabulary(vocabulary, lowercase=True)
    if config.vocab_size != len(tokenizer.vocabulary):
        raise InputError(f"has {len(tokenizer.vocabulary):,} tokens, the checkpoint has {config.vocab_size:,}",
                         where=str(vocabulary), hint="give the vocab.txt of its BERT (uncased)")
    labels = class_names(task.labels, len(weights.get("classifier.3.bias", ())), answers, source)
    spec = ModelSpec("vilt", config, task.task, task.images, labels, config.image_size, config.max_position_embeddings,
                     answer_loss="bce" if task.task == "vqa" else None)
    heads = {f"{prefix}{part}" for prefix, parts in _OTHER_HEADS.items() for part in parts}
    model = FusionModel(config, images=spec.images, classes=spec.classes)
    load_strict(model, {name: value for name, value in weights.items() if name not in heads}, str(source))
    with building(out, overwrite=overwrite, stage=CONVERTED) as folder:
        write_manifest(folder, new_manifest(CONVERTED, source=str(source.resolve()), complete=True))
        tokenizer.save(folder)
        write_spec(folder, spec)
        save_weights(folder, {name: value.float() for name, value in weights.items()})
    return spec


def renamed(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """Official weights under the library's names; a name that is not known stays as it is."""
    weights = {}
    for name, value in official.items():
        if name in _LEFT_OUT:
            continue
        if joined := _JOINED.match(name):
            layer, kind = joined.groups()
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                weights[f"{_LAYER}{layer}.attention.attention.{part}.{kind}"] = rows
            continue
        for pattern, replacement in _RENAMED:
            name = re.sub(pattern, replacement, name)
        weights[name] = value
    return weights


def read_answers(path: Path) -> list[str]:
    """Names of a VQA head's classes, in order: from a prepared artifact (its folder or its answers.json), a published model's
    config.json (`id2label`), or a JSON list. Raises InputError where it is none of them."""
    found = read_json(path / ANSWERS_FILE if path.is_dir() else path)
    if isinstance(found, dict) and isinstance(found.get("id2label"), dict):
        numbered = found["id2label"]
        found = [numbered.get(str(index)) for index in range(len(numbered))]
    elif isinstance(found, dict):
        found = found.get("answers")
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found) or len(set(found)) != len(found):
        raise InputError("does not name each answer once", where=str(path),
                         hint="a prepared artifact's answers.json, a config.json with id2label, or a JSON list is expected")
    return found


def class_names(known: Sequence[str] | None, classes: int, answers: Path | None, source: Path) -> list[str]:
    """Of a head's `classes`, in order: as they are known, or as `answers` names those of VQA, where they are None."""
    if known is not None:
        if answers is not None:
            raise InputError("has no VQA head, so --answers means nothing", where=str(source), hint="leave it out")
        return list(known)
    if answers is None:
        raise InputError("does not hold the names of its answers", where=str(source),
                         hint="give --answers: the answers.json of `vldistill prepare vqa`, or a published model's config.json")
    names = read_answers(answers)
    if len(names) != classes:
        raise InputError(f"has {len(names):,} answers, the checkpoint has {classes:,}", where=str(answers),
                         hint="give the answers that it was trained with, in its order")
    return names


def _sizes(weights: dict[str, Tensor], source: Path) -> EncoderConfig:
    try:
        text = "vilt.embeddings.text_embeddings."
        words, width = weights[f"{text}word_embeddings.weight"].shape
        patch = weights["vilt.embeddings.patch_embeddings.projection.weight"].shape[-1]
        side = round((weights["vilt.embeddings.position_embeddings"].shape[1] - 1) ** 0.5)
        return EncoderConfig(
            vocab_size=words, hidden_size=width, num_attention_heads=max(width // HEAD_WIDTH, 1),
            num_hidden_layers=len({name.split(".")[3] for name in weights if name.startswith(_LAYER)}),
            intermediate_size=len(weights[f"{_LAYER}0.intermediate.dense.bias"]), image_size=side * patch, patch_size=patch,
            max_position_embeddings=len(weights[f"{text}position_embeddings.weight"]),
            type_vocab_size=len(weights[f"{text}token_type_embeddings.weight"]),
            modality_type_vocab_size=len(weights["vilt.embeddings.token_type_embeddings.weight"]))
    except (KeyError, ValueError) as error:
        raise InputError(f"is no vilt checkpoint: it lacks {error}", where=str(source),
                         hint="name ViLT's own file, for example vilt_200k_mlm_itm.ckpt") from None
