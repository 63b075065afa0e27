"""OSCAR's and VinVL's official checkpoints, folders of an old `transformers`, converted to model folders.

A checkpoint holds the encoder and what it was trained on: pre-training's heads (`cls`), NLVR2's MLP or VQA's Linear. Every key
has a place or is named here. Of pre-training's heads that for hidden words is kept; the other tells true tags or captions from
swapped ones, which is not image-text matching as this tool has it.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from torch import Tensor

from vldistill.artifacts import CONVERTED, building, new_manifest, write_manifest
from vldistill.data.pretext import MLM
from vldistill.data.records import read_json
from vldistill.data.sources import nlvr2
from vldistill.data.text import read_vocabulary
from vldistill.errors import InputError
from vldistill.models.checkpoint import ModelSpec, load_strict, save_weights, write_spec
from vldistill.models.official import read_official
from vldistill.models.oscar import BOX, OscarConfig
from vldistill.models.oscar_fusion import Oscar
from vldistill.models.pretraining import HEADS, head_weights
from vldistill.students.official import Layout, renamed, sizes
from vldistill.students.official_vilt import class_names

WEIGHTS, CONFIG = "pytorch_model.bin", "config.json"
LAYOUT = Layout(
    "oscar",
    ((r"^module\.", ""), (r"^cls\.predictions\.", f"{HEADS[MLM]}."), (r"^classifier\.(weight|bias)$", r"classifier.0.\1")),
    (r"^cls\.seq_relationship\.", r"\.position_ids$"), True, "bert.embeddings.word_embeddings.weight",
    "bert.embeddings.position_embeddings.weight", "bert.embeddings.token_type_embeddings.weight", "bert.encoder.layer.",
    "bert.img_embedding.weight")
# What weights do not tell.
_SETTINGS = ("num_attention_heads", "layer_norm_eps", "img_layer_norm_eps", "hidden_dropout_prob", "attention_probs_dropout_prob")
_LARGE, _LARGE_SCALE = 1024, 2


def convert(source: Path, vocabulary: Path, out: Path, *, answers: Path | None = None, overwrite: bool = False) -> ModelSpec:
    """Writes config.json, model.safetensors and the tokenizer; returns what it says of itself. source: a folder, or its
    pytorch_model.bin. answers: see `read_answers`; for a VQA checkpoint, and only for one. Raises InputError where the file
    cannot be read safely, a key has no place or is missing, or vocabulary or answers are those of another model."""
    file = source / WEIGHTS if source.is_dir() else source
    weights = renamed(read_official(file), LAYOUT)
    config = _config(weights, file)
    tokenizer = read_vocabulary(vocabulary, lowercase=True)
    if config.vocab_size != len(tokenizer.vocabulary):
        raise InputError(f"has {len(tokenizer.vocabulary):,} tokens, the checkpoint has {config.vocab_size:,}",
                         where=str(vocabulary), hint="give the vocab.txt of its BERT (uncased)")
    spec = _spec(config, weights, answers, file)
    found = head_weights(weights, weights[LAYOUT.words])
    weights = {name: value for name, value in weights.items() if not name.startswith(f"{HEADS[MLM]}.")} | found
    load_strict(Oscar.from_spec(spec), weights, str(file))
    with building(out, overwrite=overwrite, stage=CONVERTED) as folder:
        write_manifest(folder, new_manifest(CONVERTED, source=str(source.resolve()), complete=True))
        tokenizer.save(folder)
        write_spec(folder, spec)
        save_weights(folder, {name: value.float() for name, value in weights.items()})
    return spec


def _spec(config: OscarConfig, weights: dict[str, Tensor], answers: Path | None, source: Path) -> ModelSpec:
    """Two Linears are NLVR2's head, one is VQA's."""
    pretraining = (MLM,) if any(name.startswith(f"{HEADS[MLM]}.") for name in weights) else ()
    shared = {"image_size": 0, "max_length": config.max_position_embeddings, "official": True, "pretraining": pretraining}
    last = "classifier.2.bias" if "classifier.2.bias" in weights else "classifier.0.bias"
    classes = len(weights.get(last, ()))
    if last == "classifier.2.bias":
        return ModelSpec("oscar", config, "nlvr2", 2, class_names(nlvr2.LABELS, classes, answers, source), **shared)
    if classes:
        names = class_names(None, classes, answers, source)
        return ModelSpec("oscar", config, "vqa", 1, names, answer_loss="bce", **shared)
    return ModelSpec("oscar", config, "", 1, class_names([], classes, answers, source), **shared)


def _config(weights: dict[str, Tensor], file: Path) -> OscarConfig:
    """Sizes from the weights; the rest from config.json, where one lies beside them."""
    plain = sizes(weights, LAYOUT, file)
    settings = _settings(file.parent / CONFIG)
    config = OscarConfig(**asdict(plain) | settings)
    head = weights.get("classifier.0.bias") if "classifier.2.bias" in weights else None
    scale = _LARGE_SCALE if config.hidden_size >= _LARGE else OscarConfig.cls_hidden_scale
    if config.region_size <= BOX or config.num_attention_heads < 1 or config.hidden_size % config.num_attention_heads:
        raise InputError(f"says {config.num_attention_heads} heads, the weights are {config.hidden_size} wide and read "
                         f"{config.region_size} numbers a region", where=str(file.parent / CONFIG),
                         hint="name the folder of an official OSCAR over region features")
    return replace(config, region_size=config.region_size - BOX, use_img_layernorm="bert.LayerNorm.weight" in weights,
                   cls_hidden_scale=scale if head is None else len(head) // config.hidden_size)


def _settings(path: Path) -> dict[str, int | float]:
    if not path.exists():
        return {}
    found = read_json(path)
    if not isinstance(found, dict):
        raise InputError("is not a model configuration", where=str(path), hint="fetch it again")
    settings = {name: found[name] for name in _SETTINGS if name in found}
    for name, value in settings.items():
        if type(value) not in (int, float):
            raise InputError(f"{name} is {value!r}, a number was expected", where=str(path), hint="fetch it again")
    if found.get("hidden_act", "gelu") != "gelu":
        raise InputError(f"hidden_act is {found['hidden_act']!r}, OSCAR's is gelu", where=str(path),
                         hint="is it another model's?")
    return settings
