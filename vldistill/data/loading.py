"""From records to batches. The order of samples and their augmentation are functions of (seed, epoch, sample), so that
any number of workers, and a resumed run, see the same stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from vldistill.data.answers import AnswerVocabulary
from vldistill.data.batch import Batch, RecordSource, TextBatch
from vldistill.data.record_file import mapped
from vldistill.data.records import Record
from vldistill.data.sequences import EncodedText, TextLayout, sentences
from vldistill.data.transforms import hash_key
from vldistill.data.visual import VisualInput
from vldistill.data.worker_limits import Need, check_room, limits_now, need
from vldistill.errors import InputError, VldistillError, first_line
from vldistill.joining import VARIABLE, timeout

_LOADER_SECONDS = 600.0
_SLICE_SECONDS, _HURRIED_SECONDS = 5.0, 20.0

CLEAN = -1  # the epoch of a sample that is not augmented

Key = tuple[int, int]  # (epoch or CLEAN, index of the record)


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
    None where it is an index."""

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
        self._sources = mapped(source_of, records)

    def __len__(self) -> int:
        return len(self.records)

    def lengths(self) -> list[int]:
        """Tokens of each record as a student over regions reads it: those of its longest sequence with the regions of an image
        beside it, for each image, times its sequences."""
        if self._lengths is None:
            self._lengths = [
                len(texts) * sum(max(len(text.ids) for text in texts) + self._regions_of(image) for image in record.images)
                for texts, record in zip(self._texts, self.records, strict=True)
            ]
        return self._lengths

    @cached_property
    def most_regions(self) -> dict[int, int]:
        """For each length (see `lengths`), the most regions of an image among the records that are no longer."""
        most: dict[int, int] = {}
        for record, length in zip(self.records, self.lengths(), strict=True):
            most[length] = max(most.get(length, 0), *map(self._regions_of, record.images))
        lengths = sorted(most)
        return dict(zip(lengths, accumulate((most[length] for length in lengths), max), strict=True))

    def _regions_of(self, image: str) -> int:
        return self.visual.count(image)

    def largest(self, length: int | None = None) -> list[Example]:
        """Examples of which a batch is as large as one of so many can be, by the rules for texts and images alone. length: of the
        longest of its records (see `lengths`), where that decides how many they are."""
        texts, images = len(self._texts[0]), len(self.records[0].images)
        most = None if length is None else self.most_regions[length]
        tokens = self.max_length if length is None else min(self.max_length, length // texts)
        text = EncodedText([0] * tokens, [None] * tokens, [0] * tokens, [None] * tokens)
        target = 0 if self.classes is None else {}
        return [Example("", [text] * texts, [item] * images, target, RecordSource((), ())) for item in self.visual.largest(most)]

    @property
    def sources(self) -> Sequence[RecordSource]:
        """What each record was made from."""
        return self._sources

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
        return Example(record.id, self._texts[index], views, self._targets[index], self._sources[index])

    def _target(self, record: Record) -> int | dict[int, float] | None:
        if self.vocabulary is not None:
            return None if record.answers is None else self.vocabulary.soft_target(record.answers)
        if self.classes is not None:
            return None if record.tags is None else dict.fromkeys(record.tags, 1.0)
        return record.label


def source_of(record: Record) -> RecordSource:
    return RecordSource(tuple(record.images), tuple(sentences(record)))


@dataclass(frozen=True)
class Collator:
    """Examples to a `Batch`: texts padded to the longest of the batch, images as `visual` stacks them."""

    pad_id: int
    visual: VisualInput
    classes: int | None = None

    def __call__(self, examples: list[Example | InputError]) -> Batch | InputError:
        faulty = next((example for example in examples if isinstance(example, InputError)), None)
        if faulty is not None:
            return faulty
        images = [self.visual.stack([example.views[v] for example in examples]) for v in range(len(examples[0].views))]
        text = pad_text([text for example in examples for text in example.texts], self.pad_id)
        return Batch(
            [e.id for e in examples], text, images, self._targets([e.target for e in examples]), [e.source for e in examples]
        )

    def _targets(self, targets: list[int | dict[int, float] | None]) -> torch.Tensor | None:
        if any(target is None for target in targets):
            return None
        if self.classes is None:
            return torch.tensor(targets, dtype=torch.long)
        dense = torch.zeros(len(targets), self.classes)
        for row, scores in enumerate(targets):
            for index, score in scores.items():
                dense[row, index] = score
        return dense


def pad_text(texts: list[EncodedText], pad_id: int) -> TextBatch:
    """[S, T], T the longest sequence."""
    lengths = np.array([len(text.ids) for text in texts])
    mask = np.arange(lengths.max()) < lengths[:, None]

    def filled(rows: list[list[int | None]], padding: int) -> torch.Tensor:
        values = np.full(mask.shape, padding, dtype=np.int64)
        values[mask] = [padding if value is None else value for row in rows for value in row]
        return torch.from_numpy(values)

    return TextBatch(
        filled([text.ids for text in texts], pad_id),
        torch.from_numpy(mask),
        filled([text.words for text in texts], -1),
        filled([text.segments for text in texts], 0),
        filled([text.tags for text in texts], -1),
    )


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


class Loader:
    """Batches of a DataLoader; an image that cannot be read is raised here, in the main process. Raises VldistillError where its
    workers have ended, or give nothing for as long as processes may wait for each other. leaving: whether this process is to
    leave, and waits a short while only. need: what its workers need of the machine, which is looked at before they start."""

    def __init__(self, loader: DataLoader, leaving: Callable[[], bool], need: Callable[[], Need]):
        self._loader, self._leaving, self._need, self._checked = loader, leaving, need, False

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        if not self._checked:
            check_together(self)
        batches = iter(self._loader)
        while True:
            try:
                batch = self._next(batches)
            except StopIteration:
                return
            if isinstance(batch, InputError):
                raise batch
            yield batch

    def _next(self, batches: Iterator[Batch | InputError]) -> Batch | InputError:
        """torch gives up after a slice of time, which loses nothing; what was told to this process is looked at in between."""
        started, workers = time.monotonic(), self._loader.num_workers
        hurried: float | None = None
        while True:
            try:
                return next(batches)
            except RuntimeError as error:
                now, text = time.monotonic(), first_line(error)
                if workers == 0 or not text.startswith(("DataLoader ", "Too many open files")):
                    raise
                if "timed out" not in text:  # one was killed, or cannot hand its batch on
                    raise VldistillError(
                        f"a process that reads images has ended: {text}", hint=f"{limits_now()}; set data.workers lower, or to 0"
                    ) from None
            hurried = hurried or (now if self._leaving() else None)
            limit = timeout(_LOADER_SECONDS).total_seconds()
            if now - started > limit or (hurried is not None and now - hurried > _HURRIED_SECONDS):
                raise VldistillError(
                    f"no batch in {now - started:.0f} s from {workers} process(es) that read images",
                    hint=f"{limits_now()}; set data.workers=0 to see what they do; {VARIABLE} allows more",
                )


def check_together(*loaders: Loader) -> None:
    """Raises VldistillError where the machine has no room for the workers of loaders that live at the same time."""
    check_room([loader._need() for loader in loaders if loader._loader.num_workers > 0])
    for loader in loaders:
        loader._checked = True


def make_loader(
    dataset: Any,
    batches: Any,
    *,
    workers: int = 0,
    leaving: Callable[[], bool] = lambda: False,
) -> Loader:
    """A loader over `batches` of a `RecordDataset` or what can stand for one. leaving: see `Loader`."""
    collate = Collator(dataset.pad_id, dataset.visual, dataset.classes)

    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        timeout=_SLICE_SECONDS if workers else 0,
    )
    return Loader(loader, leaving, lambda: need_of(dataset, batches, workers))


def fullest_of(batches: list[list[Key]]) -> list[tuple[int, int | None]]:
    """See `TokenBatches.fullest`."""
    return [(max(map(len, batches), default=0), None)]


def need_of(dataset: Any, batches: Any, workers: int) -> Need:
    """What a loader's workers need while its batches are on their way, by the largest of them that the rules allow: those for
    images and texts, and for batches that count tokens the tokens there may be."""
    collate = Collator(dataset.pad_id, dataset.visual, dataset.classes)
    fullest = fullest_of(batches) if isinstance(batches, list) else batches.fullest
    needs = []
    for pairs, length in fullest if len(dataset) else ():
        examples = dataset.largest(length)
        needs.append(need(collate(examples), len(examples), pairs, workers))
    return max(needs, key=lambda one: one.bytes, default=Need(workers, 0, 0, 0))
