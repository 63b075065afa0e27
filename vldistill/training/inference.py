"""Answers of a model over a split, and their official scores; used by validation during training and by `evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vldistill.data.batch import Batch
from vldistill.data.records import TASKS, Record
from vldistill.finite import check_outputs
from vldistill.metrics.scores import consistency, mean_by, overlap, vqa_accuracy


@dataclass(frozen=True)
class Answer:
    """prediction: the chosen label's name. confidence: its probability (softmax over all labels), in (0, 1]. tags: of a model
    that gives any number of labels those above one half, `prediction` being the likeliest and `confidence` its sigmoid; else
    None."""

    id: str
    prediction: str
    confidence: float
    tags: tuple[str, ...] | None = None


Keep = Callable[[list[str], Tensor], None]
"""Told of each batch, its ids and probabilities [B, C]."""


@torch.no_grad()
def answer(
    model: nn.Module,
    loader: Iterable[Batch],
    labels: list[str],
    device: torch.device,
    *,
    tags: bool = False,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    keep: Keep | None = None,
) -> list[Answer]:
    """The model's answer to every record of the loader, in its order; the model is left in the mode it came in. tags: whether
    it gives any number of labels. keep: who else wants the probabilities of all labels, of which an answer has the largest."""
    training = model.training
    model.eval()
    answers: list[Answer] = []
    try:
        for batch in loader:
            with autocast():
                logits = model(batch.to(device)).logits
            sure = probabilities(logits, batch.ids, tags=tags)
            answers += chosen(batch.ids, sure, labels, tags=tags)
            if keep is not None:
                keep(batch.ids, sure)
    finally:
        model.train(training)
    return answers


def probabilities(logits: Tensor, ids: Sequence[str], *, tags: bool = False) -> Tensor:
    """Logits [B, C] to probabilities [B, C], fp32: softmax over all labels, whatever loss the head was trained with; of tags, a
    sigmoid for each. Raises VldistillError naming the records whose logits are not finite."""
    check_outputs(logits, ids)
    return logits.float().sigmoid() if tags else logits.float().softmax(dim=-1)


def chosen(ids: list[str], sure: Tensor, labels: list[str], *, tags: bool = False) -> list[Answer]:
    """Probabilities [B, C] to answers."""
    confidence, index = sure.max(dim=-1)
    given: list[tuple[str, ...] | None] = [None] * len(ids)
    if tags:
        given = [tuple(label for label, holds in zip(labels, row, strict=True) if holds) for row in (sure > 0.5).tolist()]
    rows = zip(ids, index.tolist(), confidence.tolist(), given, strict=True)
    return [Answer(name, labels[place], probability, held) for name, place, probability, held in rows]


def score_items(records: list[Record], answers: list[Answer], labels: list[str]) -> list[float] | None:
    """The score of each answer in [0, 1] (VQA's is fractional), or None where the split has no labels.

    `labels` are the data's own names. Raises ValueError where the answers are not those of the records.
    """
    if [record.id for record in records] != [given.id for given in answers]:
        raise ValueError("answers and records differ")
    target = TASKS[records[0].task].target
    if target == "choice":
        if any(record.label is None for record in records):
            return None
        return [float(str(record.label) == given.prediction) for record, given in zip(records, answers, strict=True)]
    if target == "answers":
        humans = [record.answers for record in records if record.answers is not None]
        if len(humans) < len(records):
            return None
        return [vqa_accuracy(by_humans, given.prediction) for by_humans, given in zip(humans, answers, strict=True)]
    if target == "tags":
        tags = [record.tags for record in records if record.tags is not None]
        if len(tags) < len(records):
            return None
        return [overlap({labels[tag] for tag in own}, set(given.tags or ())) for own, given in zip(tags, answers, strict=True)]
    truths = [record.label for record in records if record.label is not None]
    if len(truths) < len(records):
        return None
    return [float(labels[truth] == given.prediction) for truth, given in zip(truths, answers, strict=True)]


def score(records: list[Record], answers: list[Answer], labels: list[str]) -> dict[str, Any] | None:
    """The task's official metrics, and accuracy by type; None where the split has no labels. Arguments as `score_items`."""
    items = score_items(records, answers, labels)
    return None if items is None else summarise(records, items) | confidence_when_right(items, answers)


def confidence_when_right(items: list[float], answers: list[Answer]) -> dict[str, float]:
    """ADVL's C_avg (section 3.2.1): the mean confidence of right answers, of at least half the full score; empty without any."""
    right = [given.confidence for item, given in zip(items, answers, strict=True) if item >= 0.5]
    return {"confidence_when_right": sum(right) / len(right)} if right else {}


def summarise(records: list[Record], items: list[float]) -> dict[str, Any]:
    """The task's official metrics, from each record's score."""
    task = records[0].task
    metrics: dict[str, Any] = {"accuracy": sum(items) / len(items), "count": len(items)}
    if task == "nlvr2":
        metrics["consistency"] = consistency([sentence_group(record.id) for record in records], items)
    if task == "vcr":
        metrics |= _vcr_parts(records, items)
    metrics["by_type"] = mean_by([record.type for record in records], items)
    return metrics


def _vcr_parts(records: list[Record], items: list[float]) -> dict[str, float]:
    """Accuracy of Q->A, of QA->R (given the right answer), and of both together, of those parts that are there."""
    parts = {"q_to_a": [], "qa_to_r": []}
    by_question: dict[str, list[float]] = {}
    for record, item in zip(records, items, strict=True):
        parts["q_to_a" if record.given is None else "qa_to_r"].append(item)
        by_question.setdefault(record.id.partition(":")[0], []).append(item)
    accuracies = {name: sum(values) / len(values) for name, values in parts.items() if values}
    both = [min(values) for values in by_question.values() if len(values) == 2]
    return accuracies | ({"q_to_ar": sum(both) / len(both)} if both else {})


def sentence_group(identifier: str) -> str:
    """NLVR2's `split-set-pair-sentence` with the pair blanked.

    >>> sentence_group("dev-850-0-1")
    'dev-850-*-1'
    """
    fields = identifier.split("-")
    if len(fields) != 4:
        return identifier
    return "-".join([*fields[:2], "*", fields[3]])
