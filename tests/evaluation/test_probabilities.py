"""Averages over models, by hand: records by id, labels by name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vldistill.data.records import Record
from vldistill.errors import InputError
from vldistill.evaluation.evaluate import Probabilities, check_members
from vldistill.evaluation.leaderboard import other_rationales, submission, write_submission
from vldistill.models.base.checkpoint import ModelSpec
from vldistill.models.vilt.model import EncoderConfig
from vldistill.training.inference import Answer


def test_the_mean_is_taken_by_the_names_of_records_and_labels():
    pool = Probabilities(["q1", "q2", "q3"], ["no", "yes"])
    first, second = pool.member(["no", "yes"]), pool.member(["yes", "no"])
    first(["q1", "q2"], torch.tensor([[0.9, 0.1], [0.2, 0.8]]))
    first(["q3"], torch.tensor([[0.5, 0.5]]))
    second(["q3", "q1"], torch.tensor([[0.7, 0.3], [0.4, 0.6]]))  # yes, no
    second(["q2"], torch.tensor([[0.1, 0.9]]))
    # q1: no (0.9 + 0.6) / 2; q2: no (0.2 + 0.9) / 2; q3: no (0.5 + 0.3) / 2.
    assert pool.of(["q3", "q1"]).tolist() == [pytest.approx([0.4, 0.6]), pytest.approx([0.75, 0.25])]
    given = pool.answers(["q1", "q2", "q3"])
    assert [(one.id, one.prediction, one.confidence) for one in given] == [
        ("q1", "no", pytest.approx(0.75)),
        ("q2", "no", pytest.approx(0.55)),
        ("q3", "yes", pytest.approx(0.6)),
    ]


def test_tags_are_those_of_the_mean():
    pool = Probabilities(["a"], ["cat", "dog", "tree"])
    for sure in ([0.9, 0.2, 0.6], [0.3, 0.7, 0.6]):
        pool.member(["cat", "dog", "tree"])(["a"], torch.tensor([sure]))
    assert pool.answers(["a"], tags=True)[0].tags == ("cat", "tree")  # 0.6, 0.45, 0.6


def test_many_records_are_answered_in_blocks():
    ids = [str(number) for number in range(9_000)]
    pool = Probabilities(ids, ["no", "yes"])
    sure = torch.rand(len(ids), 1)
    pool.member(["no", "yes"])(ids, torch.cat([sure, 1 - sure], dim=1))
    given = pool.answers(ids)
    assert [one.id for one in given] == ids
    assert [one.prediction for one in given] == ["no" if value >= 0.5 else "yes" for value in sure[:, 0].tolist()]
    assert Probabilities.size(214_354, 3_129) == 2_682_854_664  # the docstring's 2.7 GB


def spec(task: str, labels: list[str]) -> ModelSpec:
    return ModelSpec("vilt", EncoderConfig(), task, 1, labels, 32, 16)


def test_models_that_cannot_be_averaged():
    vqa = spec("vqa", ["no", "yes", "2"])
    check_members({"a": vqa, "b": replace(vqa, labels=["2", "yes", "no"]), "c": replace(vqa, task="")})
    with pytest.raises(InputError, match=r"b: answers nlvr2, a answers vqa: they cannot be averaged"):
        check_members({"a": vqa, "b": replace(vqa, task="nlvr2")})
    with pytest.raises(InputError, match=r"b: and a have other labels: only one of them knows 2, 3, 4 and 1 more"):
        check_members({"a": vqa, "b": replace(vqa, labels=["no", "yes", "3", "4", "5"])})


# --- VCR's leaderboard file ----------------------------------------------------------------------------------------------------


def questions(labelled: bool) -> list[Record]:
    """One question and its QA->R as `prepare` has them, of a labelled or an unlabelled split."""
    answers, rationales = [["a0"], ["a1"], ["a2"], ["a3"]], [["r0"], ["r1"], ["r2"], ["r3"]]
    common = {"task": "vcr", "images": ["i.jpg"], "text": ["why", "?"]}
    question = Record(id="q", choices=answers, label=2 if labelled else None, **common)
    if labelled:
        return [question, Record(id="q:r", choices=rationales, label=1, given=["a2"], **common)]
    return [question, *(Record(id=f"q:r{i}", choices=rationales, given=answers[i], **common) for i in range(4))]


def test_the_rationales_of_wrong_answers_are_those_of_the_test_split():
    labelled, unlabelled = questions(True), questions(False)
    others = other_rationales(labelled)
    assert others == [record for record in unlabelled if record.id in ("q:r0", "q:r1", "q:r3")]
    assert other_rationales(unlabelled) == [] == other_rationales([Record("1", "vqa", ["i"], ["x"], answers=["y"])])


@pytest.mark.parametrize("labelled", [True, False])
def test_the_columns_hold_the_answers_and_then_the_rationales_of_each_answer(labelled, tmp_path):
    records = questions(labelled)
    asked = [*records, *other_rationales(records)]
    pool, places = Probabilities([record.id for record in asked], ["0", "1", "2", "3"]), {"q": 0}
    # The probability of choice 0 tells the record: 0.00 of the question, 0.01 to 0.04 of the rationales by answer.
    places |= {"q:r" if labelled and i == 2 else f"q:r{i}": i + 1 for i in range(4)}
    keep = pool.member(["0", "1", "2", "3"])
    for name, place in places.items():
        keep([name], torch.tensor([[place / 100, 0.2, 0.3, 0.5 - place / 100]]))
    text, ids = submission("vcr", records, [], pool)
    cells = text.splitlines()[1].split(",")
    assert ids == ["q"] and cells[0] == "q" and [float(cell) for cell in cells[1::4]] == [0, 0.01, 0.02, 0.03, 0.04]
    assert [float(cell) for cell in cells[4::4]] == [0.5, 0.49, 0.48, 0.47, 0.46]
    write_submission(tmp_path / "new" / "vcr.csv", "vcr", text, ids)
    assert (tmp_path / "new/vcr.csv").read_text() == text


def test_a_question_that_is_cut_short_is_left_out():
    records = questions(False)
    assert submission("vcr", records[:3], [], Probabilities(["q", "q:r0", "q:r1"], ["0", "1", "2", "3"]))[1] == []


def test_a_file_that_would_be_refused_is_not_written(tmp_path):
    records = [Record("mine-1", "vqa", ["i"], ["x"]), Record("2", "vqa", ["i"], ["x"])]
    text, ids = submission("vqa", records, [Answer("mine-1", "yes", 0.5), Answer("2", "no", 0.5)], None)
    with pytest.raises(InputError, match=r"vqa.json: would not be accepted.*question_id 'mine-1' is not a whole number"):
        write_submission(tmp_path / "vqa.json", "vqa", text, ids)
    broken = Probabilities([record.id for record in questions(False)], ["0", "1", "2", "3"])
    broken.member(["0", "1", "2", "3"])(["q"], torch.full((1, 4), torch.nan))
    with pytest.raises(InputError, match=r"q, answer: holds a value outside 0 to 1"):
        write_submission(tmp_path / "vcr.csv", "vcr", *submission("vcr", questions(False), [], broken))
    assert list(tmp_path.iterdir()) == []
