"""How UNITER lays out a record's text."""

from __future__ import annotations

from collections.abc import Iterable

from vldistill.data.records import Record, Word
from vldistill.data.sequences import EncodedText, Parts, sequences
from vldistill.data.text import WordTokenizer
from vldistill.data.wording import Phrase
from vldistill.models.base.inputs import PERSON, Unit, assemble, tokenize, written

PERSONS = 81
"""UNITER's tokens person_0 to person_80, which follow its vocabulary; the number is the object's place in the image's list."""


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
        return [
            Unit(self._first_person + min(index, PERSONS - 1) if objects[index] == PERSON else objects[index], place, index)
            for index in word
        ]
