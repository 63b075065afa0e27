"""OSCAR's and VinVL's official checkpoints, folders of an old `transformers`, converted to model folders.

A checkpoint holds the encoder and what it was trained on: pre-training's heads (`cls`), NLVR2's MLP or VQA's Linear. Every key
has a place or is named here. Of pre-training's heads that for hidden words is kept; the other tells true tags or captions from
swapped ones, which is not image-text matching as this tool has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vldistill.data.records import read_json
from vldistill.data.sources import nlvr2
from vldistill.errors import InputError
from vldistill.models.base.checkpoint import ModelSpec
from vldistill.models.base.converter import CONSTANTS, HEADS, Account, BertTables, FusionLayout, OfficialTask, Weights
from vldistill.models.base.official import current_name
from vldistill.models.oscar.model import BOX, OscarConfig

WEIGHTS, CONFIG = "pytorch_model.bin", "config.json"
_TABLES = BertTables(
    "bert.embeddings.word_embeddings.weight",
    "bert.embeddings.position_embeddings.weight",
    "bert.embeddings.token_type_embeddings.weight",
    "bert.encoder.layer.",
    "bert.img_embedding.weight",
)
# What weights do not tell.
_SETTINGS = ("num_attention_heads", "layer_norm_eps", "img_layer_norm_eps", "hidden_dropout_prob", "attention_probs_dropout_prob")
_DECODER = "mlm_score.decoder.weight"
_LARGE, _LARGE_SCALE = 1024, 2


class OscarLayout(FusionLayout):
    kind = "oscar"
    renamed = (
        (r"^module\.", ""),
        (r"^cls\.predictions\.", "mlm_score."),
        (r"^classifier\.(weight|bias)$", r"classifier.0.\1"),
        *HEADS,
    )
    left_out = ((r"^cls\.seq_relationship\.", "pre-training's head for true tags or captions"), (r"\.position_ids$", CONSTANTS))

    def file(self, source: Path) -> Path:
        """source: a folder, or its pytorch_model.bin."""
        return source / WEIGHTS if source.is_dir() else source

    def place(self, name: str, value: Tensor) -> Weights:
        return super().place(current_name(name), value)

    def sizes(self, weights: Weights, file: Path, heads: Sequence[int] | None) -> OscarConfig:
        """From the weights; the rest from config.json, where one lies beside them. heads: in place of that one's."""
        settings = _settings(file.parent / CONFIG)
        if heads is not None:
            settings.pop("num_attention_heads", None)
        # The table of sizes wants some heads; what config.json says to them is judged below.
        plain = _TABLES.sizes(weights, file, (1,) if "num_attention_heads" in settings else heads)
        config = replace(OscarConfig(**asdict(plain)), **settings)
        head = weights.get("classifier.0.bias") if "classifier.2.bias" in weights else None
        scale = _LARGE_SCALE if config.hidden_size >= _LARGE else OscarConfig.cls_hidden_scale
        if config.region_size <= BOX or config.num_attention_heads < 1 or config.hidden_size % config.num_attention_heads:
            raise InputError(
                f"says {config.num_attention_heads} heads, the weights are {config.hidden_size} wide and read "
                f"{config.region_size} numbers a region",
                where=str(file.parent / CONFIG),
                hint="name the folder of an official OSCAR over region features",
            )
        return replace(
            config,
            region_size=config.region_size - BOX,
            use_img_layernorm="bert.LayerNorm.weight" in weights,
            cls_hidden_scale=scale if head is None else len(head) // config.hidden_size,
        )

    def task(self, official: Weights, weights: Weights) -> OfficialTask:
        """Two Linears are NLVR2's head, one is VQA's."""
        if "classifier.2.bias" in weights:
            return OfficialTask("nlvr2", 2, tuple(nlvr2.LABELS))
        return OfficialTask("vqa", 1, None) if "classifier.0.bias" in weights else OfficialTask("", 1, ())

    def completed(
        self, config: OscarConfig, official: Weights, weights: Weights, account: Account, answers: Path | None, file: Path
    ) -> tuple[ModelSpec, Weights]:
        spec, weights = super().completed(config, official, weights, account, answers, file)
        # Tied, and read as tied where it is not there.
        if _DECODER in weights and torch.equal(weights[_DECODER], weights[_TABLES.words]):
            del weights[_DECODER]
            account.drop(_DECODER, "the table of words again, which it is tied to")
        return replace(spec, official=True), weights


LAYOUT = OscarLayout()


def _settings(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    config = read_json(path)
    if not isinstance(config, dict):
        raise InputError("is not a model configuration", where=str(path), hint="fetch it again")
    settings = {name: config[name] for name in _SETTINGS if name in config}
    for name, value in settings.items():
        if type(value) not in (int, float):
            raise InputError(f"{name} is {value!r}, a number was expected", where=str(path), hint="fetch it again")
    if config.get("hidden_act", "gelu") != "gelu":
        raise InputError(
            f"hidden_act is {config['hidden_act']!r}, OSCAR's is gelu", where=str(path), hint="is it another model's?"
        )
    return settings
