"""Leaderboard files of VCR, VQA and NLVR2 from answers, and whether a file's text is what its server reads, which is looked
at before anything is written. The check knows only the published formats and the ids that are due, nothing of how the file
was made.

- VCR (rowanz/r2c, models/README.md): a CSV with a header of `annot_id` and 20 columns of probabilities.
- VQA (visualqa.org/evaluation.html): a JSON list of {"question_id": int, "answer": str}.
- NLVR2 (lil-lab/nlvr, nlvr2/eval/metrics.py): lines of `identifier,True` or `identifier,False` without a header.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from vldistill.artifacts import write_files
from vldistill.data.artifact import DataArtifact
from vldistill.data.records import CHOICES, Record
from vldistill.errors import InputError
from vldistill.evaluation.evaluate import Probabilities
from vldistill.training.inference import Answer

GROUPS = ("answer", *(f"rationale_conditioned_on_a{answer}" for answer in range(4)))
"""VCR's questions: which answer, and for each answer, were it right, which rationale."""
COLUMNS = ("annot_id", *(f"{group}_{choice}" for group in GROUPS for choice in range(4)))
_TOLERANCE = 1e-4


def faults_of(task: str, text: str, ids: Sequence[str]) -> list[str]:
    """All that is wrong with the file's text, empty where it can be submitted. task: one of FORMATS. ids: of the records of the
    split, as the data artifact has them."""
    return FORMATS[task](text, ids)


def vcr_faults(text: str, ids: Sequence[str]) -> list[str]:
    """See `faults_of`; each group of four is a distribution."""
    rows = list(csv.reader(io.StringIO(text)))
    if not rows or tuple(rows[0]) != COLUMNS:
        return [f"the header is not {', '.join(COLUMNS[:3])} ... {COLUMNS[-1]}"]
    faults = [
        f"line {number} has {len(row)} columns of {len(COLUMNS)}"
        for number, row in enumerate(rows[1:], start=2)
        if len(row) != len(COLUMNS)
    ]
    if faults:
        return faults
    for row in rows[1:]:
        for group, start in zip(GROUPS, range(1, len(COLUMNS), 4), strict=True):
            fault = _distribution_fault(row[start : start + 4])
            if fault:
                faults.append(f"{row[0]}, {group}: {fault}")
    return faults + _id_faults([row[0] for row in rows[1:]], ids)


def vqa_faults(text: str, ids: Sequence[str]) -> list[str]:
    """See `faults_of`."""
    try:
        rows = json.loads(text)
    except ValueError as error:
        return [f"not JSON: {error}"]
    if not isinstance(rows, list):
        return ["not a list"]
    for row in rows:
        if not isinstance(row, dict) or row.keys() != {"question_id", "answer"}:
            return [f"an entry is not {{question_id, answer}}: {str(row)[:80]}"]
        if type(row["question_id"]) is not int:
            return [f"question_id {row['question_id']!r} is not a whole number"]
        if type(row["answer"]) is not str:
            return [f"the answer to {row['question_id']} is not a text: {row['answer']!r}"]
    return _id_faults([str(row["question_id"]) for row in rows], ids)


def nlvr2_faults(text: str, ids: Sequence[str]) -> list[str]:
    """See `faults_of`."""
    rows = [line.split(",") for line in text.splitlines()]
    faults = [
        f"line {number} is not `identifier,True` or `identifier,False`: {','.join(row)[:80]}"
        for number, row in enumerate(rows, start=1)
        if len(row) != 2 or row[1] not in ("True", "False")
    ]
    return faults or _id_faults([row[0] for row in rows], ids)


FORMATS: dict[str, Callable[[str, Sequence[str]], list[str]]] = {"vcr": vcr_faults, "vqa": vqa_faults, "nlvr2": nlvr2_faults}


def _distribution_fault(cells: Iterable[str]) -> str | None:
    try:
        values = [float(cell) for cell in cells]
    except ValueError:
        return "holds something that is no number"
    if not all(math.isfinite(value) and 0 <= value <= 1 for value in values):
        return f"holds a value outside 0 to 1: {', '.join(map(str, values))}"
    if abs(sum(values) - 1) > _TOLERANCE:
        return f"sums to {sum(values):.6f}"
    return None


def _id_faults(ids: Sequence[str], due: Sequence[str]) -> list[str]:
    """Each id that is due has to be there once, and no other."""
    counts, wanted = Counter(ids), Counter(due)
    faults = [f"{name} is there {count} times" for name, count in counts.items() if count > 1]
    missing = [name for name in wanted if name not in counts]
    strange = [name for name in counts if name not in wanted]
    if missing:
        faults.append(f"{len(missing):,} of {len(wanted):,} ids are missing, such as {missing[0]}")
    if strange:
        faults.append(f"{len(strange):,} ids are not of the split, such as {strange[0]}")
    return faults


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
