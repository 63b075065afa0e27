"""What UNITER and VL-BERT take over from pre-training when they start on a task: parts of heads, and tables that grow on VCR."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vldistill.models.base.heads import initial_std
from vldistill.models.vlbert.model import VlBert

# Of a converted checkpoint: what fresh heads start from.
PRETRAINING = "pretraining."
RELATIONSHIP, TRANSFORM, OBJECTS = f"{PRETRAINING}relationship.", f"{PRETRAINING}transform.", f"{PRETRAINING}objects."
OBJECT_HEAD, _HEAD = "cnn_loss_reg.", "classifier."
# The tables that grow on VCR, and how new rows start: as a copy of row 0, or at random.
_SEGMENTS = "vlbert.token_type_embeddings.weight"
_TYPES, _WORDS = "uniter.embeddings.token_type_embeddings.weight", "uniter.embeddings.word_embeddings.weight"


def pretrained_head(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """What heads of VL-BERT take over from pre-training: on VCR the direction from "does not belong to the image" to "does", on
    VQA the transform before the vocabulary; where objects are named, the transform before their classes."""
    target, own = getattr(model, "target", None), model.state_dict()
    taken = {f"{OBJECT_HEAD}0.{name}": value for name, value in _below(weights, OBJECTS).items()}
    if target == "choice" and f"{RELATIONSHIP}weight" in weights:
        rows = {kind: weights[f"{RELATIONSHIP}{kind}"] for kind in ("weight", "bias")}
        taken |= {f"{_HEAD}1.{kind}": values[1:] - values[:1] for kind, values in rows.items()}
    if target == "answers":
        taken |= {f"{_HEAD}0.{name}": value for name, value in _below(weights, TRANSFORM).items()}
    return {name: value for name, value in taken.items() if name in own or not name.startswith(OBJECT_HEAD)}


def grown_tables(weights: dict[str, Tensor], model: nn.Module, task: str) -> dict[str, Tensor]:
    """New rows of the type table are copies of the question's, those of the word table are drawn. task: that the weights were
    trained on, "" after pre-training."""
    own, grown = model.state_dict(), dict(weights)
    for name in (_TYPES, _WORDS):
        missing = len(own[name]) - len(weights[name]) if name in own and name in weights else 0
        if missing > 0:
            table = weights[name]
            rows = table[:1].expand(missing, -1) if name == _TYPES else (
                torch.randn(missing, table.shape[1], dtype=table.dtype) * initial_std(table.shape[1]))
            grown[name] = torch.cat([table, rows])
    if isinstance(model, VlBert) and model.target == "choice" and not task:
        # VL-BERT's second segment was its caption's own; on VCR an answer starts as a question does.
        table = weights[_SEGMENTS].clone()
        table[1] = table[0]
        grown[_SEGMENTS] = table
    return grown


def _below(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
