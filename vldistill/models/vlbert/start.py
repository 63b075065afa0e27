"""What VL-BERT takes over from pre-training when it starts on a task: parts of heads, and its segments."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vldistill.models.base.family import HEAD, below

# Of a converted checkpoint: what fresh heads start from.
PRETRAINING = "pretraining."
RELATIONSHIP, TRANSFORM, OBJECTS = f"{PRETRAINING}relationship.", f"{PRETRAINING}transform.", f"{PRETRAINING}objects."
OBJECT_HEAD = "cnn_loss_reg."
_SEGMENTS = "vlbert.token_type_embeddings.weight"


def pretrained_head(weights: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """What heads of VL-BERT take over from pre-training: on VCR the direction from "does not belong to the image" to "does", on
    VQA the transform before the vocabulary; where objects are named, the transform before their classes."""
    target, own = getattr(model, "target", None), model.state_dict()
    taken = {f"{OBJECT_HEAD}0.{name}": value for name, value in below(weights, OBJECTS).items()}
    if target == "choice" and f"{RELATIONSHIP}weight" in weights:
        rows = {kind: weights[f"{RELATIONSHIP}{kind}"] for kind in ("weight", "bias")}
        taken |= {f"{HEAD}1.{kind}": values[1:] - values[:1] for kind, values in rows.items()}
    if target == "answers":
        taken |= {f"{HEAD}0.{name}": value for name, value in below(weights, TRANSFORM).items()}
    return {name: value for name, value in taken.items() if name in own or not name.startswith(OBJECT_HEAD)}


def alike_segments(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """VL-BERT's second segment was its caption's own; on VCR an answer starts as a question does."""
    table = weights[_SEGMENTS].clone()
    table[1] = table[0]
    return {**weights, _SEGMENTS: table}
