"""Accuracy, consistency and means by type, by hand."""

from __future__ import annotations

import pytest

from vldistill.evaluation.metrics import consistency, mean_by


def test_consistency_asks_for_every_pair_of_a_sentence():
    groups = ["s1", "s1", "s2", "s2", "s3"]
    assert consistency(groups, [1, 1, 1, 0, 1]) == pytest.approx(2 / 3)
    assert consistency(groups, [0, 1, 1, 0, 0]) == 0 and consistency(groups, [1.0] * 5) == 1
    assert consistency(["s", "t", "s"], [1, 1, 0]) == 0.5  # the members need not stand together
    with pytest.raises(ValueError):
        consistency(groups, [1])


def test_means_are_ordered_by_count_then_name():
    means = mean_by(["b", "a", None, "a", "b", "c"], [1, 0, 0.3, 1, 1, 0.6])
    assert means == {"a": {"mean": 0.5, "count": 2}, "b": {"mean": 1.0, "count": 2}, "-": {"mean": 0.3, "count": 1},
                     "c": {"mean": 0.6, "count": 1}}
    assert list(means) == ["a", "b", "-", "c"]
