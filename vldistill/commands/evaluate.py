"""`vldistill evaluate` and `vldistill predict`."""

from __future__ import annotations

import json
from pathlib import Path

from vldistill.artifacts import write_text
from vldistill.commands.output import console, last_line, plan_table
from vldistill.errors import InputError
from vldistill.evaluation.evaluate import evaluate_run, evaluation_folder, load_data, metrics_table, write_evaluation
from vldistill.evaluation.predict import one_pair, ranked_answers, read_pairs


def evaluate_command(
    runs: list[str], *, data: Path | None, split: str, batch: int, workers: int, out: Path | None, limit: int | None,
    dry_run: bool,
) -> None:
    """Evaluates each run; the last line of standard output is JSON."""
    if out is not None and len(runs) > 1:
        raise InputError("--out with several runs", hint="leave it out, so that each writes into its own folder")
    artifacts = {source: load_data(data, source) for source in runs}
    folders = {source: out or evaluation_folder(source, split, limit) for source in runs}
    if dry_run:
        for source in runs:
            records = artifacts[source].records(split, limit=limit)
            console.print(plan_table(f"evaluate {source}", {
                "data": f"{artifacts[source].folder}, {split}: {len(records)} records", "writes": str(folders[source])}))
        return
    results = []
    for source in runs:
        evaluation = evaluate_run(source, artifacts[source], split, batch=batch, limit=limit, workers=workers)
        write_evaluation(evaluation, folders[source], artifacts[source].fingerprint)
        partial = " (partial)" if evaluation.partial else ""
        console.print(f"{source}, {split}{partial}", highlight=False, markup=False, soft_wrap=True)
        console.print(metrics_table(evaluation))
        console.print(f"wrote {folders[source]} after {evaluation.seconds:.1f} s\n", highlight=False, soft_wrap=True)
        metrics = {name: round(value, 4) for name, value in (evaluation.metrics or {}).items() if isinstance(value, int | float)}
        results.append({"run": source, "split": split, **metrics, "seconds": round(evaluation.seconds, 2)}
                       | ({"partial": True} if evaluation.partial else {}))
    last_line({"evaluated": results} if len(results) > 1 else results[0])


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
