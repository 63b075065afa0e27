"""What the leaderboards' servers would refuse, on hand-made files in the published formats."""

from __future__ import annotations

import csv
import io
import json

import pytest

from vldistill.evaluation.leaderboard import faults_of

# As rowanz/r2c's models/README.md prints it.
HEADER = (
    "annot_id,answer_0,answer_1,answer_2,answer_3,rationale_conditioned_on_a0_0,rationale_conditioned_on_a0_1,"
    "rationale_conditioned_on_a0_2,rationale_conditioned_on_a0_3,rationale_conditioned_on_a1_0,rationale_conditioned_on_a1_1,"
    "rationale_conditioned_on_a1_2,rationale_conditioned_on_a1_3,rationale_conditioned_on_a2_0,rationale_conditioned_on_a2_1,"
    "rationale_conditioned_on_a2_2,rationale_conditioned_on_a2_3,rationale_conditioned_on_a3_0,rationale_conditioned_on_a3_1,"
    "rationale_conditioned_on_a3_2,rationale_conditioned_on_a3_3"
)
IDS = ["test-0", "test-1"]


def vcr(changes: dict[tuple[int, int], str] | None = None, header: str = HEADER) -> str:
    """Two rows of distributions; changes: cells by (row, column)."""
    rows = [[name, *["0.1", "0.2", "0.3", "0.4"] * 5] for name in IDS]
    for (row, column), cell in (changes or {}).items():
        rows[row][column] = cell
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([header.split(","), *rows])
    return file.getvalue()


def test_a_vcr_file_that_is_accepted():
    assert faults_of("vcr", vcr(), IDS) == []
    assert faults_of("vcr", vcr({(0, 1): "0.1000004"}), IDS) == []


@pytest.mark.parametrize(
    "text, fault",
    [
        (vcr({(0, 1): "nan"}), "test-0, answer: holds a value outside 0 to 1"),
        (vcr({(1, 20): "1.4"}), "test-1, rationale_conditioned_on_a3: holds a value outside"),
        (vcr({(1, 5): "-0.1"}), "test-1, rationale_conditioned_on_a0: holds a value outside"),
        (vcr({(0, 9): "0.2"}), "test-0, rationale_conditioned_on_a1: sums to 1.100000"),
        (vcr({(0, 4): ""}), "test-0, answer: holds something that is no number"),
        (vcr({(1, 0): "test-0"}), "test-0 is there 2 times"),
        (vcr({(1, 0): "test-0"}), "1 of 2 ids are missing, such as test-1"),
        (vcr({(1, 0): "val-1"}), "1 ids are not of the split, such as val-1"),
        (vcr().rsplit("\n", 2)[0] + "\n", "1 of 2 ids are missing"),
        (vcr()[: vcr().rindex(",")] + "\n", "line 3 has 20 columns of 21"),
        (vcr(header=HEADER.replace("a1_0,", "a1_9,")), "the header is not annot_id, answer_0"),
        (vcr(header=HEADER.replace("answer_0,answer_1", "answer_1,answer_0")), "the header is not"),
        ("", "the header is not"),
    ],
)
def test_vcr_files_that_are_not(text, fault):
    assert any(fault in found for found in faults_of("vcr", text, IDS))


def test_a_vqa_file_that_is_accepted():
    rows = [{"question_id": 262144000, "answer": "yes"}, {"question_id": 1, "answer": "2"}]
    assert faults_of("vqa", json.dumps(rows), ["1", "262144000"]) == []


@pytest.mark.parametrize(
    "rows, fault",
    [
        ([{"question_id": "1", "answer": "yes"}], "question_id '1' is not a whole number"),
        ([{"question_id": True, "answer": "yes"}], "question_id True is not a whole number"),
        ([{"question_id": 1, "answer": 2}], "the answer to 1 is not a text: 2"),
        ([{"question_id": 1, "answer": None}], "is not a text"),
        ([{"question_id": 1, "answer": "a", "score": 1}], "an entry is not {question_id, answer}"),
        ([["1", "a"]], "an entry is not"),
        ({"question_id": 1, "answer": "a"}, "not a list"),
        ([{"question_id": 1, "answer": "a"}] * 2, "1 is there 2 times"),
        ([], "1 of 1 ids are missing, such as 1"),
        ([{"question_id": 1, "answer": "a"}, {"question_id": 7, "answer": "a"}], "not of the split, such as 7"),
    ],
)
def test_vqa_files_that_are_not(rows, fault):
    assert any(fault in found for found in faults_of("vqa", json.dumps(rows), ["1"]))
    assert faults_of("vqa", "[{", ["1"])[0].startswith("not JSON")


def test_nlvr2_files():
    ids = ["test1-0-0-0", "test1-0-1-0"]
    good = "test1-0-0-0,True\ntest1-0-1-0,False\n"
    assert faults_of("nlvr2", good, ids) == []
    for text, fault in (
        (good.replace("True", "yes"), "line 1 is not"),
        ("identifier,prediction\n" + good, "line 1 is not"),
        (good + good, "test1-0-0-0 is there 2 times"),
        (good.splitlines()[0], "1 of 2 ids are missing"),
        (good.replace(",", " "), "line 1 is not"),
        (good + "\n", "line 3 is not"),
    ):
        assert any(fault in found for found in faults_of("nlvr2", text, ids)), text
