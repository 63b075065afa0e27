"""Official metrics as pure functions; VQA's is in `vldistill.metrics.vqa`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable

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
