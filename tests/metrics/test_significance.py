"""McNemar's exact test and the paired bootstrap, against sums by hand and against plain resampling."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from vldistill.metrics.scores import bootstrap_interval, mcnemar_exact


@pytest.mark.parametrize(
    "only_a, only_b, p",
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # 2 / 2
        (0, 5, 2 / 32),
        (0, 10, 2 / 1024),
        (1, 5, 2 * (1 + 6) / 64),
        (2, 8, 2 * (1 + 10 + 45) / 1024),
        (3, 3, 1.0),  # twice 42 of 64 is more than all
        (3, 4, 1.0),  # twice 64 of 128
    ],
)
def test_mcnemar_by_hand(only_a, only_b, p):
    assert mcnemar_exact(only_a, only_b) == pytest.approx(p, rel=1e-12) == mcnemar_exact(only_b, only_a)


def test_mcnemar_of_thousands_of_changes():
    assert mcnemar_exact(40, 70) == pytest.approx(2 * sum(comb(110, i) for i in range(41)) / 2**110, rel=1e-12)
    # By the normal distribution z is 9.5, two-sided 1.5e-21.
    assert 1e-22 < mcnemar_exact(5_000, 6_000) < 1e-20
    assert mcnemar_exact(0, 20_000) == 0.0  # smaller than any float


def test_the_interval_is_that_of_plain_resampling():
    differences = [1.0] * 30 + [-1.0] * 12 + [0.3] * 40 + [0.0] * 118
    rng = np.random.default_rng(123)
    means = rng.choice(differences, size=(20_000, len(differences))).mean(axis=1)
    assert bootstrap_interval(differences) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.006)
    low, high = bootstrap_interval(differences)
    assert low < np.mean(differences) < high and low > 0.05


def test_the_interval_follows_from_the_seed_alone():
    differences = [1.0, 0.0, -1.0, 0.6, 0.0, 1.0]
    assert bootstrap_interval(differences) == bootstrap_interval(differences[::-1])
    assert bootstrap_interval(differences, seed=1) != bootstrap_interval(differences, resamples=100, seed=2)
    assert bootstrap_interval([0.25] * 7) == (0.25, 0.25)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval([])


def test_a_wider_level_is_a_wider_interval():
    narrow, wide = (bootstrap_interval([1.0] * 9 + [0.0] * 21, level=level) for level in (0.5, 0.99))
    assert wide[0] < narrow[0] < 0.3 < narrow[1] < wide[1]
