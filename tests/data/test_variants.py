"""Low-shot draws, domain shift and statements as files beside their splits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vldistill.data.artifact import open_data
from vldistill.data.lowshot import VCR_SHARES
from vldistill.data.prepare import prepare
from vldistill.data.records import Record
from vldistill.data.variants import Variants, make_variants, statements_of
from vldistill.errors import InputError

OPENINGS = {
    "explanation": "why is",
    "activity": "what is he doing to",
    "temporal": "what happened before",
    "mental": "is he upset at",
    "role": "what is the occupation of",
    "scene": "where is",
    "hypothetical": "what would be if not for",
}


def vcr_rows(count: int) -> list[Record]:
    """`count` questions of each type, each with Q->A and QA->R; person 0 is asked about, person 1 and a car are there."""
    rows = []
    for kind, opening in OPENINGS.items():
        for i in range(count):
            question = [*opening.split(), [0], "?"]
            answers = [[[0], "runs", "."], ["He", "sits", "."], [[1], "eats", "."], ["the", [2], "is", "red", "."]]
            objects = ["person", "person", "car"]
            common = {"task": "vcr", "images": [f"{i}.jpg"], "text": question, "type": kind, "objects": objects}
            rows.append(Record(f"{kind}-{i}", choices=answers, label=0, **common))
            rows.append(Record(f"{kind}-{i}:r", choices=answers, label=1, given=answers[0], **common))
    return rows


def write(folder: Path, split: str, records: list[Record]) -> None:
    (folder / f"{split}.jsonl").write_text("".join(record.to_json() + "\n" for record in records), encoding="utf-8")


def read(folder: Path, name: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_draw_keeps_both_records_of_a_question_and_says_what_is_short(tmp_path):
    write(tmp_path, "train", [record for record in vcr_rows(5) if record.id not in ("role-3", "role-3:r", "role-4", "role-4:r")])
    names = [f"train-lowshot4-seed{seed}" for seed in (0, 1)]
    entries = make_variants(tmp_path, tmp_path, "vcr", None, names)
    for seed, name in enumerate(names):
        rows, entry = read(tmp_path, name), entries[name]
        ids = {row["id"] for row in rows}
        assert all((f"{row}:r" in ids) for row in ids if not row.endswith(":r"))
        assert entry["records"] == len(rows) == 2 * (6 * 4 + 3) and entry["seed"] == seed and entry["parent"] == "train"
        assert {kind: part["got"] for kind, part in entry["by_type"].items()} == {**dict.fromkeys(VCR_SHARES, 4), "role": 3}
    assert read(tmp_path, names[0]) != read(tmp_path, names[1])
    source = (tmp_path / "train.jsonl").read_text().splitlines()
    assert set((tmp_path / f"{names[0]}.jsonl").read_text().splitlines()) <= set(source)


def test_the_shift_rewrites_answers_and_rationales_by_their_own_labels(tmp_path):
    write(tmp_path, "val", vcr_rows(1))
    entry = make_variants(tmp_path, tmp_path, "vcr", None, ["val-shift"])["val-shift"]
    rows = {row["id"]: row for row in read(tmp_path, "val-shift")}
    answers, rationales = rows["scene-0"], rows["scene-0:r"]
    assert answers["choices"] == [["He", "runs", "."], [[0], "sits", "."], [[0], "eats", "."], ["the", [2], "is", "red", "."]]
    assert rationales["choices"] == [[[0], "runs", "."], ["He", "sits", "."], [[0], "eats", "."], ["the", [2], "is", "red", "."]]
    assert rationales["given"] == ["He", "runs", "."] and rationales["label"] == 1
    assert answers["text"] == ["where", "is", [0], "?"] and answers["meta"] == {"shift": "singular"}
    assert entry["told"]["singular: answers selected"] == 7 and entry["told"]["singular: choices of answers eligible"] == 21
    assert entry["told"]["of records"] == entry["records"] == 14


def test_statements_are_captions_of_right_answers_only(tmp_path):
    write(tmp_path, "train", vcr_rows(1))
    entry = make_variants(tmp_path, tmp_path, "vcr", None, ["train-statements"])["train-statements"]
    rows = read(tmp_path, "train-statements")
    assert len(rows) == entry["told"]["questions"] == 7 and all(row["task"] == "caption" and "choices" not in row for row in rows)
    assert sum(count for what, count in entry["told"].items() if what.startswith("template")) == 7
    assert all([0] in row["text"] for row in rows)


def test_a_question_has_one_statement_whichever_of_its_records_are_there():
    both = vcr_rows(1)
    answers, rationales = both[::2], both[1::2]
    stated = {row.id: row.text for row in statements_of(answers)}
    assert len(stated) == 7 and {row.id: row.text for row in statements_of(both)} == stated
    assert {row.id.removesuffix(":r"): row.text for row in statements_of(rationales)} == stated
    # Rationales of all four answers, as a test split has them.
    several = [replace(row, id=f"{row.id}{place}", label=None) for row in rationales for place in range(4)]
    assert [row.text for row in statements_of(several)] == list(stated.values())


def snli_ve(name: str, image: str, label: int, text: str = "A man runs .") -> Record:
    return Record(name, "snli_ve", [image], text.split(), label=label)


def test_snli_ve(tmp_path):
    rows = [snli_ve(f"{i}-{label}", f"{i}.jpg", label) for i in range(6) for label in range(3)]
    write(tmp_path, "train", rows)
    write(tmp_path, "val", [*rows, snli_ve("last", "9.jpg", 0, "Two dogs run .")])
    names = ["train-lowshot1-seed0", "val-shift", "train-statements"]
    entries = make_variants(tmp_path, tmp_path, "snli_ve", ["contradiction", "entailment", "neutral"], names)
    assert entries[names[0]]["unit"] == "images" and entries[names[0]]["records"] == 9
    assert {" ".join(row["text"]) for row in read(tmp_path, "val-shift")} == {"A male runs .", "Two dogs run ."}
    assert entries["val-shift"]["told"] == {"of records": 19, "records changed": 18, "replacements": 18}
    assert [row["id"] for row in read(tmp_path, "train-statements")] == [f"{i}-1" for i in range(6)]


def test_vqa(tmp_path):
    questions = [("What color is the bus ?", "red"), ("Is it a dog ?", "yes"), ("How many dogs are there ?", "2")]
    rows = [
        Record(f"{i}-{k}", "vqa", [f"{i}.jpg"], text.split(), answers=[answer] * 10, type="other")
        for i in range(3)
        for k, (text, answer) in enumerate(questions)
    ]
    write(tmp_path, "train", rows)
    entries = make_variants(tmp_path, tmp_path, "vqa", None, ["train-lowshot1-seed0", "train-statements"])
    assert len(entries["train-lowshot1-seed0"]["by_type"]) == 8 and entries["train-lowshot1-seed0"]["records"] == 3
    assert read(tmp_path, "train-statements")[0]["text"] == ["What", "color", "is", "the", "bus", "?", "red"]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (Variants(lowshot=(100,)), "--lowshot means nothing for nlvr2"),
        (Variants(shift=True), "--domain-shift means nothing"),
        (Variants(statements=True), "--statements means nothing"),
    ],
)
def test_a_task_without_rules_is_refused(asked, reason):
    with pytest.raises(InputError, match=reason):
        asked.check("nlvr2")


def test_numbers_out_of_range_and_missing_splits_are_refused():
    for asked in (Variants(lowshot=(0,)), Variants(lowshot=(1,), seeds=())):
        with pytest.raises(InputError, match="1 or more"):
            asked.check("vcr")
    with pytest.raises(InputError, match="no labelled train split"):
        Variants(lowshot=(1,)).names(["val"], ["val"])
    with pytest.raises(InputError, match="no labelled val split"):
        Variants(shift=True).names(["train", "test"], ["train"])


# --- through `prepare` -------------------------------------------------------------------------------------------------


@pytest.fixture
def raw(tmp_path):
    from raw_worlds import vqa_world

    vqa_world(tmp_path / "raw")
    return tmp_path / "raw"


def test_a_second_run_changes_nothing_and_adds_what_is_missing(raw, tmp_path, tree):
    from vldistill.data.sources.vqa import Vqa

    options, out = Vqa(min_answer_count=1), tmp_path / "out"
    first = prepare("vqa", raw, out, options=options, variants=Variants(lowshot=(1,), seeds=(0,)))
    before = tree(out)
    again = prepare("vqa", raw, out, options=options, variants=Variants(lowshot=(1,), seeds=(0,)))
    assert again["unchanged"] and "added" not in again and tree(out) == before
    more = prepare("vqa", raw, out, options=options, variants=Variants(lowshot=(1,), seeds=(0, 1), statements=True))
    assert more["added"] == ["train-lowshot1-seed1", "train-statements"]
    data = open_data(out)
    assert data.fingerprint == first["fingerprint"]  # what was trained on it stays valid
    assert set(data.splits) == {"train", "val", "train-lowshot1-seed0", "train-lowshot1-seed1", "train-statements"}
    assert 0 < len(data.records("train-lowshot1-seed1")) <= 4
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_other_input_or_options_are_not_taken_for_the_same(raw, tmp_path):
    from vldistill.data.sources.vqa import Vqa

    out = tmp_path / "out"
    prepare("vqa", raw, out, options=Vqa(min_answer_count=1))
    with pytest.raises(InputError, match="already exists"):
        prepare("vqa", raw, out, options=Vqa(min_answer_count=2))
    image = next((raw / "train2014").iterdir())
    image.write_bytes(image.read_bytes() + b"\0")
    with pytest.raises(InputError, match="already exists"):
        prepare("vqa", raw, out, options=Vqa(min_answer_count=1))


def test_an_edited_variant_is_refused(raw, tmp_path):
    from vldistill.data.sources.vqa import Vqa

    out = tmp_path / "out"
    prepare("vqa", raw, out, options=Vqa(min_answer_count=1), variants=Variants(statements=True))
    (out / "train-statements.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="differs from what its manifest records"):
        open_data(out).records("train-statements")
