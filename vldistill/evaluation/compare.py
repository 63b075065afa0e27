"""Two evaluations of the same records, answer by answer: which changed, of which types, and whether the difference is chance."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from vldistill.artifacts import MANIFEST, find_run
from vldistill.errors import InputError
from vldistill.evaluation.results import read_results
from vldistill.metrics.scores import RESAMPLES, bootstrap_interval, mcnemar_exact

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
