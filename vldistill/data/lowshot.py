"""Low-shot training sets: N questions or N images of every type of a task (ADVL, appendix A.3; N = 100 or 1000, seeds 0-3), and
the types of questions that they are balanced over.

- VCR (A.3.1): N questions of each of the 7 question types, each with both its records (Q->A and QA->R).
- SNLI-VE (A.3.2): N images for each label, among those with a hypothesis of that label. All hypotheses of a drawn image are
  kept, whatever their label. (The paper counts about 5 an image; the released training set has 18.)
- VQA (A.3.3): N images for each of 8 question groups, each with at most 2 of its questions of that group.

An image is drawn for one type only. Candidates are ordered by a hash of the seed and their name, and each is assigned to one
type of those it has, whatever N is; a draw takes the first N of each type. So a smaller draw is part of every larger one of its
seed, and neither the order of the records, nor the machine, nor the Python version matters.

Neither VCR nor VQA is annotated with types. VCR's go by the key words that Zellers et al., "From Recognition to Cognition:
Visual Commonsense Reasoning" (CVPR 2019) give for each. For VQA the ADVL paper says only that there are 8 groups "of the first
n-gram words of questions"; the table is ours. Words are compared whole and without case; punctuation is skipped, a contraction
counts as two words (what's: what is), and a tag (a list of object indices) is a word that matches nothing.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice

from vldistill.data.records import Record, Word
from vldistill.errors import InputError

VCR_SHARES = {"explanation": 38, "activity": 24, "temporal": 13, "mental": 8, "role": 7, "scene": 5, "hypothetical": 5}
"""Published percentages of VCR's questions (Zellers et al. 2019, quoted in A.3.1); the order in which types are shown."""
VCR_PATTERNS = {
    "explanation": ("why", "how come", "how does"),
    "mental": ("feeling", "thinking", "saying", "love", "upset", "angry"),
    "temporal": ("happened", "before", "after", "earlier", "later", "next"),
    "scene": ("where", "time", "near"),
    "role": ("relation", "occupation", "strangers", "married"),
    "hypothetical": ("if", "would", "could", "chance", "might", "may"),
    "activity": ("doing", "looking", "event", "playing", "preparing"),
}
"""The key words of Zellers et al., anywhere in the question; the first type that has one wins. The paper gives no order: ours
puts what is asked (why) before what it is asked about, and activity, whose words are the least telling, last."""
VCR_FORMS = {
    "how does": ("how do",),
    "relation": ("relations", "relationship", "relationships"),
    "occupation": ("occupations",),
    "strangers": ("stranger",),
    "chance": ("chances",),
    "event": ("events",),
}
"""Forms that stand for a key word, ours: the other number, so that two people are asked about as one is, and relationship,
which is what VCR's questions say (A.3.1 itself has "relations, occupations"). Other tenses are left out: "look" and "do" are
not the activities looking and doing."""
VCR_DEFAULT = "activity"
"""The type of a question without a key word, such as "what is [0] holding". A choice of ours: the largest type but
explanation, whose questions are told by how they open."""
VQA_GROUPS = {
    "is/are/was": ("is", "are", "was", "were"),
    "do/does/can": ("do", "does", "did", "can", "could"),
    "how many": ("how many",),
    "what color": ("what color", "what colors", "what colour", "what colours"),
    "what is/are": ("what is", "what are", "what was", "what were"),
    "other what": ("what",),
    "where/which": ("where", "which"),
    "who/why/other": (),
}
"""How a question begins; the first group that fits wins, and the last takes the rest (who, why, how, when, has, on what ...).
"What is the color of" begins with "what is", and goes there."""
VQA_DEFAULT = "who/why/other"
_TAG = "[]"  # no word of a pattern
_MARKS = '?.,!;:"“”()-'
_CONTRACTION = re.compile(r"(\w*?)('s|'re|n't)")
_WRITTEN_OUT = {"'s": "is", "'re": "are", "n't": "not"}
_OPENINGS = {opening: name for name, openings in VQA_GROUPS.items() for opening in openings}
PAPER_SHARES = {100: 0.3, 1000: 3.0}
"""What a draw is of its training set in percent, by the number drawn of each type: the same for all three tasks (A.3)."""


def _any_of(phrases: Sequence[str]) -> re.Pattern[str]:
    return re.compile(rf"(?<!\S)(?:{'|'.join(phrases)})(?!\S)")


_VCR = {
    name: _any_of([form for word in words for form in (word, *VCR_FORMS.get(word, ()))]) for name, words in VCR_PATTERNS.items()
}


def vcr_question_type(words: Sequence[Word]) -> str:
    """The type of a VCR question, a key of `VCR_SHARES`; `VCR_DEFAULT` where no key word is found.

    >>> vcr_question_type(["Why", "is", [0], "upset", "?"])
    'explanation'
    """
    text = " ".join(_plain(words))
    return next((name for name, pattern in _VCR.items() if pattern.search(text)), VCR_DEFAULT)


def vqa_question_group(words: Sequence[Word]) -> str:
    """The group of a VQA question, a key of `VQA_GROUPS`; `VQA_DEFAULT` where no opening fits.

    >>> vqa_question_group(["What", "color", "is", "the", "bus", "?"])
    'what color'
    """
    first = list(islice(_plain(words), 2))
    # Two words before one: "what color" comes before "what" in the table, and no other opening begins with another.
    return _OPENINGS.get(" ".join(first)) or _OPENINGS.get(" ".join(first[:1]), VQA_DEFAULT)


def _plain(words: Sequence[Word]) -> Iterator[str]:
    """The words in lower case, without punctuation, with contractions in two."""
    for word in words:
        if isinstance(word, list):
            yield _TAG
            continue
        word = word.lower().replace("’", "'").strip(_MARKS)
        if "'" not in word:
            if word:
                yield word
        elif parts := _CONTRACTION.fullmatch(word):
            stem, ending = parts.groups()
            if stem:
                yield "can" if stem == "ca" else stem
            yield _WRITTEN_OUT[ending]
        elif word := word.strip("'"):
            yield word


@dataclass(frozen=True)
class TypeCount:
    """One type of a draw. wanted, got and available (in the input) count the draw's unit; an image that has several types is
    available to each of them. records: how many records were kept of what was drawn. of_records: how many of the input's records
    are of the type."""

    wanted: int
    got: int
    available: int
    records: int
    of_records: int


@dataclass(frozen=True)
class Draw:
    """records: those drawn, in the order of the input. by_type: every type of the task, also those of which there are none.
    unit: what was counted, "questions" or "images"."""

    records: list[Record]
    by_type: dict[str, TypeCount]
    unit: str


@dataclass(frozen=True)
class LowShotRule:
    """How a task is drawn.

    unit: what a candidate is, "questions" or "images". name_of: the candidate that a record belongs to.
    types: the types' names, None where they are the artifact's labels. type_of: a record's type from it and the names;
    anything that is not a name stands for a record that cannot be used, which `needs` explains.
    of_type: the most records that are kept of a drawn image, all of the type it was drawn for; None keeps all of any type.
    """

    unit: str
    name_of: Callable[[Record], str]
    types: tuple[str, ...] | None
    type_of: Callable[[Record, Sequence[str]], str | None]
    needs: str
    of_type: int | None = None


LOWSHOT_RULES: dict[str, LowShotRule] = {
    "vcr": LowShotRule(
        "questions",
        # QA->R, the record with a given answer, has the question's id and a suffix: train-0:r.
        lambda record: record.id if record.given is None else record.id.rpartition(":")[0] or record.id,
        tuple(VCR_SHARES),
        lambda record, names: record.type if record.label is not None else None,
        needs="a label and a question type",
    ),
    "snli_ve": LowShotRule(
        "images",
        lambda record: record.images[0],
        None,
        lambda record, names: names[record.label] if record.label is not None and 0 <= record.label < len(names) else None,
        needs="a label of the artifact's list",
    ),
    "vqa": LowShotRule(
        "images",
        lambda record: record.images[0],
        tuple(VQA_GROUPS),
        lambda record, names: vqa_question_group(record.text) if record.answers else None,
        needs="answers",
        of_type=2,
    ),
}


def draw(records: Sequence[Record], task: str, per_type: int, seed: int, labels: Sequence[str]) -> Draw:
    """Draws `per_type` questions or images of each type of `task`, or as many as there are.

    labels: the artifact's label names in order, which SNLI-VE's types are. Raises InputError for a task without low-shot
    rules, `per_type` below 1, ids that repeat, and records without a type or an answer to learn from.
    """
    rule = LOWSHOT_RULES.get(task)
    if rule is None:
        raise InputError(f"task {task!r} has no low-shot rules", hint=f"tasks with rules: {', '.join(LOWSHOT_RULES)}")
    if per_type < 1:
        raise InputError(f"{per_type} per type: at least 1 is needed", hint="the paper has 100 and 1000")
    names = tuple(labels) if rule.types is None else rule.types
    types = _types(records, rule, names)
    candidates = _candidates(records, types, rule.name_of)
    order = _draw_order(candidates, seed, rule.unit)
    available = Counter(name for places in candidates.values() for name in places)
    homes = _assign([candidates[key] for key in order], {name: available[name] for name in names})

    got, kept = Counter(), Counter()
    chosen: list[int] = []
    for key, home in zip(order, homes, strict=True):
        if got[home] < per_type:
            got[home] += 1
            places = _kept(candidates[key], home, rule.of_type, records, seed)
            kept[home] += len(places)
            chosen += places
    of_records = Counter(types)
    by_type = {name: TypeCount(per_type, got[name], available[name], kept[name], of_records[name]) for name in names}
    return Draw([records[place] for place in sorted(chosen)], by_type, rule.unit)


def _types(records: Sequence[Record], rule: LowShotRule, names: Sequence[str]) -> list[str]:
    """Each record's type. Raises InputError where one has none, or where ids repeat."""
    types = [rule.type_of(record, names) for record in records]
    known = set(names)
    unusable = [record.id for record, name in zip(records, types, strict=True) if name not in known]
    if unusable:
        raise InputError(
            f"{len(unusable):,} of {len(records):,} records are without {rule.needs}, the first is {unusable[0]!r}",
            hint="draw from a labelled training split",
        )
    ids = Counter(record.id for record in records)
    if len(ids) < len(records):
        twice, times = ids.most_common(1)[0]
        raise InputError(f"record id {twice!r} appears {times} times", hint="ids must be unique within a split")
    return types


def _candidates(
    records: Sequence[Record], types: Sequence[str], name_of: Callable[[Record], str]
) -> dict[str, dict[str, list[int]]]:
    """What can be drawn: by question id or image path, the positions of its records by type."""
    candidates: dict[str, dict[str, list[int]]] = {}
    for place, (record, name) in enumerate(zip(records, types, strict=True)):
        candidates.setdefault(name_of(record), {}).setdefault(name, []).append(place)
    return candidates


def _rank(seed: int, name: str) -> tuple[bytes, str]:
    """Sorts names at random, in a way that depends on the seed and on nothing else; the name breaks a tie."""
    return blake2b(f"{seed}\0{name}".encode(), digest_size=16).digest(), name


def _draw_order(candidates: Collection[str], seed: int, unit: str) -> list[str]:
    # The folder that all images share is left out: where a user keeps them must not change the draw.
    folders = {posixpath.dirname(key) for key in candidates} if unit == "images" else set()
    shared = posixpath.commonpath(folders) + "/" if folders else ""
    return sorted(candidates, key=lambda key: _rank(seed, key.removeprefix(shared)))


def _assign(candidates: Sequence[Collection[str]], available: Mapping[str, int]) -> list[str]:
    """One type for each candidate, of the types that it has.

    A candidate goes to that one of its types which holds the fewest so far, the rarer one among equals. So a rare type gets
    nearly all images that have it, three labels that every image has share the images evenly (were the rarest type always
    preferred, it would take them all), and nothing is wasted for any N: an image goes to a type that already holds N only
    if all its types do. Candidates with few types come first, since those with many can make up for them. No search follows
    for an assignment that fills one place more, which could exist where there are hardly enough images.
    """
    rarest_first = sorted(available, key=available.__getitem__)
    held = dict.fromkeys(rarest_first, 0)
    homes = [""] * len(candidates)
    for place in sorted(range(len(candidates)), key=lambda place: len(candidates[place])):
        home = min((name for name in rarest_first if name in candidates[place]), key=held.__getitem__)
        held[home] += 1
        homes[place] = home
    return homes


def _kept(places: Mapping[str, list[int]], home: str, of_type: int | None, records: Sequence[Record], seed: int) -> list[int]:
    """The records that are kept of a drawn candidate; which ones does not depend on N."""
    if of_type is None:
        return [place for group in places.values() for place in group]
    return sorted(places[home], key=lambda place: _rank(seed, records[place].id))[:of_type]
