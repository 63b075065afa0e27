"""Runs on disk as a report reads them: what a run was, how far it came, its curves, scores and cost.

Nothing here refuses a run that failed or is half-written: a report says so beside the others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vldistill.artifacts import CHECKSUM, MANIFEST, RUN_STAGES, check_digests, file_digest, is_intact
from vldistill.errors import InputError, Problems
from vldistill.places import read_regular
from vldistill.recipe.load import read_values

UNREADABLE = "unreadable"
_DEPTH = 4
"""Levels below a folder that are searched for runs."""


@dataclass(frozen=True)
class Cost:
    """Of a training. memory, gpu_memory: largest, in bytes. energy: in joules. None: not recorded."""

    seconds: float | None = None
    memory: int | None = None
    gpu_memory: int | None = None
    energy: float | None = None


@dataclass(frozen=True)
class RunRecord:
    """status: "complete", "running", "interrupted", "failed" or "unreadable". settings: the recipe as plain values, {} where it
    cannot be read. best: of the validations. curve: rows of metrics.jsonl. scores: metrics.json of each evaluation by the name of
    its folder. task: of the data. problem: what is wrong, or None. teacher, taught_by: the model folder of its fusion teacher,
    and what identified its weights."""

    folder: Path
    recipe: str
    variant: str
    seed: int
    stage: str
    status: str
    partial: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    task: str = ""
    data: Path | None = None
    data_fingerprint: str = ""
    device: str = ""
    cost: Cost = Cost()
    problem: str | None = None
    teacher: Path | None = None
    taught_by: str | None = None

    @property
    def complete(self) -> bool:
        return self.status == "complete"

    @property
    def flag(self) -> str | None:
        """Why its figures may not count, in a few words; None for a whole run."""
        if self.problem:
            return self.problem
        if not self.complete:
            return {"running": "not finished: running, or killed"}.get(self.status, self.status)
        return "partial: not on all data" if self.partial else None


def read_runs(sources: Iterable[Path]) -> list[RunRecord]:
    """The runs that are named, or lie below the named folders, each once, in the order of their paths. Raises InputError where a
    folder is missing, or holds none."""
    by_place: dict[Path, Path] = {}
    for source in sources:
        if not source.is_dir():
            raise InputError("no such folder", where=str(source), hint="name runs, or a folder that holds them, as runs/")
        folders = sorted(_run_folders(source), key=_natural)
        if not folders:
            raise InputError("holds no runs", where=str(source), hint="make one with `vldistill finetune` or `distill`")
        for folder in folders:
            by_place.setdefault(folder.resolve(), folder)
    return [_read(folder) for folder in by_place.values()]


def _run_folders(source: Path) -> Iterator[Path]:
    """A folder counts as a run by its manifest, or by the curve that a run whose manifest is broken has left."""
    if (source / MANIFEST).exists():
        if _is_run(source):
            yield source
        return
    for depth in range(1, _DEPTH + 1):
        for manifest in source.glob("*/" * depth + MANIFEST):
            parts = manifest.parent.relative_to(source).parts
            if not any(part.startswith(".") for part in parts) and _is_run(manifest.parent):
                yield manifest.parent


def _is_run(folder: Path) -> bool:
    manifest = _json(folder / MANIFEST)
    if manifest is None:
        return (folder / "metrics.jsonl").exists()
    return manifest.get("stage") in RUN_STAGES.split("|")


def _natural(path: Path) -> tuple:
    """Sorts seed10 behind seed9."""
    name = path.name
    digits = name[len(name.rstrip("0123456789")) :]
    return (path.parent, name.rstrip("0123456789"), int(digits or 0))


def _read(folder: Path) -> RunRecord:
    recipe, variant, seed = _named(folder)
    manifest = _json(folder / MANIFEST)
    if manifest is None:
        problem = _unreadable(folder, MANIFEST)
    elif not is_intact(manifest):
        problem = "its manifest.json was edited"
    else:
        try:
            return _of_manifest(folder, manifest)
        except (TypeError, ValueError, KeyError, AttributeError):
            problem = "its manifest.json is not one of a run"
    return RunRecord(folder, recipe, variant, seed, "", UNREADABLE, problem=problem, curve=_curve(folder))


def _of_manifest(folder: Path, manifest: dict[str, Any]) -> RunRecord:
    recipe, variant, seed = _named(folder)
    status = "complete" if manifest.get("complete") else str(manifest.get("status", "running"))
    settings, config = _settings(folder), _json(folder / "model" / "config.json") or {}
    parents = manifest.get("parents", {})
    data = Path(manifest["data"]) if "data" in manifest else None
    own = config.get("vldistill", {})
    return RunRecord(
        folder,
        str(manifest.get("recipe", recipe)),
        variant,
        int(manifest.get("seed", seed)),
        manifest["stage"],
        status,
        partial=bool(manifest.get("partial")),
        settings=settings,
        best=manifest.get("best", {}),
        curve=_curve(folder),
        scores=_scores(folder),
        task=own.get("task") or _task_of(data),
        data=data,
        data_fingerprint=str(parents.get("data", "")),
        device=str(manifest.get("device", "")),
        cost=_cost(manifest),
        taught_by=parents.get("teacher"),
        teacher=Path(meant["folder"]) if (meant := manifest.get("references", {}).get("teacher")) else None,
        problem=_problem(folder, manifest) if settings else _unreadable(folder, "recipe.yaml"),
    )


def _problem(folder: Path, manifest: dict[str, Any]) -> str | None:
    """What is wrong with the files that its figures come from."""
    try:
        for name in ("recipe.yaml", "metrics.jsonl", "model/config.json"):
            check_digests(folder, manifest, within=name)
    except InputError as error:
        return f"its {Path(error.where).name} {error.message}"
    for place in sorted(folder.glob("eval/*/")):
        path = place / "metrics.json"
        metrics = _json(path)
        if metrics is None and not (place / "predictions.jsonl").exists():
            continue
        if metrics is None:
            return _unreadable(folder, path.relative_to(folder))
        if not is_intact(metrics):
            return f"its {path.relative_to(folder)} was edited"
        try:
            check_digests(place, metrics)
        except InputError as error:
            return f"its {Path(error.where).relative_to(folder)} {error.message}"
    for path in sorted(folder.glob("figures/*.json")):
        figure = _json(path)
        if figure is None:
            return _unreadable(folder, path.relative_to(folder))
        if not is_intact(figure):
            return f"its {path.relative_to(folder)} was edited"
        for name, digest in figure.get("files", {}).items():
            if (path.parent / name).is_file() and file_digest(path.parent / name) != digest:
                return f"its {(path.parent / name).relative_to(folder)} differs from what was drawn"
    return None


def _unreadable(folder: Path, name: str | Path) -> str:
    """That a file cannot be read, and why where the disk or its permissions say so."""
    try:
        read_regular(folder / name)
    except OSError as error:
        return f"its {name} cannot be read: {error.strerror or error}"
    return f"its {name} cannot be read"


def _named(folder: Path) -> tuple[str, str, int]:
    """Recipe, variant and seed by the place of a run: runs/<recipe>/<variant>/seed<k>."""
    above = folder.resolve().parents
    digits = folder.name.removeprefix("seed")
    if folder.name != digits and digits.isdigit():
        return above[1].name, above[0].name, int(digits)
    return above[0].name, folder.name, 0


def _task_of(data: Path | None) -> str:
    manifest = _json(data / MANIFEST) if data is not None else None
    return str((manifest or {}).get("task", ""))


def _cost(manifest: dict[str, Any]) -> Cost:
    cost = manifest.get("cost", {})
    return Cost(manifest.get("wall_s"), cost.get("memory_bytes"), cost.get("gpu_memory_bytes"), cost.get("energy_j"))


def _settings(folder: Path) -> dict[str, Any]:
    try:
        values, _ = read_values(folder / "recipe.yaml", Problems())
    except (OSError, InputError):
        return {}
    return values if isinstance(values, dict) else {}


def _curve(folder: Path) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl; a line that was cut off when the run died is passed over."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    rows = []
    for line in read_regular(path).decode("utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def _scores(folder: Path) -> dict[str, dict[str, Any]]:
    by_split = {path.parent.name: _json(path) for path in sorted(folder.glob("eval/*/metrics.json"))}
    return {
        name: {key: value for key, value in metrics.items() if key not in (CHECKSUM, "files")}
        for name, metrics in by_split.items()
        if metrics is not None and is_intact(metrics)
    }


def _json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(read_regular(path))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def start_of(run: RunRecord) -> dict[str, Any]:
    """The recipe of the run that this one started from, {} where it started from something else, or that is gone."""
    init = run.settings.get("student", {}).get("init")
    if not init:
        return {}
    # As the run named it: from where it was called, which is above `runs/`.
    for base in (Path(), *run.folder.resolve().parents):
        folder = base / init
        if folder.is_dir():
            folders = [folder, *sorted(path.parent for path in folder.glob("*/*/recipe.yaml"))]
            return next((settings for one in folders if (settings := _settings(one))), {})
    return {}
