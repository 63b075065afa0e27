"""`vldistill evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vldistill.commands.options import DryRun, LimitOption, OtherData, Runs, Workers
from vldistill.commands.output import Watching, last_line, show_plan
from vldistill.terminal import Table, say, show

if TYPE_CHECKING:
    from vldistill.data.artifact import DataArtifact
    from vldistill.data.records import Record
    from vldistill.evaluation.evaluate import Evaluation, Probabilities
    from vldistill.evaluation.request import EvaluationRequest


@dataclass(frozen=True)
class Task:
    """What is to be done on one split for a run. unscored: records that only a leaderboard file needs. folder: of the results."""

    data: DataArtifact
    split: str
    records: list[Record]
    unscored: list[Record]
    partial: bool
    folder: Path


Tasks = dict[str, list[Task]]
"""Of each run, by what names it."""


def evaluate(
    runs: Runs,
    data: OtherData = None,
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="Split to evaluate.")] = "val",
    batch: Annotated[int, typer.Option("--batch", min=1, metavar="N", help="Pairs in a batch.")] = 32,
    workers: Workers = 0,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where results go, instead of RUN/eval/SPLIT.")] = None,
    limit: LimitOption = None,
    precision: Annotated[str, typer.Option("--precision", metavar="P", help="fp32, bf16, fp16 or int8.")] = "fp32",
    index: Annotated[Path | None, typer.Option("--index", metavar="DIR", help="Use the image vectors of this index.")] = None,
    ensemble: Annotated[bool, typer.Option("--ensemble", help="Also score the average of the runs' probabilities.")] = False,
    part: Annotated[str | None, typer.Option("--part", metavar="PART", help="vcr: answers, rationales or both.")] = None,
    domain_shift: Annotated[bool, typer.Option("--domain-shift", help="Also score SPLIT-shift, and show both.")] = False,
    leaderboard: Annotated[
        Path | None, typer.Option("--leaderboard", metavar="FILE", help="Write a submission file (vcr, vqa, nlvr2).")
    ] = None,
    allow_partial: Annotated[bool, typer.Option("--allow-partial", help="Allow --leaderboard for part of the records.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Score runs with the official metrics."""
    from vldistill.evaluation.evaluate import load_data
    from vldistill.evaluation.leaderboard import check_leaderboard
    from vldistill.evaluation.request import EvaluationRequest, check_captions, check_models, check_options, parts_of, whole_test
    from vldistill.places import check_writable

    options = (data, split, batch, workers, out, limit, precision, index)
    asked = EvaluationRequest(*options, ensemble, part, domain_shift, leaderboard, allow_partial, dry_run)
    check_options(runs, asked)
    artifacts = {source: load_data(data, source) for source in runs}
    asked = whole_test(asked, artifacts[runs[0]])
    if any(data.task == "caption" for data in artifacts.values()):
        check_captions(artifacts, asked)
        _rank({source: [_task(source, data, asked.split, asked)] for source, data in artifacts.items()}, asked)
        return
    check_models(artifacts, asked)
    parts = parts_of(artifacts, asked)
    tasks = {
        source: [_task(source, data, split, asked, parts[source]) for split in asked.splits] for source, data in artifacts.items()
    }
    first = tasks[runs[0]][0]
    together = {split: _together(runs, first.data, split, asked) for split in asked.splits if asked.ensemble}
    if asked.leaderboard is not None:
        check_leaderboard(asked.leaderboard, first.data, asked.split, partial=first.partial, allow_partial=asked.allow_partial)
    if asked.dry_run:
        _show_plan(tasks, together, asked)
        return
    check_writable(*(task.folder for own in tasks.values() for task in own), *together.values(), asked.leaderboard)
    _run(tasks, together, asked)


def _task(source: str, data: DataArtifact, split: str, asked: EvaluationRequest, part: str = "both") -> Task:
    from vldistill.evaluation.evaluate import evaluation_folder
    from vldistill.evaluation.leaderboard import other_rationales

    records = data.records(split, part=part, limit=asked.limit)
    unscored = other_rationales(records) if asked.leaderboard is not None else []
    folder = asked.folder(split)
    if folder is None or asked.ensemble:
        folder = evaluation_folder(source, data, split, asked.limit, asked.precision, asked.part)
    return Task(data, split, records, unscored, bool(asked.limit or data.manifest.get("partial")), folder)


def _together(runs: list[str], data: DataArtifact, split: str, asked: EvaluationRequest) -> Path:
    from vldistill.evaluation.evaluate import ensemble_folder

    return asked.folder(split) or ensemble_folder(runs, data, split, asked.limit, asked.precision, asked.part)


def _show_plan(tasks: Tasks, together: dict[str, Path], asked: EvaluationRequest) -> None:
    from vldistill.evaluation.evaluate import Probabilities

    for source, own in tasks.items():
        for task in own:
            line = f"{task.data.folder}, {task.split}: {len(task.records)} records"
            show_plan(f"evaluate {source}", {"data": line, "writes": task.folder})
    for task in next(iter(tasks.values())):
        if task.split in together:
            size = Probabilities.size(len(task.records) + len(task.unscored), len(task.data.labels))
            rows = {"memory": f"{_bytes(size)} of probabilities", "writes": together[task.split]}
            show_plan(f"average {len(tasks)} runs on {task.split}", rows)
    if asked.leaderboard is not None:
        show_plan("leaderboard", {"writes": asked.leaderboard})


def _bytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{max(size / 1e6, 0.1):.1f} MB"


# --- doing it ----------------------------------------------------------------------------------------------------------------


def _run(tasks: Tasks, together: dict[str, Path], asked: EvaluationRequest) -> None:
    from vldistill.evaluation.evaluate import Probabilities, evaluate_split, scored
    from vldistill.evaluation.image_index import open_index
    from vldistill.evaluation.leaderboard import submission, write_submission
    from vldistill.evaluation.opened import open_model

    stored = open_index(asked.index, say)
    first = next(iter(tasks.values()))
    common = first[0].data
    pools: dict[str, Probabilities] = {}
    results = []
    for source, own in tasks.items():
        opened, evaluations = open_model(source, asked.precision), []
        for task in own:
            # VCR's leaderboard wants probabilities, and so do averages; a model's own answers need none that are kept.
            if task.split not in pools and (asked.ensemble or (asked.leaderboard is not None and common.task == "vcr")):
                pools[task.split] = Probabilities([record.id for record in [*task.records, *task.unscored]], opened.spec.labels)
            pool = pools.get(task.split)
            evaluations.append(
                evaluate_split(
                    opened,
                    task.data,
                    task.split,
                    task.records,
                    batch=asked.batch,
                    partial=task.partial,
                    workers=asked.workers,
                    index=stored,
                    unscored=task.unscored,
                    keep=pool.member(opened.spec.labels) if pool is not None else None,
                )
            )
        results.append(_finish(evaluations, own[0].data, [task.folder for task in own]))
    evaluated = evaluations[0]
    if asked.ensemble:
        tags = opened.gives_tags
        del opened
        evaluations = [
            scored(
                tuple(tasks),
                common,
                task.split,
                task.records,
                pools[task.split].answers([record.id for record in task.records], tags=tags),
                seconds=sum(row["seconds"] for row in results),
                partial=task.partial,
            )
            for task in first
        ]
        evaluated = evaluations[0]
        results.append(_finish(evaluations, common, [together[task.split] for task in first]))
    if asked.leaderboard is not None:
        text, ids = submission(common.task, evaluated.records, evaluated.answers, pools.get(asked.split))
        write_submission(asked.leaderboard, common.task, text, ids)
        note = " (partial: not to be submitted)" if evaluated.partial else ""
        say(f"wrote {asked.leaderboard}, {len(ids):,} {common.task} records, checked{note}\n")
        results[-1]["leaderboard"] = str(asked.leaderboard)
    last_line({"evaluated": results} if len(results) > 1 else results[0])


def _finish(evaluations: list[Evaluation], data: DataArtifact, folders: list[Path]) -> dict[str, Any]:
    """Writes and shows the evaluations of one model, or of an ensemble: on a split and, if asked for, on its shifted set. Returns
    what the last line says of them."""
    from vldistill.evaluation.evaluate import part_of
    from vldistill.evaluation.results import metrics_table, shift_result, shift_table, write_evaluation

    shift = None
    if len(evaluations) == 2 and all(one.metrics is not None for one in evaluations):
        shift = shift_result(*evaluations)
    for one, folder in zip(evaluations, folders, strict=True):
        more = {"shift": shift} if shift is not None and one is evaluations[-1] else {}
        write_evaluation(one, folder, data, **more)
        _show(one.name, data, one.split, one.partial, metrics_table(one), folder, one.seconds, part_of(one.records))
    if shift is not None:
        say(f"{evaluations[0].name} on {data.folder}, standard and shifted")
        show(shift_table(shift, evaluations[0].split))
        say()
    first = evaluations[0]
    who = {"run": first.sources[0]} if len(first.sources) == 1 else {"ensemble": list(first.sources)}
    metrics = _rounded(first.metrics or {})
    return {
        **who,
        "split": first.split,
        **metrics,
        "seconds": round(sum(one.seconds for one in evaluations), 2),
        **({"partial": True} if first.partial else {}),
        **({"drop": _rounded(shift.get("drop", {}))} if shift is not None else {}),
    }


def _rank(tasks: Tasks, asked: EvaluationRequest) -> None:
    """Retrieval."""
    from vldistill.evaluation.captions import captions_table, evaluate_captions, write_captions
    from vldistill.evaluation.image_index import open_index
    from vldistill.places import check_writable

    stored = open_index(asked.index, say)
    if asked.dry_run:
        _show_plan(tasks, {}, asked)
        return
    check_writable(*(task.folder for [task] in tasks.values()))
    results = []
    more: dict[str, Any] = {"batch": asked.batch, "limit": asked.limit, "workers": asked.workers, "index": stored}
    for source, [task] in tasks.items():
        with Watching() as watch:
            evaluation = evaluate_captions(source, task.data, asked.split, watch=watch, **more)
        write_captions(evaluation, task.folder, task.data)
        seconds = sum(evaluation.seconds.values())
        _show(source, task.data, asked.split, evaluation.partial, captions_table(evaluation), task.folder, seconds)
        said = {"run": source, "split": asked.split, **_rounded(evaluation.metrics), "seconds": round(seconds, 2)}
        results.append(said | ({"partial": True} if evaluation.partial else {}))
    last_line({"evaluated": results} if len(results) > 1 else results[0])


def _show(
    name: str, data: DataArtifact, split: str, partial: bool, table: Table, folder: Path, seconds: float, part: str = "both"
) -> None:
    note = f", {part} only" * (part != "both") + " (partial)" * partial
    say(f"{name} on {data.folder}, {split}{note}")
    show(table)
    say(f"wrote {folder} after {seconds:.1f} s\n")


def _rounded(values: dict[str, Any]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items() if isinstance(value, int | float)}
