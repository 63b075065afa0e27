"""The types of VCR's and VQA's questions, by their words: what low-shot sets are balanced over (ADVL, appendix A.3.1, A.3.3).

Neither data set is annotated with them. VCR's 7 types go by the key words that Zellers et al., "From Recognition to Cognition:
Visual Commonsense Reasoning" (CVPR 2019) give for each. For VQA the ADVL paper says only that there are 8 groups "of the
first n-gram words of questions"; the table is ours.

Words are compared whole and without case; punctuation is skipped, a contraction counts as two words (what's: what is), and
a tag (a list of object indices) is a word that matches nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice

from vldistill.data.records import Word

# --- VCR ------------------------------------------------------------------------------------------------------------

VCR_SHARES = {
    "explanation": 38,
    "activity": 24,
    "temporal": 13,
    "mental": 8,
    "role": 7,
    "scene": 5,
    "hypothetical": 5,
}
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

# --- VQA ------------------------------------------------------------------------------------------------------------

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

# --- matching -------------------------------------------------------------------------------------------------------

_TAG = "[]"  # no word of a pattern
_MARKS = '?.,!;:"“”()-'
_CONTRACTION = re.compile(r"(\w*?)('s|'re|n't)")
_WRITTEN_OUT = {"'s": "is", "'re": "are", "n't": "not"}


def _any_of(phrases: Sequence[str]) -> re.Pattern[str]:
    return re.compile(rf"(?<!\S)(?:{'|'.join(phrases)})(?!\S)")


_VCR = {
    name: _any_of([form for word in words for form in (word, *VCR_FORMS.get(word, ()))]) for name, words in VCR_PATTERNS.items()
}
_OPENINGS = {opening: name for name, openings in VQA_GROUPS.items() for opening in openings}


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
