"""Records as examples: those of one data set, of several mixed, or with texts that are not theirs. Augmentation is a function of
(seed, epoch, record), so that any number of workers, and a resumed run, see the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from vldistill.data.answers import AnswerVocabulary
from vldistill.data.batch import RecordSource
from vldistill.data.records import Record, mapped
from vldistill.data.samplers import CLEAN, Key
from vldistill.data.sequences import EncodedText, TextLayout, sentences
from vldistill.data.transforms import hash_key
from vldistill.data.visual import VisualInput
from vldistill.errors import InputError

_DRAW = 15485863
"""Tells this draw from those of augmentation."""


@dataclass(frozen=True)
class Example:
    """One record, ready to be collated. texts: its sequences. views: per image, an item of the dataset's `VisualInput`."""

    id: str
    texts: list[EncodedText]
    views: list[Any]
    target: int | dict[int, float] | None
    source: RecordSource


class RecordDataset(Dataset):
    """Reads records by (epoch, index); texts are laid out once, but for records that are not held (`RecordFile`). layout: how the
    student wants the text. visual: how it sees images. pad_id: of its tokenizer. classes: how many a target [B, classes] has,
    None where it is an index. sources: what each record was made from."""

    def __init__(
        self,
        records: Sequence[Record],
        layout: TextLayout,
        visual: VisualInput,
        *,
        pad_id: int,
        vocabulary: AnswerVocabulary | None = None,
        classes: int | None = None,
        seed: int = 0,
    ):
        self.records, self.visual, self.seed, self.max_length = records, visual, seed, layout.max_length
        self.classes = classes if vocabulary is None else len(vocabulary.names)
        self.pad_id, self.vocabulary = pad_id, vocabulary
        self._texts, self._targets = mapped(layout, records), mapped(self._target, records)
        self._lengths: list[int] | None = None
        self.sources = mapped(source_of, records)

    def __len__(self) -> int:
        return len(self.records)

    def lengths(self) -> list[int]:
        """Tokens of each record as a student over regions reads it: those of its longest sequence with the regions of an image
        beside it, for each image, times its sequences."""
        if self._lengths is None:
            self._lengths = [
                len(texts) * sum(max(len(text.ids) for text in texts) + self.visual.count(image) for image in record.images)
                for texts, record in zip(self._texts, self.records, strict=True)
            ]
        return self._lengths

    @cached_property
    def most_regions(self) -> dict[int, int]:
        """For each length (see `lengths`), the most regions of an image among the records that are no longer."""
        most: dict[int, int] = {}
        for record, length in zip(self.records, self.lengths(), strict=True):
            most[length] = max(most.get(length, 0), *map(self.visual.count, record.images))
        lengths = sorted(most)
        return dict(zip(lengths, accumulate((most[length] for length in lengths), max), strict=True))

    def largest(self, length: int | None = None) -> list[Example]:
        """Examples of which a batch is as large as one of so many can be, by the rules for texts and images alone. length: of the
        longest of its records (see `lengths`), where that decides how many they are."""
        texts, images = len(self._texts[0]), len(self.records[0].images)
        most = None if length is None else self.most_regions[length]
        tokens = self.max_length if length is None else min(self.max_length, length // texts)
        text = EncodedText([0] * tokens, [None] * tokens, [0] * tokens, [None] * tokens)
        target = 0 if self.classes is None else {}
        return [Example("", [text] * texts, [item] * images, target, RecordSource((), ())) for item in self.visual.largest(most)]

    def texts(self, index: int) -> list[EncodedText]:
        """The sequences of a record."""
        return self._texts[index]

    def __getitem__(self, key: Key) -> Example | InputError:
        """The example, or the error of its image: a worker that raised would wrap it into a traceback."""
        try:
            return self._example(*key)
        except InputError as error:
            return error

    def _example(self, epoch: int, index: int) -> Example:
        record = self.records[index]
        views = [
            self.visual.read(path, None if epoch == CLEAN else (self.seed, epoch, index, position))
            for position, path in enumerate(record.images)
        ]
        return Example(record.id, self._texts[index], views, self._targets[index], self.sources[index])

    def _target(self, record: Record) -> int | dict[int, float] | None:
        if self.vocabulary is not None:
            return None if record.answers is None else self.vocabulary.soft_target(record.answers)
        if self.classes is not None:
            return None if record.tags is None else dict.fromkeys(record.tags, 1.0)
        return record.label


def source_of(record: Record) -> RecordSource:
    return RecordSource(tuple(record.images), tuple(sentences(record)))


class MixedDataset(Dataset):
    """An epoch has each record of a part `weight` times; with a fraction, the next epoch goes on where this one ended, and with
    more than one, no record comes again before all have come. The order within an epoch is the sampler's.

    Parts share a layout, a preprocessing and a tokenizer; their image paths are told apart by their places.
    """

    def __init__(self, parts: Sequence[tuple[RecordDataset, float]]):
        self.parts = [part for part, _ in parts]
        self.shares = [max(round(weight * len(part)), 1) for part, weight in parts]
        self._ends = list(accumulate(self.shares))
        first = self.parts[0]
        self.visual, self.pad_id, self.classes = first.visual, first.pad_id, first.classes

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, key: Key) -> Example | InputError:
        number, part_key = self.locate(*key)
        example = self.parts[number][part_key]
        if isinstance(example, InputError):
            return example
        images = tuple(f"{number}:{path}" for path in example.source.images)
        return replace(example, source=replace(example.source, images=images))

    def largest(self, length: int | None = None) -> list[Example]:
        """See `RecordDataset.largest`."""
        return max((part.largest(length) for part in self.parts), key=lambda batch: (len(batch[0].views), len(batch[0].texts)))

    def locate(self, epoch: int, index: int) -> tuple[int, Key]:
        """The part, and what it is asked for: how often it has been gone through, and which record."""
        number = next(place for place, end in enumerate(self._ends) if index < end)
        place = index - (self._ends[number] - self.shares[number])
        return number, divmod(epoch * self.shares[number] + place, len(self.parts[number]))


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
