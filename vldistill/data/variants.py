"""Variants of a split, beside it in its artifact: low-shot draws, the domain-shifted evaluation set, statements (ADVL, A.1, A.3).

Each is a file of records with an entry of its own in the manifest (`variants`), which names its parent split. It can be trained
on or evaluated like a split: `data.train=train-lowshot100-seed0`, `--split val-shift`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vldistill.artifacts import file_digest
from vldistill.data.answers import majority_answer
from vldistill.data.lowshot import LOWSHOT_RULES, draw
from vldistill.data.records import Record
from vldistill.data.shift import SNLI_VE_RULES, VQA_RULES, WordRules, shift_plural, shift_singular, shift_words
from vldistill.data.statements import vcr_statement, vqa_statement
from vldistill.data.wording import Phrase, reworded
from vldistill.errors import InputError

SEEDS = (0, 1, 2, 3)
SHIFTED = ("val", "test")
_SHIFTS = {"singular": shift_singular, "plural": shift_plural}
_WORD_RULES: dict[str, WordRules] = {"snli_ve": SNLI_VE_RULES, "vqa": VQA_RULES}


@dataclass(frozen=True)
class Variants:
    """What is asked for. lowshot: numbers per type, each drawn with each of `seeds`. shift, statements: whether to make them."""

    lowshot: tuple[int, ...] = ()
    seeds: tuple[int, ...] = SEEDS
    shift: bool = False
    statements: bool = False

    def __bool__(self) -> bool:
        return bool(self.lowshot or self.shift or self.statements)

    def check(self, task: str) -> None:
        """Raises InputError where a variant is not defined for a task."""
        if self.lowshot and task not in LOWSHOT_RULES:
            raise InputError(f"--lowshot means nothing for {task}", hint=f"it is for {', '.join(LOWSHOT_RULES)}")
        for name, asked, known in (("--domain-shift", self.shift, SHIFTS), ("--statements", self.statements, STATEMENTS)):
            if asked and task not in known:
                raise InputError(f"{name} means nothing for {task}", hint=f"it is for {', '.join(known)}")
        if any(number < 1 for number in self.lowshot) or any(seed < 0 for seed in self.seeds) or not self.seeds:
            raise InputError("--lowshot takes numbers of 1 or more, --seeds of 0 or more", hint="--lowshot 100 --seeds 0,1,2,3")

    def names(self, splits: list[str], labelled: list[str]) -> list[str]:
        """The variants asked for, of an artifact with these splits, some of which have labels."""
        names = [f"train-lowshot{number}-seed{seed}" for number in self.lowshot for seed in self.seeds]
        names += [f"{split}-shift" for split in SHIFTED if self.shift and split in labelled]
        names += ["train-statements"] * self.statements
        missing = "train" if (self.lowshot or self.statements) and "train" not in splits else None
        if self.shift and not any(split in labelled for split in SHIFTED):
            missing = "val"
        if missing:
            raise InputError(f"there is no labelled {missing} split to make the variant from", hint="prepare the whole data set")
        return names


def make_variants(folder: Path, out: Path, task: str, labels: list[str] | None, names: list[str]) -> dict[str, dict[str, Any]]:
    """Reads splits of the artifact `folder` and writes `out/<name>.jsonl` for each name of `Variants.names`; returns their
    manifest entries."""
    entries: dict[str, dict[str, Any]] = {}
    draws = [name for name in names if "-lowshot" in name]
    if draws:
        entries |= _draw_all(folder, out, task, labels or [], draws)
    for name in names:
        parent, _, kind = name.partition("-")
        if kind == "shift":
            entries[name] = _rewrite(folder, out, parent, name, SHIFTS[task])
        elif kind == "statements":
            entries[name] = _rewrite(folder, out, parent, name, STATEMENTS[task])
    for name, entry in entries.items():
        entry["sha256"] = file_digest(out / f"{name}.jsonl")
    return entries


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield line, json.loads(line)


def _draw_all(folder: Path, out: Path, task: str, labels: list[str], names: list[str]) -> dict[str, dict[str, Any]]:
    source = folder / "train.jsonl"
    records = [_light(row, task) for _, row in _lines(source)]
    entries, chosen = {}, {}
    for name in names:
        number, seed = (int(part) for part in name.removeprefix("train-lowshot").split("-seed"))
        drawn = draw(records, task, number, seed, labels)
        chosen[name] = {record.id for record in drawn.records}
        by_type = {kind: asdict(count) for kind, count in drawn.by_type.items()}
        entries[name] = {
            "kind": "lowshot",
            "parent": "train",
            "per_type": number,
            "seed": seed,
            "unit": drawn.unit,
            "records": len(drawn.records),
            "by_type": by_type,
        }
    for name in names:
        with (out / f"{name}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(line for line, row in _lines(source) if row["id"] in chosen[name])
    return entries


def _light(row: dict[str, Any], task: str) -> Record:
    """Only what a draw reads, since it looks at the whole split at once."""
    text = row["text"][:4] if task == "vqa" else []
    answers, given = [""] if row.get("answers") else None, [] if "given" in row else None
    label, kind = row.get("label"), row.get("type")
    return Record(row["id"], row["task"], row["images"], text, label=label, answers=answers, type=kind, given=given)


Rewrite = Callable[[dict[str, Any], Counter[str]], dict[str, Any] | None]
"""A record's row to its variant's, or None where it has none; the counter takes what is to be told."""


def _rewrite(folder: Path, out: Path, parent: str, name: str, change: Rewrite) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    written = 0
    with (out / f"{name}.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for _, row in _lines(folder / f"{parent}.jsonl"):
            counts["of records"] += 1
            changed = change(row, counts)
            if changed is not None:
                written += 1
                file.write(json.dumps(changed, ensure_ascii=False) + "\n")
    return {"kind": name.partition("-")[2], "parent": parent, "records": written, "told": dict(counts)}


def _shift_vcr(row: dict[str, Any], counts: Counter[str]) -> dict[str, Any] | None:
    """Answers and rationales each by their own label. A question that both rules select is singular."""
    part = "answers" if row.get("given") is None else "rationales"
    for name, shift in _SHIFTS.items():
        shifted = shift(row["text"], row["choices"], row["label"], row["objects"])
        if shifted is None:
            continue
        counts[f"{name}: {part} selected"] += 1
        counts[f"{name}: choices of {part} eligible"] += sum(shifted.eligible)
        counts[f"{name}: choices of {part} changed"] += sum(shifted.changed)
        new = {**row, "choices": shifted.choices, "meta": {**row.get("meta", {}), "shift": name}}
        if row.get("given") is not None:
            # The answer to be justified is the right one, as the shifted Q->A shows it.
            new["given"] = shift(row["text"], [row["given"]], 0, row["objects"]).choices[0]
        return new
    return None


def _shift_words(task: str) -> Rewrite:
    def change(row: dict[str, Any], counts: Counter[str]) -> dict[str, Any]:
        words, replaced = shift_words(row["text"], _WORD_RULES[task])
        if row.get("written") is not None:
            row = {**row, "written": reworded(Phrase(row["text"], row["written"]), words)}
        counts["records changed"] += replaced > 0
        counts["replacements"] += replaced
        return {**row, "text": words}

    return change


def _state_vcr(row: dict[str, Any], counts: Counter[str]) -> dict[str, Any] | None:
    if row.get("given") is not None:
        return None
    statement = vcr_statement(row["text"], row["choices"][row["label"]])
    counts["questions"] += 1
    counts[f"template {statement.template}"] += 1
    return _caption(row, statement.words, statement.template)


def _state_vqa(row: dict[str, Any], counts: Counter[str]) -> dict[str, Any]:
    answer = majority_answer(row["answers"]).split()
    written = None if row.get("written") is None else " ".join([row["written"], *answer])
    return _caption(row, vqa_statement(row["text"], answer).words, row.get("type"), written)


def _state_snli_ve(row: dict[str, Any], counts: Counter[str]) -> dict[str, Any] | None:
    if row["label"] != ENTAILMENT:
        return None
    return _caption(row, row["text"], None, row.get("written"))


def statements_of(records: Sequence[Record]) -> list[Record]:
    """The statements of one task's records, as `--statements` makes them: ADVL's matched pairs. A QA->R record has that of its
    question, once where several are of one question; hypotheses that are not entailed have none. Raises InputError for a task
    without a rule for them."""
    task = records[0].task
    if task not in STATEMENTS:
        raise InputError(f"there are no statements for {task}", hint=f"there are for {', '.join(STATEMENTS)}")
    changed = (STATEMENTS[task](json.loads(record.to_json()), Counter()) for record in _questions(records))
    return [Record(**row) for row in changed if row is not None]


def _questions(records: list[Record]) -> Iterator[Record]:
    """The records; those that ask for a rationale as the question before them, unless it is there itself."""
    known = {record.id for record in records if record.given is None}
    for record in records:
        if record.given is None:
            yield record
        elif (question := record.id.partition(":")[0]) not in known:
            known.add(question)
            yield replace(record, choices=[record.given], label=0, given=None)


def _caption(row: dict[str, Any], words: list, kind: str | None, written: str | None = None) -> dict[str, Any]:
    record = Record(row["id"], "caption", row["images"], words, type=kind, objects=row.get("objects"), written=written)
    return json.loads(record.to_json())


ENTAILMENT = 1  # of contradiction, entailment, neutral
SHIFTS: dict[str, Rewrite] = {"vcr": _shift_vcr, "snli_ve": _shift_words("snli_ve"), "vqa": _shift_words("vqa")}
STATEMENTS: dict[str, Rewrite] = {"vcr": _state_vcr, "vqa": _state_vqa, "snli_ve": _state_snli_ve}
