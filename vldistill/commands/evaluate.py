"""`vldistill evaluate`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vldistill.commands.options import DryRun, LimitOption, OtherData, Runs, Workers
from vldistill.commands.output import last_line, plan_table
from vldistill.terminal import Table, say, show

if TYPE_CHECKING:
    from vldistill.data.artifact import DataArtifact
    from vldistill.data.records import Record
    from vldistill.evaluation.asked import Asked
    from vldistill.evaluation.evaluate import Evaluation
    from vldistill.evaluation.probabilities import Probabilities


@dataclass(frozen=True)
class Task:
    """What is to be done on one split. unscored: records that only a leaderboard file needs."""

    split: str
    records: list[Record]
    unscored: list[Record]
    partial: bool


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
    from vldistill.evaluation.asked import Asked, check_captions, check_models, check_options, parts_of, whole_test
    from vldistill.evaluation.evaluate import load_data
    from vldistill.evaluation.leaderboard import check_leaderboard
    from vldistill.places import check_writable

    asked = Asked(
        data=data,
        split=split,
        batch=batch,
        workers=workers,
        out=out,
        limit=limit,
        precision=precision,
        index=index,
        ensemble=ensemble,
        part=part,
        domain_shift=domain_shift,
        leaderboard=leaderboard,
        allow_partial=allow_partial,
        dry_run=dry_run,
    )
    check_options(runs, asked)
    artifacts = {source: load_data(data, source) for source in runs}
    asked = whole_test(asked, artifacts[runs[0]])
    if any(data.task == "caption" for data in artifacts.values()):
        check_captions(artifacts, asked)
        _rank(runs, artifacts, asked)
        return
    check_models(artifacts, asked)
    parts = parts_of(artifacts, asked)
    tasks = {source: [_task(data, split, asked, parts[source]) for split in asked.splits] for source, data in artifacts.items()}
    folders = {
        (source, split): _folder(source, data, split, asked) for source, data in artifacts.items() for split in asked.splits
    }
    common = artifacts[runs[0]]
    together = {split: _together(runs, common, split, asked) for split in asked.splits if asked.ensemble}
    if asked.leaderboard is not None:
        check_leaderboard(
            asked.leaderboard, common, asked.split, partial=tasks[runs[0]][0].partial, allow_partial=asked.allow_partial
        )
    if asked.dry_run:
        _show_plan(runs, artifacts, tasks, folders, together, asked)
        return
    check_writable(*folders.values(), *together.values(), asked.leaderboard)
    _run(runs, artifacts, tasks, folders, together, asked)


def _task(data: DataArtifact, split: str, asked: Asked, part: str = "both") -> Task:
    from vldistill.evaluation.leaderboard import other_rationales

    records = data.records(split, part=part, limit=asked.limit)
    return Task(
        split,
        records,
        other_rationales(records) if asked.leaderboard is not None else [],
        bool(asked.limit or data.manifest.get("partial")),
    )


def _folder(source: str, data: DataArtifact, split: str, asked: Asked) -> Path:
    from vldistill.evaluation.evaluate import evaluation_folder

    if asked.out is None or asked.ensemble:
        return evaluation_folder(source, data, split, asked.limit, asked.precision, asked.part)
    return asked.out / split if asked.domain_shift else asked.out


def _together(runs: list[str], data: DataArtifact, split: str, asked: Asked) -> Path:
    from vldistill.evaluation.evaluate import ensemble_folder

    if asked.out is None:
        return ensemble_folder(runs, data, split, asked.limit, asked.precision, asked.part)
    return asked.out / split if asked.domain_shift else asked.out


def _show_plan(
    runs: list[str],
    artifacts: dict[str, DataArtifact],
    tasks: dict[str, list[Task]],
    folders: dict[tuple[str, str], Path],
    together: dict[str, Path],
    asked: Asked,
) -> None:
    from vldistill.evaluation.probabilities import Probabilities

    for source in runs:
        for task in tasks[source]:
            show(
                plan_table(
                    f"evaluate {source}",
                    {
                        "data": f"{artifacts[source].folder}, {task.split}: {len(task.records)} records",
                        "writes": str(folders[source, task.split]),
                    },
                )
            )
    for task in tasks[runs[0]]:
        if task.split in together:
            size = Probabilities.size(len(task.records) + len(task.unscored), len(artifacts[runs[0]].labels))
            show(
                plan_table(
                    f"average {len(runs)} runs on {task.split}",
                    {"memory": f"{_bytes(size)} of probabilities", "writes": str(together[task.split])},
                )
            )
    if asked.leaderboard is not None:
        show(plan_table("leaderboard", {"writes": str(asked.leaderboard)}))


def _bytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{max(size / 1e6, 0.1):.1f} MB"


# --- doing it ----------------------------------------------------------------------------------------------------------------


def _run(
    runs: list[str],
    artifacts: dict[str, DataArtifact],
    tasks: dict[str, list[Task]],
    folders: dict[tuple[str, str], Path],
    together: dict[str, Path],
    asked: Asked,
) -> None:
    from vldistill.evaluation.evaluate import evaluate_split, scored
    from vldistill.evaluation.image_index import ImageIndex
    from vldistill.evaluation.leaderboard import submission, write_submission
    from vldistill.evaluation.opened import open_model
    from vldistill.evaluation.probabilities import Probabilities
    from vldistill.store.staging import staged_store
    from vldistill.store.uses import INDEX

    stored = ImageIndex(staged_store(asked.index, INDEX, say)) if asked.index is not None else None
    common = artifacts[runs[0]]
    pools: dict[str, Probabilities] = {}
    results = []
    for source in runs:
        opened, found = open_model(source, asked.precision), []
        for task in tasks[source]:
            # VCR's leaderboard wants probabilities, and so do averages; a model's own answers need none that are kept.
            if task.split not in pools and (asked.ensemble or (asked.leaderboard is not None and common.task == "vcr")):
                pools[task.split] = Probabilities([record.id for record in [*task.records, *task.unscored]], opened.spec.labels)
            pool = pools.get(task.split)
            found.append(
                evaluate_split(
                    opened,
                    artifacts[source],
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
        results.append(_finish(found, artifacts[source], [folders[source, task.split] for task in tasks[source]]))
    evaluated = found[0]
    if asked.ensemble:
        tags = opened.gives_tags
        del opened
        found = [
            scored(
                tuple(runs),
                common,
                task.split,
                task.records,
                pools[task.split].answers([record.id for record in task.records], tags=tags),
                seconds=sum(row["seconds"] for row in results),
                partial=task.partial,
            )
            for task in tasks[runs[0]]
        ]
        evaluated = found[0]
        results.append(_finish(found, common, [together[task.split] for task in tasks[runs[0]]]))
    if asked.leaderboard is not None:
        text, ids = submission(common.task, evaluated.records, evaluated.answers, pools.get(asked.split))
        write_submission(asked.leaderboard, common.task, text, ids)
        told = " (partial: not to be submitted)" if evaluated.partial else ""
        say(f"wrote {asked.leaderboard}, {len(ids):,} {common.task} records, checked{told}\n")
        results[-1]["leaderboard"] = str(asked.leaderboard)
    last_line({"evaluated": results} if len(results) > 1 else results[0])


def _finish(found: list[Evaluation], data: DataArtifact, folders: list[Path]) -> dict[str, Any]:
    """Writes and shows the evaluations of one model, or of an ensemble: on a split and, if asked for, on its shifted set. Returns
    what the last line says of them."""
    from vldistill.evaluation.evaluate import part_of
    from vldistill.evaluation.results import metrics_table, write_evaluation
    from vldistill.evaluation.shifted import shift_result, shift_table

    shift = None
    if len(found) == 2 and all(one.metrics is not None for one in found):
        shift = shift_result(*found)
    for one, folder in zip(found, folders, strict=True):
        more = {"shift": shift} if shift is not None and one is found[-1] else {}
        write_evaluation(one, folder, data, **more)
        _show(one.name, data, one.split, one.partial, metrics_table(one), folder, one.seconds, part_of(one.records))
    if shift is not None:
        say(f"{found[0].name} on {data.folder}, standard and shifted")
        show(shift_table(shift, found[0].split))
        say()
    first = found[0]
    who = {"run": first.sources[0]} if len(first.sources) == 1 else {"ensemble": list(first.sources)}
    metrics = _rounded(first.metrics or {})
    return {
        **who,
        "split": first.split,
        **metrics,
        "seconds": round(sum(one.seconds for one in found), 2),
        **({"partial": True} if first.partial else {}),
        **({"drop": _rounded(shift.get("drop", {}))} if shift is not None else {}),
    }


def _rank(runs: list[str], artifacts: dict[str, DataArtifact], asked: Asked) -> None:
    """Retrieval."""
    from vldistill.commands.progress import Watching
    from vldistill.evaluation.captions import captions_table, evaluate_captions, write_captions
    from vldistill.evaluation.image_index import ImageIndex
    from vldistill.places import check_writable
    from vldistill.store.staging import staged_store
    from vldistill.store.uses import INDEX

    stored = ImageIndex(staged_store(asked.index, INDEX, say)) if asked.index is not None else None
    folders = {source: _folder(source, data, asked.split, replace(asked, ensemble=False)) for source, data in artifacts.items()}
    if asked.dry_run:
        _show_plan(
            runs,
            artifacts,
            {source: [_task(data, asked.split, asked)] for source, data in artifacts.items()},
            {(source, asked.split): folder for source, folder in folders.items()},
            {},
            asked,
        )
        return
    check_writable(*folders.values())
    results = []
    for source in runs:
        data, folder = artifacts[source], folders[source]
        with Watching() as watch:
            found = evaluate_captions(
                source, data, asked.split, batch=asked.batch, limit=asked.limit, workers=asked.workers, watch=watch, index=stored
            )
        write_captions(found, folder, data)
        seconds = sum(found.seconds.values())
        _show(source, data, asked.split, found.partial, captions_table(found), folder, seconds)
        results.append(
            {
                "run": source,
                "split": asked.split,
                **_rounded(found.metrics),
                "seconds": round(seconds, 2),
                **({"partial": True} if found.partial else {}),
            }
        )
    last_line({"evaluated": results} if len(results) > 1 else results[0])


def _show(
    name: str, data: DataArtifact, split: str, partial: bool, table: Table, folder: Path, seconds: float, part: str = "both"
) -> None:
    told = f", {part} only" * (part != "both") + " (partial)" * partial
    say(f"{name} on {data.folder}, {split}{told}")
    show(table)
    say(f"wrote {folder} after {seconds:.1f} s\n")


def _rounded(values: dict[str, Any]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items() if isinstance(value, int | float)}
