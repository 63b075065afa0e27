"""A BERT of `transformers`, under the names that students start from."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from vldistill.data.records import read_json
from vldistill.errors import InputError
from vldistill.models.base.bert import RegionBertConfig
from vldistill.models.base.checkpoint import read_weights, resolve_model
from vldistill.models.base.official import current_name

# What BERT's own pre-training leaves in a published checkpoint, and a buffer of constants.
_LEFT_OUT = ("cls.", "embeddings.position_ids")


def read_bert(source: str) -> tuple[RegionBertConfig, dict[str, Tensor], Path] | None:
    """Sizes, weights under a student's names and the folder of a BERT in transformers' layout; None where `source` is another
    model. Raises InputError where it cannot be read, or is a BERT of another kind."""
    folder = resolve_model(source)
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or config.get("model_type") != "bert":
        return None
    if config.get("hidden_act", "gelu") != "gelu" or config.get("type_vocab_size", 2) < 2:
        raise InputError(
            "is a BERT of another kind: GELU and two segments are expected",
            where=str(folder),
            hint="for example google-bert/bert-base-uncased",
        )
    weights = {}
    for name, value in read_weights(folder).items():
        name = current_name(name.removeprefix("bert."))
        if not name.startswith(_LEFT_OUT):
            weights[f"bert.{name}"] = value
    return RegionBertConfig.from_dict(config), weights, folder
