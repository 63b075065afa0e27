"""A text and its words. Words are for what counts and compares words; tokenizers read the text itself, spaces and all, and a
token's word is told by the characters that it covers."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import regex

from vldistill.errors import InputError

# Letters keep what belongs to them: combining marks, the joiners of Indic and Arabic scripts, soft hyphens. What is no letter is
# a word of its own, with its marks (an emoji of several code points is one).
_LETTER = r"[\w\p{M}\u00ad\u200c\u200d]"
_WORD = regex.compile(rf"{_LETTER}+(?:['’\-]{_LETTER}+)*|(?!\s)\X")
_ASCII_WORD = re.compile(r"\w+(?:['\-]\w+)*|[^\w\s]")  # the same, several times as fast


def split_words(text: str) -> list[str]:
    """Splits plain text into words, with punctuation as words of its own (as VCR's files have it). Between two words there is
    nothing but spaces, and each is as the text has it.

    >>> split_words("Is the man's bike red?")
    ['Is', 'the', "man's", 'bike', 'red', '?']
    """
    return (_ASCII_WORD if text.isascii() else _WORD).findall(text)


class Phrase(tuple):
    """The words of a text, as a tuple, that know the text which they stand in. Two of the same words in other texts differ."""

    text: str

    def __new__(cls, words: Iterable[str], text: str) -> Phrase:
        phrase = super().__new__(cls, words)
        phrase.text = text
        return phrase

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Phrase) and self.text == other.text and tuple.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((tuple.__hash__(self), self.text))

    def __reduce__(self):
        return Phrase, (tuple(self), self.text)

    def spans(self) -> list[tuple[int, int]]:
        """The first character of each word and the one behind its last. Raises InputError where the text lacks a word."""
        spans, start = [], 0
        for word in self:
            start = self.text.find(word, start)
            if start < 0:
                raise InputError(
                    f"word {word!r} is not in its text {self.text[:80]!r}",
                    hint="make the artifact again with `vldistill prepare`",
                )
            spans.append((start, start + len(word)))
            start += len(word)
        return spans

    def owners(self) -> list[int | None]:
        """The word of each character of the text, None of spaces."""
        owners: list[int | None] = [None] * len(self.text)
        for word, (start, end) in enumerate(self.spans()):
            owners[start:end] = [word] * (end - start)
        return owners


def text_of(words: Sequence[str]) -> str:
    """What words were written as; of a list of words, which has no text, the words with spaces."""
    return words.text if isinstance(words, Phrase) else " ".join(words)


def owner(owners: Sequence[int | None]) -> int | None:
    """The word that most of some characters belong to, of equals the last; None where they are spaces.

    >>> owner([None, 4, 4, 5])
    4
    """
    counts = Counter(word for word in owners if word is not None)
    return max(counts, key=lambda word: (counts[word], word)) if counts else None


def reworded(phrase: Phrase, words: Sequence[str]) -> str:
    """The text of a phrase with other words: those that stay keep the spaces around them, new ones take the place of old ones."""
    spans, text, written, done = phrase.spans(), phrase.text, "", 0
    for kind, start, stop, first, last in difflib.SequenceMatcher(None, list(phrase), list(words), False).get_opcodes():
        if kind == "equal":
            continue
        # What is left out takes the space before it along, at the beginning that behind it; what is added brings one.
        begin = spans[start][0] if kind == "replace" else spans[start - 1][1] if start else 0
        new = " ".join(words[first:last])
        if kind == "insert":
            new = f" {new}" if start else f"{new} "
        written += text[done:begin] + new
        done = spans[stop - 1][1] if stop > start else begin
        if kind == "delete" and not start:
            done = spans[stop][0] if stop < len(spans) else len(text)
    return written + text[done:]
