"""Domain-shifted evaluation sets: the same questions in other words, so that a shortcut learnt from the wording fails.

- VCR: `shift_singular` and `shift_plural` follow Ye & Kovashka, "A Case Study of the Shortcut Effects in Visual Commonsense
  Reasoning" (AAAI 2021), as their scripts do it (yekeren/VCR-shortcut-effects-study, tools/rephrase_choice_singular.py and
  rephrase_choice_plural.py). Wrong choices get the tag that the question asks about; the right one loses its tag to a
  pronoun. What looks odd in the rules is kept, since numbers compare only with the published files: 16,154 singular and
  3,657 plural questions of 26,534.
- SNLI-VE and VQA: `shift_words` with a table of word rules, Tables 5 and 6 of the ADVL paper (appendix A.3.2, A.3.3).

Nothing here changes its arguments, and no list of theirs is shared with a result.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vldistill.data.records import Word, copy_words

PUBLISHED_QUESTIONS = {"singular": 16_154, "plural": 3_657}
"""Questions of VCR's val (26,534) that each rule selects in the published files."""


@dataclass(frozen=True)
class ShiftedChoices:
    """The choices of one selected question, in their old order, so that the label still holds.

    choices: new word lists. eligible: per choice, whether the rule applied to it; the published scripts count these as
    modified. changed: per choice, whether its words differ; fewer, since a rule may find nothing to replace.
    """

    choices: list[list[Word]]
    eligible: tuple[bool, ...]
    changed: tuple[bool, ...]


@dataclass(frozen=True)
class _Mention:
    """How an eligible choice mentions people. tag: the tag word to replace, None where there is none. pronoun: what stands
    for it in the right choice."""

    tag: list[int] | None
    pronoun: str


# The spellings that are replaced; no others are (HE, him, her, them). Tuples, since a tag, being a list, has no hash.
_SINGULAR = ("he", "she", "He", "She")
_PLURAL = ("they", "They")
# The spellings that decide between he and she.
_HE = ("he", "his", "him", "He", "His", "Him")
_SHE = ("she", "her", "hers", "She", "Her", "Hers")


def shift_singular(
    question: Sequence[Word], choices: Sequence[Sequence[Word]], label: int, objects: Sequence[str]
) -> ShiftedChoices | None:
    """The singular rule, for answers or rationales; None unless the question mentions exactly one distinct person.

    question: words. choices: words of each choice. label: the right choice. objects: class names, to which tags point.
    A choice is eligible if it has one distinct person or one distinct pronoun of he and she, not both. In a wrong choice
    that person's tags and the pronouns become the question's person; in the right one the tags become he or she.
    Raises ValueError for a label or a tag out of range.
    """
    _check(question, choices, label, objects)
    asked = _persons(question, objects)
    if len(asked) != 1:
        return None
    mentions: list[_Mention | None] = []
    for choice in choices:
        persons = _persons(choice, objects)
        # HE counts here, although it is not replaced.
        pronouns = {word.lower() for word in choice if isinstance(word, str)} & {"he", "she"}
        # Only [3] itself is replaced. In [3, 5], where 5 is a car, person 3 counts but stays.
        tag = persons or None
        one = len(persons) + len(pronouns) == 1
        mentions.append(_Mention(tag, _likelier_pronoun(choice, question)) if one else None)
    return _shift(choices, label, asked, _SINGULAR, mentions)


def shift_plural(
    question: Sequence[Word], choices: Sequence[Sequence[Word]], label: int, objects: Sequence[str]
) -> ShiftedChoices | None:
    """The plural rule, for answers or rationales; None unless the question has a single tag, of two or more persons only.

    Arguments and errors are those of `shift_singular`. A choice is eligible if it has such a single tag too, or has the
    word they. In a wrong choice its tag and they become the question's tag, sorted; in the right one its tag becomes they.
    """
    _check(question, choices, label, objects)
    asked = _group(question, objects)
    if asked is None:
        return None
    mentions: list[_Mention | None] = []
    for choice in choices:
        # The sorted tag is what is looked for, so that an unsorted one makes the choice eligible but is never replaced.
        tag = _group(choice, objects)
        says_they = any(word in _PLURAL for word in choice)
        mentions.append(_Mention(tag, "they") if tag is not None or says_they else None)
    return _shift(choices, label, asked, _PLURAL, mentions)


def _shift(
    choices: Sequence[Sequence[Word]],
    label: int,
    asked: list[int],
    pronouns: tuple[str, ...],
    mentions: Sequence[_Mention | None],
) -> ShiftedChoices:
    """Rewrites each choice that has a mention; `asked` is the question's tag."""
    shifted = []
    for place, (choice, mention) in enumerate(zip(choices, mentions, strict=True)):
        new = copy_words(choice)
        for i, word in enumerate(choice):
            if mention is None:
                break
            if place != label:
                if word == mention.tag or word in pronouns:
                    new[i] = list(asked)
            elif word == mention.tag:
                # A capital at the start only, not after a full stop inside; and no repair of case ("to he", "He 's").
                new[i] = mention.pronoun.capitalize() if i == 0 else mention.pronoun
        shifted.append(new)
    changed = tuple(new != list(old) for new, old in zip(shifted, choices, strict=True))
    return ShiftedChoices(shifted, tuple(mention is not None for mention in mentions), changed)


def _persons(words: Sequence[Word], objects: Sequence[str]) -> list[int]:
    """The distinct persons that the tags mention, sorted."""
    return sorted({i for word in words if isinstance(word, list) for i in word if objects[i] == "person"})


def _group(words: Sequence[Word], objects: Sequence[str]) -> list[int] | None:
    """The only tag of the text, sorted, if it lists two or more objects and all are persons; a second tag rules it out."""
    tags = [word for word in words if isinstance(word, list)]
    if len(tags) != 1 or len(tags[0]) < 2 or any(objects[i] != "person" for i in tags[0]):
        return None
    return sorted(tags[0])


def _likelier_pronoun(choice: Sequence[Word], question: Sequence[Word]) -> str:
    """he or she, by the choice's own pronouns, else by the question's, else he (the scripts' default)."""
    lead = _lead_of_he(choice) or _lead_of_he(question)
    return "she" if lead < 0 else "he"


def _lead_of_he(words: Sequence[Word]) -> int:
    return sum(word in _HE for word in words) - sum(word in _SHE for word in words)


def _check(question: Sequence[Word], choices: Sequence[Sequence[Word]], label: int, objects: Sequence[str]) -> None:
    if not 0 <= label < len(choices):
        raise ValueError(f"label {label} is out of range: there are {len(choices)} choices")
    for words in (question, *choices):
        for tag in words:
            if isinstance(tag, list) and not all(0 <= i < len(objects) for i in tag):
                raise ValueError(f"tag {tag} is out of range: there are {len(objects)} objects")


@dataclass(frozen=True)
class QuestionRule:
    """Rewords a question that starts with `opening` and, before its question mark, ends with `closing`: the opening becomes
    `new`, the closing goes, and the words between them, at least one, stay. All in lower case."""

    opening: str
    closing: str
    new: str


@dataclass(frozen=True)
class WordRules:
    """Replacements of single words and of question forms, in lower case; the text's own case is kept."""

    words: Mapping[str, str]
    questions: tuple[QuestionRule, ...] = ()


# Table 5. The stored text of the paper garbles two cells: "Wide" beside Boy and "I cinaic" beside Girl. They are read as
# one cell for two rows each, Male for Man and Boy, Female for Woman and Girl. The plural rows are ours.
SNLI_VE_RULES = WordRules(
    {
        "man": "male",
        "men": "males",
        "boy": "male",
        "boys": "males",
        "woman": "female",
        "women": "females",
        "girl": "female",
        "girls": "females",
        "people": "persons",
    }
)

# Table 6. "I CISOII" is read as Person, one cell for the four pronoun rows. The paper says that "initial words of questions"
# are replaced, and the rows end in a question mark, so that a form is matched against the whole question: "What is the man
# doing on the left?" keeps its form. The rows with men, women, are and colors, plurals of printed ones, are ours.
VQA_RULES = WordRules(
    words={"man": "person", "men": "persons", "woman": "person", "women": "persons", "he": "person", "she": "person"},
    questions=(
        # opening, closing, new
        QuestionRule("how many", "", "what is the number of"),
        QuestionRule("what is", "doing", "what is the action of"),
        QuestionRule("what are", "doing", "what is the action of"),
        QuestionRule("who", "", "which person"),
        QuestionRule("what color", "", "which color"),
        QuestionRule("what colors", "", "which colors"),
    ),
)

# The word splitter leaves a possessive in one piece: man's.
_POSSESSIVE = re.compile(r"(\w+)(['’]s)", re.IGNORECASE)


def shift_words(words: Sequence[Word], rules: WordRules) -> tuple[list[Word], int]:
    """The words after the rules, and the number of replacements (a question form counts once).

    Whole words only (man-made stays, man's becomes male's); capitals as they were: Man, MAN, man become Male, MALE, male.
    The first question rule that fits is applied, then the word rules. Tags stay.
    """
    shifted, replaced = _shift_question(words, rules.questions)
    for i, word in enumerate(shifted):
        if isinstance(word, str) and (new := _shift_word(word, rules.words)) is not None:
            shifted[i] = new
            replaced += 1
    return shifted, replaced


def _shift_question(words: Sequence[Word], rules: Sequence[QuestionRule]) -> tuple[list[Word], int]:
    body = copy_words(words)
    mark = [body.pop()] if body[-1:] == ["?"] else []
    lowered = [word.lower() if isinstance(word, str) else word for word in body]
    for rule in rules:
        opening, closing = rule.opening.split(), rule.closing.split()
        start, stop = len(opening), len(body) - len(closing)
        if start < stop and lowered[:start] == opening and lowered[stop:] == closing:
            new = _with_case(rule.new, " ".join(body[:start]))
            return [*new.split(), *body[start:stop], *mark], 1
    return [*body, *mark], 0


def _shift_word(word: str, table: Mapping[str, str]) -> str | None:
    """The replacement of a word, None where there is none."""
    possessive = _POSSESSIVE.fullmatch(word)
    stem, ending = possessive.groups() if possessive else (word, "")
    new = table.get(stem.lower())
    if new is None:
        return None
    # men's becomes males', not males's.
    ending = ending[:1] if new.endswith("s") else ending
    return _with_case(new, stem) + ending


def _with_case(new: str, old: str) -> str:
    """Lower-case `new` with the capitals of `old`: all, the first, or none."""
    if old.isupper():
        return new.upper()
    return new[0].upper() + new[1:] if old[0].isupper() else new
