"""Answers and scores: names, confidences, the data's own labels, and the mode that a model is left in."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from vldistill.data.batch import Batch, TextBatch
from vldistill.data.records import Record
from vldistill.models.base.outputs import Output
from vldistill.training.inference import Answer, answer, chosen, probabilities, score, score_items, sentence_group


def test_an_answer_is_the_most_likely_label_and_its_share():
    logits = torch.tensor([[0.0, math.log(3.0)], [math.log(9.0), 0.0]])
    first, second = chosen(["a", "b"], probabilities(logits, ["a", "b"]), ["no", "yes"])
    assert (first.id, first.prediction, first.confidence) == ("a", "yes", pytest.approx(0.75))
    assert (second.id, second.prediction, second.confidence) == ("b", "no", pytest.approx(0.9))


@pytest.mark.parametrize("training", [True, False])
def test_a_model_answers_in_evaluation_mode_and_is_left_as_it_was(training):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.modes, self.scale = [], nn.Parameter(torch.ones(1))

        def forward(self, batch):
            self.modes.append((self.training, torch.is_grad_enabled()))
            if batch.ids == ["c"]:
                raise RuntimeError("broken")
            return Output(self.scale * batch.target.float(), [])

    model, empty = Model().train(training), TextBatch(torch.zeros(1, 1), torch.ones(1, 1))
    batches = [Batch(["a"], empty, [], torch.tensor([[1, 0]])), Batch(["b"], empty, [], torch.tensor([[0, 1]]))]
    answers = answer(model, batches, ["no", "yes"], torch.device("cpu"))
    assert [(given.id, given.prediction) for given in answers] == [("a", "no"), ("b", "yes")]
    assert model.modes == [(False, False)] * 2 and model.training is training
    with pytest.raises(RuntimeError, match="broken"):
        answer(model, [Batch(["c"], empty, [], torch.tensor([[1, 0]]))], ["no", "yes"], torch.device("cpu"))
    assert model.training is training


def nlvr2(identifier: str, label: int | None, kind: str | None = None) -> Record:
    return Record(identifier, "nlvr2", ["a", "b"], ["x"], label=label, type=kind)


def test_nlvr2_scores_accuracy_and_consistency_by_hand():
    """Two sentences with two pairs each: one right on both, one right on one."""
    records = [nlvr2("dev-1-0-0", 0, "t"), nlvr2("dev-1-1-0", 1, "t"), nlvr2("dev-1-0-1", 0), nlvr2("dev-1-1-1", 1)]
    given = [Answer(record.id, name, 0.9) for record, name in zip(records, ["False", "True", "False", "False"], strict=True)]
    metrics = score(records, given, ["False", "True"])
    assert metrics["accuracy"] == 0.75 and metrics["consistency"] == 0.5 and metrics["count"] == 4
    assert metrics["by_type"] == {"-": {"mean": 0.5, "count": 2}, "t": {"mean": 1.0, "count": 2}}


def test_names_are_matched_and_not_indices():
    records = [nlvr2("dev-1-0-0", 0)]
    assert score(records, [Answer("dev-1-0-0", "False", 1.0)], ["False", "True"])["accuracy"] == 1
    assert score(records, [Answer("dev-1-0-0", "False", 1.0)], ["True", "False"])["accuracy"] == 0


def test_vqa_scores_are_fractional():
    record = Record("1", "vqa", ["a"], ["x"], answers=["red"] * 2 + ["blue"] * 8, type="other")
    metrics = score([record], [Answer("1", "red", 0.5)], ["red", "blue"])
    # Leave-one-out: two annotators see 1 of 3 matches, eight see 2 of 3.
    assert metrics["accuracy"] == pytest.approx((2 * (1 / 3) + 8 * (2 / 3)) / 10)
    assert "consistency" not in metrics


def test_a_split_without_labels_has_no_score():
    assert score([nlvr2("test1-1-0-0", None)], [Answer("test1-1-0-0", "True", 1.0)], ["False", "True"]) is None
    assert score_items([Record("1", "vqa", ["a"], ["x"])], [Answer("1", "red", 1.0)], ["red"]) is None


def test_answers_to_other_records_are_an_error():
    with pytest.raises(ValueError, match="differ"):
        score([nlvr2("dev-1-0-0", 0)], [Answer("dev-1-0-1", "False", 1.0)], ["False", "True"])


@pytest.mark.parametrize(
    "identifier, group",
    [
        ("dev-850-0-1", "dev-850-*-1"),
        ("test1-3-1-0", "test1-3-*-0"),
        ("train-1-2-3", "train-1-*-3"),
        ("mine-7", "mine-7"),
    ],
)
def test_the_sentence_of_a_pair(identifier, group):
    assert sentence_group(identifier) == group
