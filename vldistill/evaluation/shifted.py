"""A run on a split and on its domain-shifted set, side by side (ADVL, section 4.1 and appendix A.3)."""

from __future__ import annotations

from typing import Any

from vldistill.evaluation.evaluate import Evaluation
from vldistill.evaluation.results import HEADINGS, percent
from vldistill.terminal import Table
from vldistill.training.inference import summarise

SUFFIX = "-shift"


def shift_result(standard: Evaluation, shifted: Evaluation) -> dict[str, Any]:
    """Accuracies in [0, 1] on the whole split (`standard`), on those of its records that the shifted set has (`same_records`) and
    on the shifted set, and `drop`, by how much the last falls below the one before.

    VCR's shifted set leaves out questions that no rule selects, so that only the same records can be compared. Records are
    matched by id; `count` is how many there are. Both evaluations must have scores.
    """
    kept = {record.id for record in shifted.records}
    pairs = [(record, item) for record, item in zip(standard.records, standard.items, strict=True) if record.id in kept]
    result: dict[str, Any] = {
        "standard": _accuracies(standard.metrics),
        "shifted": _accuracies(shifted.metrics),
        "count": len(pairs),
    }
    # The first N records of both may have few in common, or none.
    if len(pairs) == len(kept):
        same = _accuracies(summarise(*map(list, zip(*pairs, strict=True))))
        result |= {"same_records": same, "drop": {name: same[name] - value for name, value in result["shifted"].items()}}
    return result


def shift_table(result: dict[str, Any], split: str) -> Table:
    """One row a metric, in per cent."""
    table = Table("score %")
    table.figures(split, f"{split}, same records", f"{split}{SUFFIX}", "drop")
    for name, value in result["shifted"].items():
        same, drop = (percent(result[key][name]) if key in result else "-" for key in ("same_records", "drop"))
        table.add_row(HEADINGS[name], percent(result["standard"][name]), same, percent(value), drop)
    return table


def _accuracies(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: metrics[name] for name in HEADINGS if name in metrics}
