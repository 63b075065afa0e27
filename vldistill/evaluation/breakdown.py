"""What `evaluate` reports of a scored split beside the official metrics: calibration, and the score by every category it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vldistill.data.records import TASKS, Record
from vldistill.metrics.scores import calibration_error, mean_by
from vldistill.training.inference import Answer, summarise

PARTS = {"q_to_a": lambda record: record.given is None, "qa_to_r": lambda record: record.given is not None}
"""Of VCR: which records belong to a part."""


def measured(records: list[Record], items: list[float], answers: list[Answer], labels: list[str]) -> dict[str, Any]:
    """All that metrics.json says of the answers to a labelled split.

    The official metrics and `by_type`; `ece`, the calibration error of the confidences (but for tags, whose confidence is that of
    one of them); VQA's `by_question_type`, where the annotations have it; `by_label` of classes, by the right one. Of VCR, `ece`
    and types also for Q->A and QA->R by themselves, and of its shifted sets Q->A `by_shift`.
    """
    metrics = summarise(records, items)
    target = TASKS[records[0].task].target
    calibration = {} if target == "tags" else {"ece": _calibration(items, answers)}
    result = {"accuracy": metrics.pop("accuracy"), **calibration, **metrics}
    if any("question_type" in record.meta for record in records):
        result["by_question_type"] = mean_by([record.meta.get("question_type") for record in records], items)
    if target == "label":
        result["by_label"] = mean_by([labels[record.label] for record in records], items)
    if records[0].task == "vcr":
        result |= _vcr(records, items, answers)
    return result


def _calibration(items: list[float], answers: list[Answer]) -> float:
    return calibration_error([given.confidence for given in answers], items)


def _vcr(records: list[Record], items: list[float], answers: list[Answer]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for part, belongs in PARTS.items():
        rows = [row for row, record in enumerate(records) if belongs(record)]
        if rows:
            chosen = [items[row] for row in rows]
            result[f"{part}_ece"] = _calibration(chosen, [answers[row] for row in rows])
            result[f"{part}_by_type"] = mean_by([records[row].type for row in rows], chosen)
    result |= _by(records, items, PARTS["q_to_a"], "shift", "by_shift")
    return result


def _by(records: list[Record], items: list[float], belongs: Callable[[Record], bool], key: str, name: str) -> dict[str, Any]:
    """The mean score by an entry of `meta`; empty where no record has it."""
    pairs = [
        (record.meta[key], item) for record, item in zip(records, items, strict=True) if belongs(record) and key in record.meta
    ]
    return {name: mean_by(*zip(*pairs, strict=True))} if pairs else {}
