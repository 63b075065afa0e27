"""Leaderboard files of VCR, VQA and NLVR2 from answers; checked by `submission_check` before anything is written."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vldistill.artifacts import write_files
from vldistill.data.artifact import DataArtifact
from vldistill.data.records import CHOICES, Record
from vldistill.errors import InputError
from vldistill.evaluation.probabilities import Probabilities
from vldistill.evaluation.submission_check import COLUMNS, FORMATS, faults_of
from vldistill.training.inference import Answer

_DIGITS = 6
_SHOWN = 3


def check_leaderboard(path: Path, data: DataArtifact, split: str, *, partial: bool, allow_partial: bool) -> None:
    """Raises InputError where there can be no file: the task has no leaderboard of a known format, the split is no official one,
    records are missing and that is not asked for, ids are not VQA's, or the file is there already."""
    if data.task not in FORMATS:
        raise InputError(
            f"there is no leaderboard file for {data.task}", where=str(data.folder), hint=f"there is for {', '.join(FORMATS)}"
        )
    if split in data.variants:
        raise InputError(f"{split} is not a split of the leaderboard", where=str(data.folder), hint="choose test, or val to try")
    if partial and not allow_partial:
        raise InputError(
            "a leaderboard file of some records only is worth nothing to its server",
            where=str(path),
            hint="leave out --limit and use whole data, or pass --allow-partial to look at the format",
        )
    if path.exists():
        raise InputError("already exists", where=str(path), hint="choose another name")


def other_rationales(records: Sequence[Record]) -> list[Record]:
    """VCR's QA->R for the three wrong answers of each labelled question, as `prepare` makes them for the unlabelled test split;
    the leaderboard asks for all four. None of other tasks."""
    answered = {record.id: record for record in records if record.choices and record.given is None}
    questions = []
    for record in records:
        if record.given is None or not record.id.endswith(":r"):
            continue
        question = answered.get(record.id.removesuffix(":r"))
        if question is None or question.label is None:
            continue
        questions += [
            replace(record, id=f"{record.id}{place}", given=words, label=None)
            for place, words in enumerate(question.choices)
            if place != question.label
        ]
    return questions


def submission(
    task: str, records: Sequence[Record], answers: Sequence[Answer], sure: Probabilities | None
) -> tuple[str, list[str]]:
    """The text of the file and the ids that are due in it: all, but for a VCR question that the last record cuts short. sure: of
    VCR, the probabilities of the choices of the records and of `other_rationales`."""
    if task == "vcr":
        return _vcr(records, sure)
    if task == "vqa":
        rows = [{"question_id": _number(given.id), "answer": given.prediction} for given in answers]
        return json.dumps(rows, ensure_ascii=False, separators=(",", ":")) + "\n", [record.id for record in records]
    return "".join(f"{given.id},{given.prediction}\n" for given in answers), [record.id for record in records]


def write_submission(path: Path, task: str, text: str, ids: Sequence[str]) -> None:
    """Writes the file whole. Raises InputError, and writes nothing, where it is not what the server reads."""
    faults = faults_of(task, text, ids)
    if faults:
        more = f", and {len(faults) - _SHOWN:,} more" if len(faults) > _SHOWN else ""
        raise InputError(
            f"would not be accepted, so it is not written: {'; '.join(faults[:_SHOWN])}{more}",
            where=str(path),
            hint="look at the run's predictions",
        )
    write_files({path: text})


def _vcr(records: Sequence[Record], sure: Probabilities) -> tuple[str, list[str]]:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    questions = [record for record in records if record.given is None]
    if questions and _last_rationale(questions[-1]) not in {record.id for record in records}:
        questions.pop()  # the first N records may end in the middle of a question
    for record in questions:
        # The labelled splits have one QA->R record a question, for the right answer.
        rows = [f"{record.id}:r" if place == record.label else f"{record.id}:r{place}" for place in range(CHOICES)]
        writer.writerow([record.id, *(f"{value:.{_DIGITS}f}" for value in sure.of([record.id, *rows]).flatten().tolist())])
    return file.getvalue(), [record.id for record in questions]


def _last_rationale(question: Record) -> str:
    return f"{question.id}:r" if question.label is not None else f"{question.id}:r{CHOICES - 1}"


def _number(name: str) -> int | str:
    """VQA's ids are numbers; others are left to the check."""
    return int(name) if name.isascii() and name.isdigit() else name
