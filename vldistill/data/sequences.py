"""From a record to the texts that a model reads: one sequence, or one for each choice (VCR), each of one part or more.

A word keeps one index through all of this, counted over the parts of its sequence; that is how features align across tokenizers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from vldistill.data.records import Record, Word
from vldistill.data.text import WordTokenizer
from vldistill.data.wording import Phrase, text_of

Parts = tuple[Sequence[Word], ...]
Sentence = tuple[tuple[str, ...], ...]
"""A rendered sequence: the words of each part, tags spelled out; a part that its source wrote as text is a `Phrase`."""


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
