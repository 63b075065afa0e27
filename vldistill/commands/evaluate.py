"""`vldistill evaluate`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vldistill.commands.output import last_line, plan_table
from vldistill.commands.progress import Watching
from vldistill.data.artifact import DataArtifact
from vldistill.data.records import Record
from vldistill.errors import InputError
from vldistill.evaluation.captions import captions_table, evaluate_captions, write_captions
from vldistill.evaluation.evaluate import (
    BOTH,
    Evaluation,
    check_task,
    ensemble_folder,
    evaluate_split,
    evaluation_folder,
    load_data,
    part_of,
    scored,
    trained_part,
)
from vldistill.evaluation.image_index import ImageIndex
from vldistill.evaluation.leaderboard import check_leaderboard, other_rationales, submission, write_submission
from vldistill.evaluation.opened import open_model
from vldistill.evaluation.probabilities import Probabilities, check_members
from vldistill.evaluation.results import metrics_table, write_evaluation
from vldistill.evaluation.shifted import SUFFIX, shift_result, shift_table
from vldistill.models.base.checkpoint import read_spec, resolve_model
from vldistill.places import check_writable
from vldistill.store.staging import staged_store
from vldistill.store.uses import INDEX
from vldistill.terminal import Table, say, show

PARTS_OF_VCR = ("answers", "rationales", BOTH)


@dataclass(frozen=True)
class Asked:
    """The options of the command, by their names there."""

    data: Path | None
    split: str
    batch: int
    workers: int
    out: Path | None
    limit: int | None
    precision: str
    index: Path | None
    ensemble: bool
    part: str | None
    domain_shift: bool
    leaderboard: Path | None
    allow_partial: bool
    dry_run: bool

    @property
    def splits(self) -> list[str]:
        return [self.split, *[self.split + SUFFIX] * self.domain_shift]


@dataclass(frozen=True)
class Task:
    """What is to be done on one split. unscored: records that only a leaderboard file needs."""

    split: str
    records: list[Record]
    unscored: list[Record]
    partial: bool


def evaluate_command(runs: list[str], asked: Asked) -> None:
    """Evaluates each run, and all together where that is asked; the last line of standard output is JSON."""
    _check_options(runs, asked)
    artifacts = {source: load_data(asked.data, source) for source in runs}
    asked = _whole_test(asked, artifacts[runs[0]])
    if any(data.task == "caption" for data in artifacts.values()):
        _check_captions(artifacts, asked)
        _rank(runs, artifacts, asked)
        return
    _check_models(artifacts, asked)
    parts = _parts(artifacts, asked)
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


# --- what is refused ---------------------------------------------------------------------------------------------------------


def _check_options(runs: list[str], asked: Asked) -> None:
    if asked.ensemble and len({str(Path(source)) for source in runs}) < max(len(runs), 2):
        raise InputError("--ensemble averages two runs or more, each named once", hint="name another run")
    if asked.out is not None and len(runs) > 1 and not asked.ensemble:
        raise InputError("--out with several runs", hint="leave it out, so that each writes into its own folder")
    if asked.leaderboard is not None and len(runs) > 1 and not asked.ensemble:
        raise InputError("--leaderboard with several runs", hint="name one run, or average them with --ensemble")
    if asked.leaderboard is not None and asked.domain_shift:
        raise InputError("--leaderboard and --domain-shift", hint="give one of them; a shifted set has no leaderboard")


def _whole_test(asked: Asked, data: DataArtifact) -> Asked:
    """VQA's server reads files of all test questions alone, and scores those of test-dev among them. Raises InputError where the
    artifact has not got them."""
    if asked.leaderboard is None or data.task != "vqa" or asked.split != "test-dev":
        return asked
    if "test" not in data.splits:
        raise InputError(
            "has no split `test`, and the server wants an answer to every test question",
            where=str(data.folder),
            hint="prepare the data with v2_OpenEnded_mscoco_test2015_questions.json",
        )
    say("note: the file has all questions of test, as the server wants it; the server scores test-dev among them")
    return replace(asked, split="test")


def _check_captions(artifacts: dict[str, DataArtifact], asked: Asked) -> None:
    if asked.precision != "fp32":
        raise InputError("--precision is for tasks with answers; captions are ranked in fp32", hint="leave it out")
    for option, given in (
        ("--ensemble", asked.ensemble),
        ("--leaderboard", asked.leaderboard is not None),
        ("--domain-shift", asked.domain_shift),
    ):
        if given:
            raise InputError(f"{option} is for tasks with answers, not for captions", hint="leave it out")
    others = [source for source, data in artifacts.items() if data.task != "caption"]
    if others:
        raise InputError("answers questions, other runs rank captions", where=others[0], hint="evaluate them by themselves")


def _check_models(artifacts: dict[str, DataArtifact], asked: Asked) -> None:
    """All of them, before the first is loaded."""
    specs = {source: read_spec(resolve_model(source)) for source in artifacts}
    for source, data in artifacts.items():
        check_task(specs[source], data, source)
        if asked.domain_shift and asked.split + SUFFIX not in data.variants:
            raise InputError(
                f"has no {asked.split}{SUFFIX}",
                where=str(data.folder),
                hint="make it with: vldistill prepare "
                f"{data.manifest.get('dataset', data.task)} --domain-shift, and the --raw and --out of the artifact",
            )
    if asked.ensemble:
        (first, common), *others = artifacts.items()
        for source, data in others:
            if data.fingerprint != common.fingerprint:
                raise InputError(
                    f"was trained on {data.folder}, {first} on {common.folder}",
                    where=source,
                    hint="say on which data they are averaged, with --data",
                )
        check_members(specs)


def _parts(artifacts: dict[str, DataArtifact], asked: Asked) -> dict[str, str]:
    """Of VCR, the part that each run answers: what it was trained on, or what was asked for. Raises InputError where runs that
    are averaged differ in it, or a leaderboard wants answers that a run never learned to give."""
    if asked.part is not None and asked.part not in PARTS_OF_VCR:
        raise InputError(f"--part {asked.part}: no such part", hint=f"one of {', '.join(PARTS_OF_VCR)}")
    others = [source for source, data in artifacts.items() if data.task != "vcr"]
    if asked.part is not None and others:
        raise InputError(
            f"--part is for VCR, {artifacts[others[0]].folder} is of {artifacts[others[0]].task}",
            where=others[0],
            hint="leave it out",
        )
    own = {source: trained_part(source) for source in artifacts}
    parts = {source: asked.part or part for source, part in own.items()}
    if asked.ensemble and len(set(parts.values())) > 1:
        told = ", ".join(f"{source} on {part}" for source, part in parts.items())
        raise InputError(
            f"the runs were trained on different parts of VCR: {told}", hint="average runs of one part, or give --part"
        )
    lacking = [source for source, part in parts.items() if part != BOTH]
    if asked.leaderboard is not None and lacking:
        raise InputError(
            f"was trained on {parts[lacking[0]]} alone, and the leaderboard wants rationales and answers",
            where=lacking[0],
            hint="train it with data.part=both, or pass --part both to look at the format",
        )
    return parts


# --- what is to be done ------------------------------------------------------------------------------------------------------


def _task(data: DataArtifact, split: str, asked: Asked, part: str = BOTH) -> Task:
    records = data.records(split, part=part, limit=asked.limit)
    return Task(
        split,
        records,
        other_rationales(records) if asked.leaderboard is not None else [],
        bool(asked.limit or data.manifest.get("partial")),
    )


def _folder(source: str, data: DataArtifact, split: str, asked: Asked) -> Path:
    if asked.out is None or asked.ensemble:
        return evaluation_folder(source, data, split, asked.limit, asked.precision, asked.part)
    return asked.out / split if asked.domain_shift else asked.out


def _together(runs: list[str], data: DataArtifact, split: str, asked: Asked) -> Path:
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
    name: str, data: DataArtifact, split: str, partial: bool, table: Table, folder: Path, seconds: float, part: str = BOTH
) -> None:
    told = f", {part} only" * (part != BOTH) + " (partial)" * partial
    say(f"{name} on {data.folder}, {split}{told}")
    show(table)
    say(f"wrote {folder} after {seconds:.1f} s\n")


def _rounded(values: dict[str, Any]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items() if isinstance(value, int | float)}
