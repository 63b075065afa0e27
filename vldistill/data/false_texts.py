"""An image with its own text and others that are not its: what a fusion encoder learns retrieval from (ViLT, section 4.4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch.utils.data import Dataset

from vldistill.data.loading import Example, Key, RecordDataset
from vldistill.data.transforms import hash_key
from vldistill.errors import InputError

_DRAW = 15485863
"""Tells this draw from those of augmentation."""


class FalseTexts(Dataset):
    """Captions as records of `count` + 1 texts, of which the first is the record's own.

    The others are drawn from all captions of the set, none of them twice, as a function of (seed, epoch, record): never one of
    the same image, never one that reads like the record's own. Raises InputError where a record has fewer than that to draw from.
    """

    def __init__(self, captions: RecordDataset, count: int):
        self.captions, self.count = captions, count
        self.records, self.visual, self.pad_id, self.classes = captions.records, captions.visual, captions.pad_id, None
        sources = captions.sources
        self._images, self._texts = _numbered([s.images for s in sources]), _numbered([s.sentences for s in sources])
        self._check()

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, key: Key) -> Example | InputError:
        example = self.captions[key]
        if isinstance(example, InputError):
            return example
        texts = [text for row in self.false(*key) for text in self.captions.texts(row)]
        return replace(example, texts=[*example.texts, *texts], target=0)

    def largest(self, length: int | None = None) -> list[Example]:
        """See `RecordDataset.largest`."""
        return [replace(example, texts=example.texts * (self.count + 1)) for example in self.captions.largest(length)]

    def false(self, epoch: int, index: int) -> list[int]:
        """The records whose texts stand beside a record's own."""
        generator = np.random.default_rng(hash_key((self.captions.seed, epoch, index, _DRAW)))
        rows: dict[int, None] = {}
        while len(rows) < self.count:
            for row in generator.integers(len(self), size=self.count).tolist():
                differs = self._images[row] != self._images[index] and self._texts[row] != self._texts[index]
                if differs and len(rows) < self.count:
                    rows[row] = None
        return list(rows)

    def _check(self) -> None:
        images, texts, both = Counter(self._images), Counter(self._texts), Counter(zip(self._images, self._texts, strict=True))
        others = [
            len(self) - images[image] - texts[text] + both[image, text]
            for image, text in zip(self._images, self._texts, strict=True)
        ]
        least = min(range(len(others)), key=others.__getitem__)
        if others[least] < self.count:
            raise InputError(
                f"record {self.records[least].id} has {others[least]} texts of other images, "
                f"objective.false_texts is {self.count}",
                hint="take more data, or set it lower",
            )


def _numbered(values: Sequence) -> list[int]:
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return [numbers[value] for value in values]
