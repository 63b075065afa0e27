"""How UNITER and VL-BERT lay out a record's text, and how they name the objects that VCR's tags point to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from vldistill.data.records import Record, Word
from vldistill.data.sequences import EncodedText, Parts, sequences, shorten
from vldistill.data.text import WordTokenizer
from vldistill.data.wording import Phrase

PERSONS = 81
"""UNITER's tokens person_0 to person_80, which follow its vocabulary; the number is the object's place in the image's list."""
NAMES = ("Casey", "Riley", "Jessie", "Jackie", "Avery", "Jaime", "Peyton", "Kerry", "Jody", "Kendall", "Frankie", "Pat", "Quinn")
"""VL-BERT's gender-neutral names."""
PERSON = "person"


@dataclass(frozen=True)
class Unit:
    """What is tokenized at once. text: to be split into pieces, or a token id. word: its index. tag: the object that it names."""

    text: str | int
    word: int
    tag: int | None = None


Part = list[tuple[int, int | None, int | None]]
"""(token id, word, tag) of each token."""


def written(tokenizer: WordTokenizer, phrase: Phrase, first: int) -> Part:
    """The tokens of a text. first: the index of its first word."""
    return [(token, None if word is None else first + word, None) for token, word in zip(*tokenizer.pieces(phrase), strict=True)]


def tokenize(tokenizer: WordTokenizer, units: list[Unit]) -> Part:
    """The tokens of units, in order."""
    texts = [place for place, unit in enumerate(units) if isinstance(unit.text, str)]
    pieces: dict[int, list[int]] = {place: [] for place in texts}
    for token, place in zip(*tokenizer.pieces([units[place].text for place in texts]), strict=True):
        pieces[texts[place]].append(token)
    return [(token, unit.word, unit.tag) for place, unit in enumerate(units)
            for token in pieces.get(place, [unit.text])]


def assemble(
    tokenizer: WordTokenizer, parts: list[Part], segments: list[int], max_length: int, *, ahead: bool
) -> EncodedText:
    """[CLS] part [SEP] part [SEP] ..., shortened as `PlainLayout` does. segments: of each part. ahead: whether a separator
    between parts counts with the part behind it."""
    kept = shorten([len(part) for part in parts], max_length - 1 - len(parts))
    ids, words, kinds, tags = [tokenizer.cls_id], [None], [segments[0]], [None]
    for place, (part, length) in enumerate(zip(parts, kept, strict=True)):
        ids += [*(token for token, _, _ in part[:length]), tokenizer.sep_id]
        words += [*(word for _, word, _ in part[:length]), None]
        tags += [*(tag for _, _, tag in part[:length]), None]
        following = segments[place + 1] if ahead and place + 1 < len(parts) else segments[place]
        kinds += [*[segments[place]] * length, following]
    return EncodedText(ids, words, kinds, tags)


class UniterLayout:
    """[CLS] question [SEP] answer [SEP] rationale [SEP]. Each index of a tag is a token of its own, `person_k` or the pieces of
    the class name. On VCR the types are 0 for the question, 2 from the separator before the answer, 3 from that before the
    rationale."""

    def __init__(self, tokenizer: WordTokenizer, max_length: int):
        self._tokenizer, self.max_length = tokenizer, max_length
        self._first_person = len(tokenizer.vocabulary)

    def __call__(self, record: Record) -> list[EncodedText]:
        types = [0, 2, 3] if record.choices is not None else [0]
        return [self._encode(parts, types, record.objects) for parts in sequences(record)]

    def _encode(self, parts: Parts, types: list[int], objects: list[str] | None) -> EncodedText:
        coded, first = [], 0
        for part in parts:
            if isinstance(part, Phrase):
                coded.append(written(self._tokenizer, part, first))
            else:
                units = [unit for place, word in enumerate(part) for unit in self._units(word, first + place, objects)]
                coded.append(tokenize(self._tokenizer, units))
            first += len(part)
        return assemble(self._tokenizer, coded, types, self.max_length, ahead=True)

    def _units(self, word: Word, place: int, objects: list[str] | None) -> Iterable[Unit]:
        if isinstance(word, str):
            return [Unit(word, place)]
        return [Unit(self._first_person + min(index, PERSONS - 1) if objects[index] == PERSON else objects[index], place, index)
                for index in word]


class VlBertLayout:
    """[CLS] first [SEP] second [SEP]: question and answer; question with answer, and rationale; a question and [MASK] (VQA).

    A person is called by a neutral name, other objects by their class; several are joined by "and". Names follow each other from
    one that the record's id decides, where the authors' code has a counter that runs on from record to record.
    """

    def __init__(self, tokenizer: WordTokenizer, max_length: int):
        self._tokenizer, self.max_length = tokenizer, max_length

    def __call__(self, record: Record) -> list[EncodedText]:
        names = object_names(record.id, record.objects or [])
        coded = []
        for *before, last in sequences(record):
            first = before[0] if len(before) == 1 else [word for part in before for word in part]
            halves = ([first] if before else []) + [last]
            parts, start = [], 0
            for half in halves:
                if isinstance(half, Phrase):
                    parts.append(written(self._tokenizer, half, start))
                else:
                    units = [unit for place, word in enumerate(half) for unit in _named(word, start + place, names)]
                    parts.append(tokenize(self._tokenizer, units))
                start += len(half)
            if record.task == "vqa":
                parts.append([(self._tokenizer.mask_id, start, None)])
            coded.append(assemble(self._tokenizer, parts, [0, 1], self.max_length, ahead=False))
        return coded


def object_names(record: str, objects: list[str]) -> list[str]:
    """What each object is called. record: its id; a question's Q->A and QA->R (`<id>:r`) share their names.

    >>> object_names("val-0", ["person", "cup", "person"])
    ['Jaime', 'cup', 'Peyton']
    """
    digest = hashlib.sha1(record.partition(":")[0].encode(errors="surrogatepass"), usedforsecurity=False).digest()
    number, names = int.from_bytes(digest[:4], "big"), []
    for kind in objects:
        names.append(NAMES[number % len(NAMES)] if kind == PERSON else kind)
        number += kind == PERSON
    return names


def _named(word: Word, place: int, names: list[str]) -> Iterable[Unit]:
    if isinstance(word, str):
        return [Unit(word, place)]
    units = []
    for number, index in enumerate(word):
        units += [Unit("and", place)] * bool(number) + [Unit(names[index], place, index)]
    return units
