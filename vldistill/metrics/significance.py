"""Paired tests of two systems on the same items; pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided p-value of McNemar's test by the binomial distribution: how likely it is that the items which one system alone
    gets right fall at least so unevenly to both sides, were either side as likely. 1 where there are none.

    >>> mcnemar_exact(1, 5)  # 2 (1 + 6) / 2**6
    0.21875
    """
    changed, fewer = only_a + only_b, min(only_a, only_b)
    tail, ways = 0, 1
    for right in range(fewer + 1):
        tail += ways
        ways = ways * (changed - right) // (right + 1)
    return min(1.0, 2 * tail / 2**changed)


def bootstrap_interval(
    differences: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean of paired differences [N] (Efron 1979; Berg-Kirkpatrick et al. 2012 for paired scores): the
    items are drawn with replacement `resamples` times, both systems' scores together.

    Only how often each distinct difference is drawn matters, and that is multinomial, so that 200,000 items cost no more than 20.
    Raises ValueError without items.
    """
    if not len(differences):
        raise ValueError("bootstrap_interval needs at least one difference")
    values, counts = np.unique(np.asarray(differences, dtype=np.float64), return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), size=resamples)
    means = drawn @ values / counts.sum()
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
