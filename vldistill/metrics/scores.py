"""Official metrics, calibration, and paired tests of two systems on the same items, as pure functions.

VQA's normalisation and leave-one-out accuracy (Antol et al. 2015; VQA v2's evaluation) are as the evaluation's last version
has them: the first one left the annotators' articles and numbers as they were. The published evaluation has quirks (a broken
look-behind, a contraction table with holes); they are kept, since scores are only comparable with them.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache

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
    import numpy as np  # here, since help reads answers, and waits for no library of numbers

    if not len(differences):
        raise ValueError("bootstrap_interval needs at least one difference")
    values, counts = np.unique(np.asarray(differences, dtype=np.float64), return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), size=resamples)
    means = drawn @ values / counts.sum()
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


# Marks that are deleted or become a space. The apostrophe, the colon and the period are not among them.
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
# The official pattern means to spare a period after a digit, but its look-behind is misspelt and never fires:
# every period that no digit follows goes.
_PERIOD = re.compile(r"\.(?!\d)")
# It also passes a flag where the count of replacements belongs, so that no more than this many periods go.
_MOST_PERIODS = 32

_NUMBERS = {word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())} | {
    "none": "0"
}
_ARTICLES = frozenset({"a", "an", "the"})

# Forms that get a lost apostrophe back. Each stands for the spelling without it, and a form with several apostrophes
# for every spelling that lacks one of them: couldn't've for couldnt've and couldn'tve. ("wed", "shed", "hell", "ill"
# are words, and "I'm" never occurs in lower-cased text.)
_CONTRACTED = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've"
    " he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't"
    " not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll"
    " somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd"
    " there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll"
    " what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's"
    " won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've"
)


def _contraction_table(contracted: str) -> dict[str, str]:
    table = {form[:i] + form[i + 1 :]: form for form in contracted.split() for i, mark in enumerate(form) if mark == "'"}
    # The one entry of the official table that goes the other way.
    return {**table, "somebody'd": "somebodyd"}


_CONTRACTIONS = _contraction_table(_CONTRACTED)


def strip_answer(text: str) -> str:
    """Newlines and tabs become spaces; outer spaces go. Done to every answer, also where nothing else is normalised."""
    return text.replace("\n", " ").replace("\t", " ").strip()


# A data set's answers repeat: VQA v2 has 6.6 million of them, a few hundred thousand distinct.
@lru_cache(maxsize=1 << 18)
def normalise_answer(text: str) -> str:
    """The official normal form of an answer; may be empty.

    A mark is deleted where it touches a space or where the text has a comma between digits, else it becomes a space;
    then periods, case, number words, articles and contractions.

    >>> normalise_answer("The 1,000 dogs."), normalise_answer("yes,no"), normalise_answer("dont know")
    ('1000 dogs', 'yes no', "don't know")
    """
    text = strip_answer(text)
    grouped_number = _DIGIT_COMMA_DIGIT.search(text) is not None
    # Each mark is judged on the text as it came, not on what earlier marks left of it.
    table = {ord(m): "" if grouped_number or f"{m} " in text or f" {m}" in text else " " for m in _MARKS if m in text}
    text = _PERIOD.sub("", text.translate(table), count=_MOST_PERIODS)
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answers: Sequence[str], prediction: str) -> float:
    """Official accuracy of one prediction against the annotators' answers (ten in VQA), in [0, 1].

    For each annotator in turn: min(1, matches among the others / 3); the mean of these. Answers and prediction are
    normalised only where the annotators disagree. Raises ValueError without answers.
    """
    if not answers:
        raise ValueError("vqa_accuracy needs at least one answer")
    answers = [strip_answer(answer) for answer in answers]
    prediction = strip_answer(prediction)
    if len(set(answers)) > 1:
        answers = [normalise_answer(answer) for answer in answers]
        prediction = normalise_answer(prediction)
    matches = answers.count(prediction)
    # An annotator who gave this answer has one match fewer among the others.
    agreeing, others = min(1.0, (matches - 1) / 3), min(1.0, matches / 3)
    return (matches * agreeing + (len(answers) - matches) * others) / len(answers) if matches else 0.0


def soft_target_score(count: int) -> float:
    """Training target of an answer that `count` annotators gave: 0, .3, .6, .9, then 1."""
    return min(1.0, round(0.3 * count, 1)) if count < 4 else 1.0
