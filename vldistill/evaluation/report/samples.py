"""Records that some models of a report got right and others wrong, with their images: every model's answer side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from PIL import Image

from vldistill.artifacts import find_run
from vldistill.data.artifact import DataArtifact, open_data
from vldistill.data.records import Record
from vldistill.errors import InputError
from vldistill.evaluation.report.grid import Group
from vldistill.evaluation.report.runs import RunRecord
from vldistill.evaluation.results import question_of, right_answer, shown_answer
from vldistill.models.base.weights import digest_of_weights
from vldistill.places import read_regular

TEACHER = "teacher"
_THUMBNAIL = 240  # pixels of the longer side


@dataclass(frozen=True)
class Given:
    """A model's answer. score: in [0, 1], None without labels."""

    model: str
    answer: str
    confidence: float
    score: float | None


@dataclass(frozen=True)
class SampleCard:
    """A record. truth: what would have been right, "" where it is not known. given: with the teacher's first, if it is there."""

    id: str
    images: tuple[Image.Image, ...]
    text: str
    truth: str
    given: tuple[Given, ...]


@dataclass(frozen=True)
class SampleSet:
    """title: split and data. note: what is missing, and how to get it."""

    title: str
    cards: tuple[SampleCard, ...]
    note: str = ""


Rows = dict[str, dict[str, Any]]


def sample_sets(groups: Sequence[Group], count: int) -> list[SampleSet]:
    """For each data set at most `count` records of one split, half of them such that the first model of the best score is right,
    half such that it is wrong; those on which models differ come first."""
    by_data: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        if group.whole and group.whole[0].data is not None and group.whole[0].task != "caption":
            by_data.setdefault((str(group.whole[0].data), group.whole[0].data_fingerprint), []).append(group)
    sets = (_of_data(Path(folder), fingerprint, own, count) for (folder, fingerprint), own in by_data.items())
    return [one for one in sets if one]


def _of_data(folder: Path, fingerprint: str, groups: list[Group], count: int) -> SampleSet | None:
    runs = [group.whole[0] for group in groups]
    split = _shared_split(runs, fingerprint)
    if split is None:
        return None
    title = f"{folder.name}, {split}"
    named = (lambda group: group.variant) if len({group.recipe for group in groups}) == 1 else (lambda group: group.name)
    try:
        data = open_data(folder)
        if data.fingerprint != fingerprint:
            return SampleSet(title, (), f"{folder} has been made anew since, so its records are not shown.")
        records = {record.id: record for record in data.records(split)}
        teacher, note = _teacher(runs, split, fingerprint)
        predictions = {
            named(group): rows
            for group, run in zip(groups, runs, strict=True)
            if run.folder.resolve() != teacher and (rows := _predictions(run.folder, split)) is not None
        }
        teachers = {TEACHER: _predictions(teacher, split) or {}} if teacher else {}
        chosen = choose(predictions, count)
        everyone = {**teachers, **predictions}
        cards = tuple(_card(records[identifier], everyone, data) for identifier in chosen if identifier in records)
    except InputError as error:
        return SampleSet(title, (), f"Its records cannot be shown: {error}")
    return SampleSet(title, cards, note)


def _shared_split(runs: list[RunRecord], fingerprint: str) -> str | None:
    """The split that most runs were evaluated on, of these runs' own data."""
    counts: dict[str, int] = {}
    for run in runs:
        for split, metrics in run.scores.items():
            if metrics.get("data") == fingerprint and not metrics.get("partial") and metrics.get("split") == split:
                counts[split] = counts.get(split, 0) + 1
    return max(counts, key=lambda split: (counts[split], split), default=None)


def _predictions(folder: Path, split: str) -> Rows | None:
    """By record id; None where there are none."""
    path = folder / "eval" / split / "predictions.jsonl"
    if not path.exists():
        return None
    try:
        rows = [json.loads(line) for line in read_regular(path).decode().splitlines() if line.strip()]
        return {str(row["id"]): row for row in rows if "prediction" in row}
    except (ValueError, KeyError, TypeError):
        raise InputError("cannot be read", where=str(path), hint="evaluate the run again") from None


def _teacher(runs: list[RunRecord], split: str, fingerprint: str) -> tuple[Path | None, str]:
    """The run of the fusion teacher that the runs name, where it has been evaluated on the same; else what to do for it."""
    named = dict.fromkeys(
        (source, run.teacher, run.taught_by) for run in runs if (source := (run.settings.get("teacher") or {}).get("model"))
    )
    for source, meant, weights in named:
        # As the run named it: from where it was called, which is above `runs/`.
        places = [meant.parent] if meant is not None and meant.is_dir() else []
        for place in (*places, *(base / source for base in (Path(), *runs[0].folder.resolve().parents))):
            if not place.is_dir():
                continue
            try:
                folder = find_run(place)
                metrics = json.loads(read_regular(folder / "eval" / split / "metrics.json"))
            except (InputError, OSError, ValueError):
                metrics = {}
            if metrics.get("data") == fingerprint:
                if weights is not None and digest_of_weights(folder / "model") != weights:
                    return None, f"{source} is another model by now than the one that taught these runs"
                return folder.resolve(), ""
            return None, f"The teacher's answers are missing: vldistill evaluate {source} --split {split}"
    return None, ""


def choose(predictions: dict[str, Rows], count: int) -> list[str]:
    """Ids: right ones and wrong ones of the best model by turns, those on which the models' scores differ most first."""
    if not predictions:
        return []
    scores = {
        name: {key: row["score"] for key, row in rows.items() if row.get("score") is not None}
        for name, rows in predictions.items()
    }
    means = {name: sum(values.values()) / len(values) for name, values in scores.items() if values}
    if not means:
        return list(next(iter(predictions.values())))[:count]
    best = scores[max(means, key=lambda name: means[name])]

    def disagreement(identifier: str) -> float:
        own = [values[identifier] for values in scores.values() if identifier in values]
        return max(own) - min(own)

    # Neighbours in a file are often of one image, so that ids are mixed, always alike.
    ordered = sorted(best, key=lambda identifier: (-disagreement(identifier), crc32(identifier.encode())))
    right = [identifier for identifier in ordered if best[identifier] >= 0.5]
    wrong = [identifier for identifier in ordered if best[identifier] < 0.5]
    half = max(count - min(len(wrong), count // 2), 0)
    chosen = [*right[:half], *wrong[: count - min(half, len(right))]]
    return chosen[:count]


def _card(record: Record, rows_of: dict[str, Rows], data: DataArtifact) -> SampleCard:
    images = tuple(_thumbnail(data.images.turned(upright=True).open(path)) for path in record.images)
    given = tuple(
        Given(name, shown_answer(row, record), float(row.get("confidence", 0)), row.get("score"))
        for name, rows in rows_of.items()
        if (row := rows.get(record.id)) is not None
    )
    return SampleCard(record.id, images, " / ".join(question_of(record)), right_answer(record, data.labels) or "", given)


def _thumbnail(image: Image.Image) -> Image.Image:
    """Small images are enlarged, by whole factors, so that their pixels stay sharp."""
    longest = max(image.size)
    if longest * 2 <= _THUMBNAIL:
        factor = _THUMBNAIL // longest
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return image
