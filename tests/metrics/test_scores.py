"""Consistency, calibration error and means by type, by hand."""

from __future__ import annotations

import pytest

from vldistill.metrics.scores import calibration_error, consistency, mean_by


def test_consistency_asks_for_every_pair_of_a_sentence():
    groups = ["s1", "s1", "s2", "s2", "s3"]
    assert consistency(groups, [1, 1, 1, 0, 1]) == pytest.approx(2 / 3)
    assert consistency(groups, [0, 1, 1, 0, 0]) == 0 and consistency(groups, [1.0] * 5) == 1
    assert consistency(["s", "t", "s"], [1, 1, 0]) == 0.5  # the members need not stand together
    with pytest.raises(ValueError):
        consistency(groups, [1])


def test_means_are_ordered_by_count_then_name():
    means = mean_by(["b", "a", None, "a", "b", "c"], [1, 0, 0.3, 1, 1, 0.6])
    assert means == {
        "a": {"mean": 0.5, "count": 2},
        "b": {"mean": 1.0, "count": 2},
        "-": {"mean": 0.3, "count": 1},
        "c": {"mean": 0.6, "count": 1},
    }
    assert list(means) == ["a", "b", "-", "c"]


def test_the_calibration_error_weighs_the_gap_of_each_bin():
    # Of 15 bins: 0.9 and 0.9 in the 14th, off by 0.8 in sum; 0.62 in the tenth, by -0.38; 0.3 in the fifth, by 0.3.
    assert calibration_error([0.9, 0.3, 0.9, 0.62], [1, 0, 0, 1]) == pytest.approx((0.8 + 0.38 + 0.3) / 4)
    assert calibration_error([1.0, 1.0], [1, 1]) == 0 and calibration_error([1.0], [0]) == 1
    # Fractions as VQA has them: their mean is the mean confidence.
    assert calibration_error([0.6, 0.6], [0.3, 0.9]) == pytest.approx(0)
    # One bin: the gap of the means, (0.9 + 0.1) / 2 against 1 / 2.
    assert calibration_error([0.9, 0.1], [0, 1], bins=1) == pytest.approx(0)
    assert calibration_error([0.9, 0.1], [0, 1], bins=2) == pytest.approx(0.9)


def test_a_bin_holds_its_upper_end():
    # 3/15 is in the third bin with 0.19, whose gaps -0.8 and 0.19 are summed; 0.21 is in the fourth.
    assert calibration_error([0.2, 0.19], [1, 0]) == pytest.approx((0.8 - 0.19) / 2)
    assert calibration_error([0.2, 0.21], [1, 0]) == pytest.approx((0.8 + 0.21) / 2)


def test_the_calibration_error_needs_as_many_scores_as_confidences():
    with pytest.raises(ValueError, match="at least one"):
        calibration_error([], [])
    with pytest.raises(ValueError):
        calibration_error([0.5], [1, 0])
