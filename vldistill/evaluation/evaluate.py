"""Scoring a trained model on a split: official metrics, a table by type, predictions as JSONL."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

from vldistill.artifacts import MANIFEST, RUN_STAGES, find_run, read_manifest, write_json, write_text
from vldistill.data.artifact import DataArtifact, open_data
from vldistill.data.loading import CleanBatches, make_loader
from vldistill.data.records import Record, read_json
from vldistill.errors import InputError
from vldistill.evaluation.image_index import ImageIndex
from vldistill.evaluation.indexed import Indexed, stored_dataset
from vldistill.evaluation.precision import lowered
from vldistill.models.checkpoint import ModelSpec, resolve_model
from vldistill.students.build import load_student
from vldistill.students.inputs import plain_dataset
from vldistill.training.inference import Answer, answer, score_items, summarise

MOST_TYPES = 20


@dataclass(frozen=True)
class Evaluation:
    """items: the score of each record, in [0, 1]. items and metrics are None where the split has no labels. seconds: of
    inference, reading images included."""

    source: str
    split: str
    records: list[Record]
    answers: list[Answer]
    items: list[float] | None
    metrics: dict[str, Any] | None
    seconds: float
    partial: bool


def trained_on(source: str) -> DataArtifact:
    """The data artifact that a run was trained on. Raises InputError where `source` is no run, or the artifact has been made
    anew since."""
    run = _run_folder(source)
    if not (run / MANIFEST).exists():
        raise InputError("is not a run, so its data is not known", where=source, hint="name the data artifact with --data")
    manifest = read_manifest(run, RUN_STAGES, make_it="vldistill finetune or distill, with --overwrite")
    data, expected = open_data(Path(manifest["data"])), manifest["parents"]["data"]
    if data.fingerprint != expected:
        raise InputError(f"was trained on data {expected[:12]}, {data.folder} now holds {data.fingerprint[:12]}", where=source,
                         hint=f"train it again, or name the data on purpose with --data {data.folder}")
    return data


def _run_folder(source: str) -> Path:
    if not Path(source).exists():
        raise InputError("no such run", where=source,
                         hint="make it with `vldistill finetune` or `distill`; a hub model needs --data and --out")
    return find_run(Path(source))


def check_task(spec: ModelSpec, data: DataArtifact, source: str) -> None:
    """Raises InputError where the model cannot answer this data: another number of images, or no common label."""
    if spec.images != data.spec.images:
        raise InputError(f"takes {spec.images} image(s) a record, {data.folder} has {data.spec.images}", where=source,
                         hint="choose another data artifact")
    if data.labels and not set(spec.labels) & set(data.labels):
        raise InputError(f"answers {', '.join(spec.labels[:3])}..., {data.folder} asks for {', '.join(data.labels[:3])}...",
                         where=source, hint="choose another data artifact")


def evaluate_run(
    source: str, data: DataArtifact, split: str, *, batch: int, limit: int | None, workers: int = 0, precision: str = "fp32",
    index: ImageIndex | None = None,
) -> Evaluation:
    """Answers a split with one model and scores it against the data's own labels, matched by name. precision: see `lowered`.
    index: where image vectors come from, instead of pixels."""
    model, spec, tokenizer = load_student(source)
    check_task(spec, data, source)
    records = data.records(split, limit=limit)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    objects = data.objects if spec.image_network else None
    model, autocast = lowered(model, precision, device)
    if index is None:
        dataset = plain_dataset(records, data.images, tokenizer, spec, objects)
    else:
        dataset = stored_dataset(index, model, records, data, tokenizer, spec, source)
        model = Indexed(model)
    loader = make_loader(dataset, CleanBatches(len(records), batch), workers=workers)
    started = time.perf_counter()
    answers = answer(model, loader, spec.labels, device, tags=spec.target == "tags", autocast=autocast)
    seconds = time.perf_counter() - started
    items = score_items(records, answers, data.labels)
    metrics = None if items is None else summarise(records, items)
    partial = bool(limit or data.manifest.get("partial"))
    return Evaluation(source, split, records, answers, items, metrics, seconds, partial)


def evaluation_folder(source: str, split: str, limit: int | None = None, precision: str = "fp32") -> Path:
    """RUN/eval/SPLIT, or SPLIT-limitN for the first N records, or SPLIT-bf16 where the precision is not fp32. Raises InputError
    where `source` is no run of ours."""
    run = _run_folder(source)
    if not (run / MANIFEST).exists():
        raise InputError("is not a run, so there is no place for its results", where=source, hint="give one with --out")
    return run / "eval" / "-".join([split, *[f"limit{limit}"] * bool(limit), *[precision] * (precision != "fp32")])


def write_evaluation(evaluation: Evaluation, folder: Path, fingerprint: str) -> None:
    """Writes predictions.jsonl and metrics.json."""
    folder.mkdir(parents=True, exist_ok=True)
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
    write_text(folder / "predictions.jsonl", "\n".join(lines) + "\n")
    head = summary_head(evaluation.source, evaluation.split, fingerprint, evaluation.partial)
    write_json(folder / "metrics.json", {**head, "seconds": round(evaluation.seconds, 2),
                                         **(evaluation.metrics or {"count": len(evaluation.records)})})


def summary_head(source: str, split: str, fingerprint: str, partial: bool) -> dict[str, Any]:
    """What every metrics.json begins with: the model, how its checkpoint was chosen, and the data."""
    # A model folder of a run has the run's manifest beside it; a published model has none.
    manifest = resolve_model(source).parent / MANIFEST
    best = read_json(manifest).get("best", {}) if manifest.exists() else {}
    chosen = {"checkpoint": {"step": best["step"], "rule": "best accuracy on validation"}} if "step" in best else {}
    return {"source": source, "split": split, "data": fingerprint, "partial": partial, **chosen}


def load_data(path: Path | None, source: str) -> DataArtifact:
    """The data artifact to evaluate on: the named one, or the run's own."""
    return open_data(path) if path else trained_on(source)


def metrics_table(evaluation: Evaluation) -> Table:
    """Overall metrics, then accuracy by type."""
    table = Table("", "score %", "records")
    for column in table.columns[1:]:
        column.justify = "right"
    metrics = evaluation.metrics
    if metrics is None:
        table.add_row("no labels", "-", f"{len(evaluation.records):,}")
        return table
    for name in ("accuracy", "consistency", "q_to_a", "qa_to_r", "q_to_ar"):
        if name in metrics:
            count = f"{metrics['count']:,}" if name == "accuracy" else ""
            table.add_row(name.replace("_to_", " -> "), f"{100 * metrics[name]:.2f}", count, style="bold")
    types = metrics["by_type"]
    if len(types) > 1:
        table.add_section()
        for name, part in list(types.items())[:MOST_TYPES]:
            table.add_row(Text(f"  {name}"), f"{100 * part['mean']:.2f}", f"{part['count']:,}")
        if len(types) > MOST_TYPES:
            table.add_row(f"  {len(types) - MOST_TYPES} more types in metrics.json", "", "")
    return table
