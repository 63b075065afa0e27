"""The answer vocabulary: order, minimum count, soft targets and its file."""

import json

import pytest

from vldistill.data.answers import AnswerVocabulary, majority_answer
from vldistill.data.records import read_json
from vldistill.errors import InputError


def test_order_is_that_of_first_occurrence_and_rare_answers_go():
    vocabulary = AnswerVocabulary.build(["Two", "red", "rare", "2", "The red", "dog", "dog"], min_count=2)
    assert vocabulary.names == ["2", "red", "dog"] and vocabulary.index == {"2": 0, "red": 1, "dog": 2}
    assert len(vocabulary) == 3


def test_soft_target_counts_normalised_answers():
    vocabulary = AnswerVocabulary(["yes", "no", "2"])
    answers = ["yes", "Yes", "no", "two", "2", "The two", "2.", "maybe", "maybe", "maybe"]
    assert vocabulary.soft_target(answers) == {0: 0.6, 1: 0.3, 2: 1.0}
    assert vocabulary.soft_target(["maybe"] * 10) == {}


def test_majority_is_the_first_among_equals():
    assert majority_answer(["Red", "blue", "blue", "the red"]) == "red"
    with pytest.raises(ValueError, match="at least one"):
        majority_answer([])


def test_file_round_trip(tmp_path):
    vocabulary = AnswerVocabulary(["yes", "", "naïve"], 9)
    (tmp_path / "answers.json").write_text(json.dumps(vocabulary.to_json()), encoding="utf-8")
    assert AnswerVocabulary.from_json(read_json(tmp_path / "answers.json")) == vocabulary


@pytest.mark.parametrize("value", [[], {}, {"answers": [1]}, {"answers": "yes"}, {"answers": ["a"], "min_count": "9"}, None])
def test_a_faulty_file_is_refused(value):
    with pytest.raises(InputError, match=r"answers\.json: is not an answer vocabulary"):
        AnswerVocabulary.from_json(value)


def test_a_repeated_answer_is_refused():
    with pytest.raises(InputError, match="'yes' appears twice"):
        AnswerVocabulary.from_json({"answers": ["yes", "no", "yes"]})
