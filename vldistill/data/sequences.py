"""A record's text as words, and as the sequences that a model reads: one, or one for each choice (VCR), each of one part or more.

Words are for what counts and compares words; tokenizers read the text itself, spaces and all, and a token's word is told by the
characters that it covers. A word keeps one index through all of this, counted over the parts of its sequence, by which features
align across tokenizers.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import regex

from vldistill.data.records import Record, Word
from vldistill.errors import InputError

if TYPE_CHECKING:
    from vldistill.data.text import WordTokenizer

# Letters keep what belongs to them: combining marks, the joiners of Indic and Arabic scripts, soft hyphens. What is no letter is
# a word of its own, with its marks (an emoji of several code points is one).
_LETTER = r"[\w\p{M}\u00ad\u200c\u200d]"
_WORD = regex.compile(rf"{_LETTER}+(?:['’\-]{_LETTER}+)*|(?!\s)\X")
_ASCII_WORD = re.compile(r"\w+(?:['\-]\w+)*|[^\w\s]")  # the same, several times as fast
Parts = tuple[Sequence[Word], ...]
Sentence = tuple[tuple[str, ...], ...]
"""A rendered sequence: the words of each part, tags spelled out; a part that its source wrote as text is a `Phrase`."""


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


@dataclass(frozen=True)
class EncodedText:
    """A sequence as a student reads it, one entry a token. words: the word's index, None at specials and spaces. segments: the
    part, from 0. tags: the object that a tag's token names, None elsewhere."""

    ids: list[int]
    words: list[int | None]
    segments: list[int]
    tags: list[int | None]


class TextLayout(Protocol):
    """How a student wants a record's sequences; all records of a batch have equally many. max_length: tokens of a sequence."""

    max_length: int

    def __call__(self, record: Record) -> list[EncodedText]: ...


def sequences(record: Record) -> list[Parts]:
    """(text,), or for each choice (text, choice), with what was given between them (VCR's QA->R: question, answer, rationale)."""
    text = record.text if record.written is None else Phrase(record.text, record.written)
    if record.choices is None:
        return [(text,)]
    between = [record.given] if record.given is not None else []
    return [(text, *between, choice) for choice in record.choices]


def render_tag(indices: Sequence[int], objects: Sequence[str] | None) -> str:
    """A tag in words: each object's class and its number from 1.

    >>> render_tag([0, 2], ["person", "cup", "person"])
    'person1 and person3'
    """
    names = [objects[index] if objects else "object" for index in indices]
    return " and ".join(f"{name}{index + 1}" for name, index in zip(names, indices, strict=True))


def render(words: Sequence[Word], objects: Sequence[str] | None) -> tuple[str, ...]:
    """Words with each tag spelled out as one word; a text has no tags."""
    if isinstance(words, Phrase):
        return words
    return tuple(word if isinstance(word, str) else render_tag(word, objects) for word in words)


def readable(words: Sequence[Word], objects: Sequence[str] | None) -> str:
    """A part for the eye."""
    return text_of(render(words, objects))


def sentences(record: Record) -> list[Sentence]:
    """A record's sequences as a unimodal text teacher reads them."""
    return [tuple(render(part, record.objects) for part in parts) for parts in sequences(record)]


class PlainLayout:
    """[CLS] part [SEP] part [SEP] ..., at most `max_length` tokens: the longest part gives way first, at its end."""

    def __init__(self, tokenizer: WordTokenizer, max_length: int):
        self._tokenizer, self.max_length = tokenizer, max_length
        self._coded: dict[Sentence, EncodedText] = {}

    def __call__(self, record: Record) -> list[EncodedText]:
        return [self._encode(sentence) for sentence in sentences(record)]

    def _encode(self, sentence: Sentence) -> EncodedText:
        # Many records share their text (SNLI-VE's hypotheses do not, VQA's questions do).
        if sentence not in self._coded:
            self._coded[sentence] = join_parts(self._tokenizer, sentence, self.max_length)
        return self._coded[sentence]


def join_parts(tokenizer: WordTokenizer, sentence: Sentence, max_length: int) -> EncodedText:
    """See `PlainLayout`."""
    pieces, first = [], 0
    for part in sentence:
        ids, words = tokenizer.pieces(part)
        pieces.append((ids, [None if word is None else first + word for word in words]))
        first += len(part)
    kept = shorten([len(ids) for ids, _ in pieces], max_length - 1 - len(pieces))
    ids, words, segments = [tokenizer.cls_id], [None], [0]
    for segment, ((own, indices), length) in enumerate(zip(pieces, kept, strict=True)):
        ids += [*own[:length], tokenizer.sep_id]
        words += [*indices[:length], None]
        segments += [segment] * (length + 1)
    return EncodedText(ids, words, segments, [None] * len(ids))


def shorten(lengths: list[int], budget: int) -> list[int]:
    """Lengths with a sum of at most `budget`: the longest loses a token at a time, of equals the first.

    >>> shorten([5, 2, 3], 8)
    [3, 2, 3]
    """
    kept = list(lengths)
    while sum(kept) > max(budget, 0):
        kept[kept.index(max(kept))] -= 1
    return kept
