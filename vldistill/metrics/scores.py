"""Official metrics, calibration, and paired tests of two systems on the same items, as pure functions; VQA's metric is in
`vldistill.metrics.vqa`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

CALIBRATION_BINS = 15


def consistency(groups: Iterable[Hashable], scores: Iterable[float]) -> float:
    """NLVR2: share of groups of which every member is right, in [0, 1]. A group is a sentence with all its image pairs
    (the identifier with the pair field blanked)."""
    right: dict[Hashable, bool] = defaultdict(lambda: True)
    for group, score in zip(groups, scores, strict=True):
        right[group] &= score == 1
    return sum(right.values()) / len(right)


def overlap(truth: set[str], given: set[str]) -> float:
    """Of the labels that hold or are given, the share that both have (multi-label accuracy of Godbole and Sarawagi 2004), in
    [0, 1]; 1 where there is none.

    >>> overlap({"dog", "grass"}, {"dog", "sky"})
    0.3333333333333333
    """
    return len(truth & given) / len(truth | given) if truth | given else 1.0


def calibration_error(confidences: Iterable[float], scores: Iterable[float], bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error (Guo et al. 2017, equation 3), in [0, 1]: how far mean confidence and mean score lie apart
    in each of `bins` equal intervals of the confidence, weighted by the answers there. An interval holds its upper end. Scores
    may be fractions (VQA); where they are 0 or 1, their mean is the accuracy. Raises ValueError without answers.

    >>> calibration_error([0.9, 0.9], [1, 0])
    0.4
    """
    gaps = [0.0] * bins
    count = 0
    for confidence, score in zip(confidences, scores, strict=True):
        gaps[max(math.ceil(confidence * bins) - 1, 0)] += confidence - score
        count += 1
    if not count:
        raise ValueError("calibration_error needs at least one answer")
    return sum(map(abs, gaps)) / count


def mean_by(keys: Iterable[str | None], scores: Iterable[float]) -> dict[str, dict[str, float]]:
    """Mean score and count of each key, keys in order of their counts; None counts as "-"."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for key, score in zip(keys, scores, strict=True):
        entry = sums[key or "-"]
        entry[0] += score
        entry[1] += 1
    ordered = sorted(sums.items(), key=lambda item: (-item[1][1], item[0]))
    return {key: {"mean": total / count, "count": count} for key, (total, count) in ordered}


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
