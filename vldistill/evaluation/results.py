"""Evaluations on disk: predictions.jsonl and metrics.json, written, read back and compared two by two; and tables for the
reader, of a split alone or beside its domain-shifted set (ADVL, section 4.1 and appendix A.3)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rich.text import Text

from vldistill.artifacts import CHECKSUM, MANIFEST, file_digest, find_run, is_intact, json_text, sealed, write_files
from vldistill.data.answers import majority_answer
from vldistill.data.artifact import DataArtifact
from vldistill.data.records import Record, read_json, read_jsonl
from vldistill.data.sequences import readable, sequences
from vldistill.errors import InputError, Problems
from vldistill.evaluation.evaluate import Evaluation
from vldistill.metrics.scores import RESAMPLES, bootstrap_interval, mcnemar_exact
from vldistill.models.base.checkpoint import resolve_model
from vldistill.terminal import Table
from vldistill.training.inference import summarise

PREDICTIONS, METRICS = "predictions.jsonl", "metrics.json"
MOST_TYPES = 20
HEADINGS = {"accuracy": "accuracy", "consistency": "consistency", "q_to_a": "Q -> A", "qa_to_r": "QA -> R", "q_to_ar": "Q -> AR"}
_SECTIONS = {
    "by_type": "by type",
    "by_question_type": "by question type",
    "by_label": "by right label",
    "q_to_a_by_type": "Q -> A by type",
    "qa_to_r_by_type": "QA -> R by type",
    "by_shift": "Q -> A by shift",
}


def write_evaluation(evaluation: Evaluation, folder: Path, data: DataArtifact, **more: Any) -> None:
    """Writes predictions.jsonl, the likeliest answer of each record, and metrics.json. more: further fields of the latter."""
    lines = []
    for index, (record, given) in enumerate(zip(evaluation.records, evaluation.answers, strict=True)):
        row: dict[str, Any] = {"id": given.id, "prediction": given.prediction, "confidence": round(given.confidence, 6)}
        if given.tags is not None:
            row["tags"] = given.tags
        if evaluation.items is not None:
            row["score"] = round(evaluation.items[index], 4)
        if record.type is not None:
            row["type"] = record.type
        lines.append(json.dumps(row, ensure_ascii=False))
    head = summary_head(evaluation.sources, evaluation.split, data, evaluation.partial)
    write_results(
        folder,
        lines,
        {**head, "seconds": round(evaluation.seconds, 2), **(evaluation.metrics or {"count": len(evaluation.records)}), **more},
    )


def write_results(folder: Path, predictions: Sequence[str], metrics: dict[str, Any]) -> None:
    """Writes the lines of predictions.jsonl and metrics.json, sealed, with the digest of the former; both or none."""
    content = ("\n".join(predictions) + "\n").encode()
    files = {PREDICTIONS: hashlib.sha256(content).hexdigest()}
    write_files({folder / PREDICTIONS: content, folder / METRICS: json_text(sealed({**metrics, "files": files}))})


def read_results(folder: Path, again: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """metrics.json, and the rows of predictions.jsonl by id. again: the command that makes them.

    Raises InputError where one is missing, was edited, or holds ranks of captions or anything but answers.
    """
    for name in (METRICS, PREDICTIONS):
        if not (folder / name).is_file():
            raise InputError("is not there", where=str(folder / name), hint=f"make it with: {again}")
    again = f"make it again with: {again}"
    metrics, problems = read_json(folder / METRICS), Problems()
    complete = isinstance(metrics, dict) and all(isinstance(metrics.get(name), str) for name in ("data", "split"))
    if not complete or not is_intact(metrics):
        raise InputError(
            "was edited: it is not what its checksum says" if complete else "is not what `evaluate` writes",
            where=str(folder / METRICS),
            hint=again,
        )
    metrics.pop(CHECKSUM, None)
    # An evaluation by an earlier version has no digest.
    files = metrics.pop("files", None)
    if files is not None and files != {PREDICTIONS: file_digest(folder / PREDICTIONS)}:
        raise InputError(f"differs from what {METRICS} records", where=str(folder / PREDICTIONS), hint=again)
    rows: dict[str, dict[str, Any]] = {}
    for where, row in read_jsonl(folder / PREDICTIONS, problems):
        if "prediction" not in row and "image_rank" in row:
            raise InputError(
                "holds ranks of captions, not answers",
                where=str(folder / PREDICTIONS),
                hint="compare the recalls that `vldistill evaluate` prints",
            )
        if fault := _fault_of(row):
            problems.add(fault, where=where, hint=again)
        elif row["id"] in rows:
            problems.add(f"record {row['id']!r} appears twice", where=where, hint=again)
        else:
            rows[row["id"]] = row
    problems.raise_if_any(str(folder / PREDICTIONS))
    return metrics, rows


def _fault_of(row: dict[str, Any]) -> str | None:
    """What is wrong with a line of predictions.jsonl."""
    kinds: dict[str, type | tuple[type, ...]] = {"id": str, "prediction": str, "confidence": (int, float)}
    optional: dict[str, type | tuple[type, ...]] = {"score": (int, float), "type": str, "tags": list}
    for name, kind in (kinds | {name: kind for name, kind in optional.items() if name in row}).items():
        if not isinstance(row.get(name), kind) or isinstance(row[name], bool):
            return f"`{name}` is missing" if name not in row else f"`{name}` is {str(row[name])[:40]!r}"
    return None


def summary_head(sources: Sequence[str], split: str, data: DataArtifact, partial: bool) -> dict[str, Any]:
    """What every metrics.json begins with: the model and how its checkpoint was chosen, or the models of an ensemble; and the
    data, by fingerprint and place."""
    common = {"split": split, "data": data.fingerprint, "data_folder": str(data.folder), "partial": partial}
    if len(sources) > 1:
        return {"ensemble": list(sources), **common}
    # A model folder of a run has the run's manifest beside it; a published model has none.
    manifest = resolve_model(sources[0]).parent / MANIFEST
    best = read_json(manifest).get("best", {}) if manifest.exists() else {}
    chosen = {"checkpoint": {"step": best["step"], "rule": "best accuracy on validation"}} if "step" in best else {}
    return {"source": sources[0], **common, **chosen}


def metrics_table(evaluation: Evaluation) -> Table:
    """Overall metrics with their calibration errors, then the score by each category."""
    metrics = evaluation.metrics
    table = Table("")
    table.figures("score %", *["ECE %"] * (metrics is not None and "ece" in metrics), "records")
    if metrics is None:
        table.add_row("no labels", "-", f"{len(evaluation.records):,}")
        return table
    for name, heading in HEADINGS.items():
        if name in metrics:
            error = metrics.get("ece" if name == "accuracy" else f"{name}_ece")
            count = f"{metrics['count']:,}" if name == "accuracy" else ""
            table.add_row(
                heading, percent(metrics[name]), *_cells(table, "" if error is None else percent(error)), count, style="bold"
            )
    for name, heading in _SECTIONS.items():
        parts = metrics.get(name, {})
        # VCR's types of both parts together say nothing that those of each part do not.
        if len(parts) < 2 or (name == "by_type" and "q_to_a" in metrics):
            continue
        table.add_section()
        if name == "by_type" and "by_question_type" in metrics:
            heading = "by answer type"
        table.add_row(Text(heading, style="dim"))
        for key, part in list(parts.items())[:MOST_TYPES]:
            table.add_row(f"  {key}", percent(part["mean"]), *_cells(table, ""), f"{part['count']:,}")
        if len(parts) > MOST_TYPES:
            table.add_row(f"  {len(parts) - MOST_TYPES} more in {METRICS}")
    return table


def percent(share: float) -> str:
    """0.5 to "50.00"."""
    return f"{100 * share:.2f}"


def _cells(table: Table, text: str) -> list[str]:
    """What stands in the column of the calibration error, where there is one."""
    return [text] * (len(table.columns) == 4)


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


RIGHT = 0.5
"""The least score of an answer that counts as right where scores are fractions; in VQA two annotators of ten give 0.6."""
SEED = 0
LEVEL = 0.95
_CELLS = {(True, True): "both_right", (True, False): "only_a", (False, True): "only_b", (False, False): "both_wrong"}


@dataclass(frozen=True)
class Scored:
    """What `evaluate` wrote. source: as it was named. rows: of predictions.jsonl, by id, in its order."""

    source: str
    folder: Path
    metrics: dict[str, Any]
    rows: dict[str, dict[str, Any]]


def read_scored(source: str, split: str) -> Scored:
    """Reads eval/SPLIT of a run, or of an ensemble's folder. Raises InputError naming the command where it is not there."""
    folder = _holder(source) / "eval" / split
    return Scored(source, folder, *read_results(folder, f"vldistill evaluate {source} --split {split}"))


def _holder(source: str) -> Path:
    path = Path(source)
    if not path.exists():
        raise InputError("no such run", where=source, hint="name a run folder, or the folder of an ensemble")
    return path if (path / "eval").is_dir() or (path / MANIFEST).exists() else find_run(path)


def check_same(a: Scored, b: Scored) -> None:
    """Raises InputError where the two are not of the same records, or only some of these have scores."""
    if a.metrics["data"] != b.metrics["data"]:
        raise InputError(
            f"was scored on data {b.metrics['data'][:12]}, {a.source} on {a.metrics['data'][:12]}",
            where=b.source,
            hint="evaluate both on one data artifact, with `vldistill evaluate --data`",
        )
    if a.metrics["split"] != b.metrics["split"]:
        raise InputError(
            f"was scored on {b.metrics['split']}, {a.source} on {a.metrics['split']}",
            where=b.source,
            hint="evaluate both on one split",
        )
    odd = len(a.rows.keys() ^ b.rows.keys())
    if odd:
        raise InputError(
            f"{odd:,} records are in one of the two evaluations only",
            where=f"{a.folder}, {b.folder}",
            hint="evaluate both with `vldistill evaluate`, without --limit or with the same",
        )
    if len({"score" in row for side in (a, b) for row in side.rows.values()}) > 1:
        raise InputError(
            "some records have scores and some have none", where=f"{a.folder}, {b.folder}", hint="evaluate both again"
        )


def comparison(a: Scored, b: Scored) -> dict[str, Any]:
    """The counts, scores in [0, 1] and tests of B against A, as compare's JSON has them.

    changed: how many answers differ. both_right, only_a, only_b, both_wrong: by scores of at least `RIGHT`. difference: mean
    score of B minus that of A, with the 95 % `interval` of a paired bootstrap. p: of McNemar's exact test, where all scores are 0
    or 1. by_type: the same of each type, but for the tests. VCR has these of Q->A and of QA->R by themselves, in `parts`, since
    the two answers about a question are not independent. Without labels there is only `changed`.
    """
    ids = list(a.rows)
    head = {"split": a.metrics["split"], "data": a.metrics["data"], "a": a.source, "b": b.source}
    if not _has_scores(a, ids):
        return head | _counts(a, b, ids)
    tested = {"bootstrap": {"resamples": RESAMPLES, "seed": SEED, "level": LEVEL}}
    if "q_to_a" not in a.metrics or "qa_to_r" not in a.metrics:
        return head | tested | _tested(a, b, ids)
    rationales = {name for name in ids if name.endswith(":r")}
    parts = {"q_to_a": [name for name in ids if name not in rationales], "qa_to_r": [name for name in ids if name in rationales]}
    return head | tested | _counts(a, b, ids) | {"parts": {part: _tested(a, b, some) for part, some in parts.items()}}


def _tested(a: Scored, b: Scored, ids: list[str]) -> dict[str, Any]:
    result = _counts(a, b, ids)
    differences = [b.rows[name]["score"] - a.rows[name]["score"] for name in ids]
    result["interval"] = list(bootstrap_interval(differences, seed=SEED, level=LEVEL))
    if all(side.rows[name]["score"] in (0, 1) for side in (a, b) for name in ids):
        result["p"] = mcnemar_exact(result["only_a"], result["only_b"])
    kinds: dict[str, list[str]] = {}
    for name in ids:
        kinds.setdefault(a.rows[name].get("type", "-"), []).append(name)
    result["by_type"] = {kind: _counts(a, b, kinds[kind]) for kind in sorted(kinds, key=lambda kind: (-len(kinds[kind]), kind))}
    return result


def _has_scores(side: Scored, ids: list[str]) -> bool:
    return bool(ids) and "score" in side.rows[ids[0]]


def _counts(a: Scored, b: Scored, ids: list[str]) -> dict[str, Any]:
    rows = [(a.rows[name], b.rows[name]) for name in ids]
    result: dict[str, Any] = {"count": len(ids), "changed": sum(_given(one) != _given(other) for one, other in rows)}
    if not _has_scores(a, ids):
        return result
    cells = dict.fromkeys(_CELLS.values(), 0)
    for one, other in rows:
        cells[_CELLS[one["score"] >= RIGHT, other["score"] >= RIGHT]] += 1
    means = [sum(pair[side]["score"] for pair in rows) / len(rows) for side in (0, 1)]
    return result | cells | {"score_a": means[0], "score_b": means[1], "difference": means[1] - means[0]}


def _given(row: dict[str, Any]) -> Any:
    return row.get("tags", row["prediction"])


def changed_ids(a: Scored, b: Scored, most: int) -> list[str]:
    """At most so many records whose answers differ: those that only one side gets right first, A's and B's in turn."""
    changed = [name for name in a.rows if _given(a.rows[name]) != _given(b.rows[name])]
    if not _has_scores(a, changed):
        return changed[:most]

    gains = {name: b.rows[name]["score"] - a.rows[name]["score"] for name in changed}
    better, worse = [name for name in changed if gains[name] > 0], [name for name in changed if gains[name] < 0]
    turns = [name for pair in zip_longest(better, worse) for name in pair if name is not None]
    return [*turns, *(name for name in changed if gains[name] == 0)][:most]


def shown_answer(row: dict[str, Any], record: Record | None) -> str:
    """What a row of predictions.jsonl answers, for the eye: of a record with choices, what the place of one stands for."""
    prediction = str(row["prediction"])
    if record is not None and record.choices is not None and prediction.isdigit():
        return readable(record.choices[int(prediction)], record.objects)
    return ", ".join(row["tags"]) if "tags" in row else prediction


def right_answer(record: Record, labels: list[str]) -> str | None:
    """What would have been right, for the eye; None where that is not known."""
    if record.answers is not None:
        return majority_answer(record.answers)
    if record.tags is not None:
        return ", ".join(labels[tag] for tag in record.tags)
    if record.label is None:
        return None
    return shown_answer({"prediction": record.label}, record) if record.choices is not None else labels[record.label]


def question_of(record: Record) -> list[str]:
    """The parts of its text, for the eye, but for the choices."""
    first = sequences(record)[0]
    return [readable(part, record.objects) for part in (first if record.choices is None else first[:-1])]
