"""Several data sets as one, each seen as often as its weight says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from torch.utils.data import Dataset

from vldistill.data.loading import Example, Key, RecordDataset
from vldistill.errors import InputError


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
