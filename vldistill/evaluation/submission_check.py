"""Whether the text of a leaderboard file is what its server reads. It knows only the published formats and the ids that are due,
nothing of how the file was made.

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
