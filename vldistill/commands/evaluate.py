"""`vldistill evaluate` and `vldistill predict`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from rich.table import Table

from vldistill.artifacts import write_text
from vldistill.commands.output import console, last_line, plan_table
from vldistill.commands.progress import Watching
from vldistill.data.artifact import DataArtifact
from vldistill.errors import InputError
from vldistill.evaluation.captions import CaptionEvaluation, captions_table, evaluate_captions, write_captions
from vldistill.evaluation.evaluate import (
    Evaluation,
    evaluate_run,
    evaluation_folder,
    load_data,
    metrics_table,
    write_evaluation,
)
from vldistill.evaluation.image_index import ImageIndex
from vldistill.evaluation.predict import one_pair, ranked_answers, read_pairs


def evaluate_command(
    runs: list[str], *, data: Path | None, split: str, batch: int, workers: int, out: Path | None, limit: int | None,
    precision: str, index: Path | None, dry_run: bool,
) -> None:
    """Evaluates each run; the last line of standard output is JSON."""
    if out is not None and len(runs) > 1:
        raise InputError("--out with several runs", hint="leave it out, so that each writes into its own folder")
    artifacts = {source: load_data(data, source) for source in runs}
    if precision != "fp32" and any(found.task == "caption" for found in artifacts.values()):
        raise InputError("--precision is for tasks with answers; captions are ranked in fp32", hint="leave it out")
    stored = ImageIndex(index) if index is not None else None
    folders = {source: out or evaluation_folder(source, split, limit, precision) for source in runs}
    if dry_run:
        for source in runs:
            records = artifacts[source].records(split, limit=limit)
            console.print(plan_table(f"evaluate {source}", {
                "data": f"{artifacts[source].folder}, {split}: {len(records)} records", "writes": str(folders[source])}))
        return
    results = []
    for source in runs:
        evaluated = _captions if artifacts[source].task == "caption" else partial(_answers, precision=precision)
        found, table, seconds = evaluated(source, artifacts[source], split, folders[source], batch=batch, limit=limit,
                                          workers=workers, index=stored)
        told = " (partial)" if found.partial else ""
        console.print(f"{source}, {split}{told}", highlight=False, markup=False, soft_wrap=True)
        console.print(table)
        console.print(f"wrote {folders[source]} after {seconds:.1f} s\n", highlight=False, soft_wrap=True)
        metrics = {name: round(value, 4) for name, value in (found.metrics or {}).items() if isinstance(value, int | float)}
        results.append({"run": source, "split": split, **metrics, "seconds": round(seconds, 2)}
                       | ({"partial": True} if found.partial else {}))
    last_line({"evaluated": results} if len(results) > 1 else results[0])


def _answers(
    source: str, data: DataArtifact, split: str, folder: Path, *, batch: int, limit: int | None, workers: int,
    index: ImageIndex | None, precision: str,
) -> tuple[Evaluation, Table, float]:
    found = evaluate_run(source, data, split, batch=batch, limit=limit, workers=workers, precision=precision, index=index)
    write_evaluation(found, folder, data.fingerprint)
    return found, metrics_table(found), found.seconds


def _captions(
    source: str, data: DataArtifact, split: str, folder: Path, *, batch: int, limit: int | None, workers: int,
    index: ImageIndex | None,
) -> tuple[CaptionEvaluation, Table, float]:
    with Watching() as watch:
        found = evaluate_captions(source, data, split, batch=batch, limit=limit, workers=workers, watch=watch, index=index)
    write_captions(found, folder, data.fingerprint)
    return found, captions_table(found), sum(found.seconds.values())


def predict_command(
    run: str, *, images: list[Path], text: str | None, pairs: Path | None, out: Path | None, top: int, batch: int, workers: int
) -> None:
    """Answers one pair, or writes the answers to a JSONL of pairs."""
    if pairs is not None:
        if images or text:
            raise InputError("--pairs and --image or --text", hint="give one or the other")
        _predict_pairs(run, pairs, out, batch, top, workers)
        return
    if not images:
        raise InputError("--image and --text are both needed", hint="or --pairs FILE for many")
    record = one_pair(images, text)
    answers = ranked_answers(run, [record], Path("/"), batch=1, top=top)[0]
    for label, probability in answers:
        console.print(f"{probability:7.2%}  {label}", highlight=False, markup=False)
    last_line({"prediction": answers[0][0], "confidence": round(answers[0][1], 4)})


def _predict_pairs(run: str, pairs: Path, out: Path | None, batch: int, top: int, workers: int) -> None:
    if out is not None and out.exists():
        raise InputError("already exists", where=str(out), hint="choose another name")
    records, root = read_pairs(pairs)
    answers = ranked_answers(run, records, root, batch=batch, top=top, workers=workers)
    lines = [
        json.dumps({"id": record.id, "prediction": ranked[0][0], "confidence": round(ranked[0][1], 6),
                    "top": [[label, round(p, 6)] for label, p in ranked]}, ensure_ascii=False)
        for record, ranked in zip(records, answers, strict=True)
    ]
    if out is None:
        print("\n".join(lines))
        return
    write_text(out, "\n".join(lines) + "\n")
    console.print(f"wrote {len(lines)} answers to {out}", highlight=False)
