"""How VL-BERT lays out a record's text, and how it names the objects that VCR's tags point to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from vldistill.data.records import Record, Word
from vldistill.data.sequences import EncodedText, sequences
from vldistill.data.text import WordTokenizer
from vldistill.data.wording import Phrase
from vldistill.models.base.inputs import PERSON, Unit, assemble, tokenize, written

NAMES = ("Casey", "Riley", "Jessie", "Jackie", "Avery", "Jaime", "Peyton", "Kerry", "Jody", "Kendall", "Frankie", "Pat", "Quinn")
"""VL-BERT's gender-neutral names."""


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
