"""The official VQA metric, against values computed by hand."""

import pytest

from vldistill.metrics.scores import normalise_answer, soft_target_score, vqa_accuracy


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("1,000", "1000"),  # a comma between digits: every mark is deleted
        ("1,000-2,000", "10002000"),
        ("3.5", "3.5"),
        ("u.s.", "us"),
        ("5.", "5"),
        ("yes,no", "yes no"),
        ("yes, no", "yes no"),
        ("t-shirt", "t shirt"),
        ("t - shirt", "t shirt"),
        ("The Two dogs!", "2 dogs"),
        ("none", "0"),
        ("a", ""),
        ("an apple", "apple"),
        ("dont know", "don't know"),
        ("couldntve", "couldntve"),
        ("couldn'tve", "couldn't've"),
        ("yall'd've", "y'all'd've"),
        ("'ows'at", "'ow's'at"),
        ("somebody'd", "somebodyd"),
        ("she's", "she's"),
        ("12:30", "12:30"),
        ("man's", "man's"),
        ("red\nand\tblue ", "red and blue"),
        ("eleven", "eleven"),
        ("", ""),
    ],
)
def test_normal_form(raw, normal):
    assert normalise_answer(raw) == normal


@pytest.mark.parametrize(
    ("answers", "prediction", "accuracy"),
    [
        (["yes"] * 10, "yes", 1.0),
        (["yes"] * 10, "no", 0.0),
        # All agree, so that nothing is normalised, but outer spaces go.
        (["Yes"] * 10, "yes", 0.0),
        (["the dog"] * 10, "dog", 0.0),
        ([" yes\n"] * 10, "\tyes", 1.0),
        # One annotator: nine times 1/3 and once 0.
        (["red"] + ["blue"] * 9, "red", 0.3),
        # Two: eight times 2/3, twice 1/3.
        (["red"] * 2 + ["blue"] * 8, "red", 0.6),
        # Three: seven times 1, three times 2/3.
        (["red"] * 3 + ["blue"] * 7, "red", 0.9),
        (["red"] * 4 + ["blue"] * 6, "red", 1.0),
        # They differ, so that both sides are normalised.
        (["Two"] * 5 + ["2"] * 5, "two", 1.0),
        (["the red"] + ["blue"] * 9, "Red!", 0.3),
        # One annotator writes otherwise, and all ten agree once they are normalised.
        (["1,000"] * 9 + ["1000"], "1000", 1.0),
        (["isn't"] * 9 + ["isnt"], "isnt", 1.0),
        (["t-shirt"] * 9 + ["t shirt"], "T-shirt.", 1.0),
        (["a cat"] * 9 + ["cat"], "the cat", 1.0),
        # One who really differs: nine see 3 of 3 or more; the answer of the one is worth 0.3.
        (["ten"] * 9 + ["11"], "10", 1.0),
        (["ten"] * 9 + ["11"], "eleven", 0.0),
        (["ten"] * 9 + ["11"], "11", 0.3),
        # Three spellings of one answer make three matches: seven times 1, three times 2/3.
        (["a cat", "the cat", "cat."] + ["dog"] * 7, "Cat", 0.9),
        (["none", "0"] + ["3"] * 8, "zero", 0.6),
        # A mark between letters becomes a space, beside a space it goes.
        (["black/white"] * 4 + ["black and white"] * 6, "black white", 1.0),
        (["yes, sir"] * 3 + ["yes"] * 7, "yes sir", 0.9),
        # The official pattern keeps a period before a digit and drops any other.
        (["2.50"] * 4 + ["2.5"] * 6, "2.50.", 1.0),
        (["3 p.m."] * 2 + ["3:00"] * 8, "3 pm", 0.6),
        # Of fewer annotators: two of three others are 2/3.
        (["red", "red", "red", "blue"], "red", (3 * (2 / 3) + 1) / 4),
        (["red", "blue"], "red", (0 + 1 / 3) / 2),
    ],
)
def test_accuracy(answers, prediction, accuracy):
    assert vqa_accuracy(answers, prediction) == pytest.approx(accuracy, abs=1e-12)


def test_accuracy_needs_answers():
    with pytest.raises(ValueError, match="at least one"):
        vqa_accuracy([], "yes")


def test_soft_target_scores():
    assert [soft_target_score(count) for count in range(6)] == [0.0, 0.3, 0.6, 0.9, 1.0, 1.0]
