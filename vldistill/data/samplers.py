"""In which order and in which batches records are dealt, a function of (seed, epoch, record), so that a resumed run sees the same
stream.

Batches hold as many records, or as many tokens, which is how UNITER and VILLA count. A batch of tokens costs the length of its
longest record times its number of records, so records of like length are put together: the order of an epoch is cut into buckets
of BUCKET records, each is sorted by length and cut into batches, and the batches are shuffled. Like the official sampler, a batch
of MULTIPLE records or more holds a multiple of them; unlike it, smaller ones are allowed, and no record is left out of an epoch
for being among the last of its bucket.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from vldistill.data.transforms import hash_key

CLEAN = -1  # the epoch of a sample that is not augmented
Key = tuple[int, int]  # (epoch or CLEAN, index of the record)
BUCKET = 8192
MULTIPLE = 8


class EpochBatches:
    """Batches of keys for one rank: a fresh order each epoch, whole batches only, so that all ranks take equal steps. first: the
    batch with which the next pass begins, and that one alone."""

    def __init__(self, count: int, batch: int, *, seed: int, rank: int = 0, world: int = 1):
        self.count, self.batch, self.seed, self.rank, self.world, self.epoch = count, batch, seed, rank, world, 0
        self.first = 0

    def __len__(self) -> int:
        return max(self.count // (self.batch * self.world), 1)

    @property
    def fullest(self) -> list[tuple[int, int | None]]:
        """Pairs of the largest batch; see `TokenBatches.fullest`."""
        return [(min(self.batch, -(-self.count // self.world)), None)]

    def __iter__(self) -> Iterator[list[Key]]:
        generator = torch.Generator().manual_seed(hash_key((self.seed, self.epoch)))
        order = torch.randperm(self.count, generator=generator)
        step = self.batch * self.world
        first, self.first = self.first, 0
        for start in range(first * step, len(self) * step, step):
            chunk = order[start : start + step].tolist()
            # Only a set smaller than one batch falls short: some records are then dealt twice, so that ranks stay equal.
            chunk += (chunk * self.world)[: -len(chunk) % self.world]
            yield [(self.epoch, index) for index in chunk[self.rank :: self.world]]


class CleanBatches:
    """Every record once, in order, without augmentation, dealt to ranks batch by batch: nothing is padded or repeated."""

    def __init__(self, count: int, batch: int, *, rank: int = 0, world: int = 1):
        self.batches = [
            [(CLEAN, index) for index in range(start, min(start + batch, count))] for start in range(0, count, batch)
        ][rank::world]

    @property
    def fullest(self) -> list[tuple[int, int | None]]:
        """Pairs of the largest batch; see `TokenBatches.fullest`."""
        return fullest_of(self.batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)


class TokenBatches:
    """Batches of keys for one rank, a function of (seed, epoch) alone; all ranks have equally many. lengths: tokens of each
    record, none of them above `tokens`, which a batch may have at most, with every record as long as its longest. first: see
    `EpochBatches`. passes: of the student that a record makes, each of which costs its length again."""

    def __init__(self, lengths: list[int], tokens: int, *, seed: int, rank: int = 0, world: int = 1, passes: int = 1):
        self.tokens, self.seed, self.rank, self.world, self.epoch = tokens, seed, rank, world, 0
        self.first = 0
        self._lengths, self._passes = np.asarray(lengths) * passes, passes
        if self._lengths.max() > tokens:
            raise ValueError(f"a record has {self._lengths.max()} tokens, a batch {tokens}")
        self._dealt: tuple[int, list[list[int]]] = (-1, [])

    def __len__(self) -> int:
        """Of the present epoch."""
        return len(self.dealt()) // self.world

    def __iter__(self) -> Iterator[list[Key]]:
        first, self.first = self.first, 0
        for batch in self.dealt()[self.rank :: self.world][first:]:
            yield [(self.epoch, index) for index in batch]

    @property
    def fullest(self) -> list[tuple[int, int]]:
        """The most pairs that a batch may have whose longest record has a length, with that length, for each there is."""
        return [(self._pairs(length), length // self._passes) for length in np.unique(self._lengths).tolist()]

    def dealt(self) -> list[list[int]]:
        """The present epoch's batches of all ranks, dealt in turns."""
        if self._dealt[0] != self.epoch:
            self._dealt = self.epoch, self._deal()
        return self._dealt[1]

    def _deal(self) -> list[list[int]]:
        generator = torch.Generator().manual_seed(hash_key((self.seed, self.epoch)))
        order = torch.randperm(len(self._lengths), generator=generator).numpy()
        batches = [batch for start in range(0, len(order), BUCKET) for batch in self._cut(order[start : start + BUCKET])]
        batches = [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]
        if len(batches) < self.world:  # some are then dealt twice, so that ranks stay equal
            batches = (batches * self.world)[: self.world]
        return batches[: len(batches) // self.world * self.world]

    def _cut(self, bucket: np.ndarray) -> Iterator[list[int]]:
        """A bucket in batches, the longest records first."""
        bucket = bucket[np.argsort(-self._lengths[bucket], kind="stable")]
        start = 0
        while start < len(bucket):
            count = self._pairs(int(self._lengths[bucket[start]]))
            yield bucket[start : start + count].tolist()
            start += count

    def _pairs(self, length: int) -> int:
        """Of a batch whose longest record has `length`."""
        count = self.tokens // length
        return count - (count % MULTIPLE if count > MULTIPLE else 0)


def fullest_of(batches: list[list[Key]]) -> list[tuple[int, int | None]]:
    """See `TokenBatches.fullest`."""
    return [(max(map(len, batches), default=0), None)]
