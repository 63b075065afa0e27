"""From records to batches. The order of samples and their augmentation are functions of (seed, epoch, sample), so that
any number of workers, and a resumed run, see the same stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from vldistill.data.answers import AnswerVocabulary
from vldistill.data.batch import Batch, ImageBatch, TextBatch
from vldistill.data.images import Images
from vldistill.data.records import Record
from vldistill.data.text import WordTokenizer
from vldistill.data.transforms import ImageTransform, add_noise, hash_key, normalise, patchify, unpatchify
from vldistill.errors import InputError

CLEAN = -1  # the epoch of a sample that is not augmented
MEMORY_LIMIT_BYTES = 2 << 30

Key = tuple[int, int]  # (epoch or CLEAN, index of the record)


@dataclass(frozen=True)
class Example:
    """One record, ready to be collated. patches: per image [N, 3 * P * P] uint8, with its grid and its draw of noise.

    Pixels stay bytes until a whole batch is normalised at once: sample by sample it costs as much as a small model's step.
    """

    id: str
    ids: list[int]
    words: list[int | None]
    patches: list[np.ndarray]
    grids: list[tuple[int, int]]
    draws: list[int | None]
    target: int | dict[int, float] | None


class RecordDataset(Dataset):
    """Reads records by (epoch, index).

    memory: keep decoded images; None decides by size (2 GiB). With RandAugment nothing is kept, since it comes before the
    resize.
    """

    def __init__(
        self,
        records: list[Record],
        images: Images,
        tokenizer: WordTokenizer,
        transform: ImageTransform,
        *,
        max_length: int,
        vocabulary: AnswerVocabulary | None = None,
        seed: int = 0,
        memory: bool | None = None,
    ):
        self.records, self.images, self.transform, self.seed = records, images, transform, seed
        self.tokenizer, self.vocabulary = tokenizer, vocabulary
        self._coded: dict[tuple, tuple[list[int], list[int | None]]] = {}
        self._texts = [self._encode(record, max_length) for record in records]
        self._targets = [self._target(record) for record in records]
        self._memory: dict[str, tuple[np.ndarray, tuple[int, int]]] = {}
        self._keep = self._fits_memory() if memory is None else memory

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: Key) -> Example | InputError:
        """The example, or the error of its image: a worker that raised would wrap it into a traceback."""
        try:
            return self._example(*key)
        except InputError as error:
            return error

    def _example(self, epoch: int, index: int) -> Example:
        record = self.records[index]
        patches, grids, draws = [], [], []
        for position, path in enumerate(record.images):
            draw = None if epoch == CLEAN else (self.seed, epoch, index, position)
            rows, grid = self._patches(path, draw)
            patches.append(rows)
            grids.append(grid)
            draws.append(self.transform.noise_draw(draw))
        ids, words = self._texts[index]
        return Example(record.id, ids, words, patches, grids, draws, self._targets[index])

    def _patches(self, path: str, draw: tuple[int, ...] | None) -> tuple[np.ndarray, tuple[int, int]]:
        """Patches of an image and their grid; kept in memory unless augmentation moves pixels."""
        side = self.transform.patch
        if draw is not None and self.transform.augment == "randaugment":
            return _cut(self.transform.resize(self.transform.before_resize(self.images.open(path), draw)), side)
        kept = self._memory.get(path)
        if kept is None:
            kept = _cut(self.transform.resize(self.images.open(path)), side)
            if self._keep:
                self._memory[path] = kept
        if draw is None or not self.transform.moves:
            return kept
        return _cut(self.transform.shifted(unpatchify(*kept, side), draw), side)

    def _encode(self, record: Record, max_length: int) -> tuple[list[int], list[int | None]]:
        key = tuple(tuple(word) if isinstance(word, list) else word for word in record.text)
        if key not in self._coded:
            self._coded[key] = self.tokenizer.encode(record.text, max_length)
        return self._coded[key]

    def _target(self, record: Record) -> int | dict[int, float] | None:
        if self.vocabulary is not None:
            return None if record.answers is None else self.vocabulary.soft_target(record.answers)
        return record.label

    def _fits_memory(self) -> bool:
        images = {path for record in self.records for path in record.images}
        return len(images) * self.transform.size**2 * 3 * 1.4 < MEMORY_LIMIT_BYTES


def _cut(pixels: np.ndarray, side: int) -> tuple[np.ndarray, tuple[int, int]]:
    return patchify(pixels, side), (pixels.shape[0] // side, pixels.shape[1] // side)


@dataclass(frozen=True)
class Collator:
    """Examples to a `Batch`: texts padded to the longest of the batch, images to the largest grid of the batch."""

    pad_id: int
    num_answers: int | None = None
    noise: float = 0.0

    def __call__(self, examples: list[Example | InputError]) -> Batch | InputError:
        faulty = next((example for example in examples if isinstance(example, InputError)), None)
        if faulty is not None:
            return faulty
        views = range(len(examples[0].patches))
        images = [
            stack_patches([e.patches[v] for e in examples], [e.grids[v] for e in examples],
                          draws=[e.draws[v] for e in examples], noise=self.noise)
            for v in views
        ]
        text = pad_text([e.ids for e in examples], [e.words for e in examples], self.pad_id)
        return Batch([e.id for e in examples], text, images, self._targets([e.target for e in examples]))

    def _targets(self, targets: list[int | dict[int, float] | None]) -> torch.Tensor | None:
        if any(target is None for target in targets):
            return None
        if self.num_answers is None:
            return torch.tensor(targets, dtype=torch.long)
        dense = torch.zeros(len(targets), self.num_answers)
        for row, scores in enumerate(targets):
            for index, score in scores.items():
                dense[row, index] = score
        return dense


def pad_text(ids: list[list[int]], words: list[list[int | None]], pad_id: int) -> TextBatch:
    """[B, T] ids and mask, T the longest row."""
    lengths = np.array([len(values) for values in ids])
    mask = np.arange(lengths.max()) < lengths[:, None]
    tokens = np.full(mask.shape, pad_id, dtype=np.int64)
    tokens[mask] = np.concatenate([np.asarray(values, dtype=np.int64) for values in ids])
    return TextBatch(torch.from_numpy(tokens), torch.from_numpy(mask), words)


def stack_patches(
    patches: list[np.ndarray], grids: list[tuple[int, int]], *, draws: list[int | None] | None = None, noise: float = 0.0
) -> ImageBatch:
    """[B, N, 3 * P * P] normalised patches and mask, N the largest patch count; noise as `add_noise`, padding zero."""
    counts = [len(rows) for rows in patches]
    draws = draws or [None] * len(patches)
    if len(set(counts)) == 1:
        values = normalise(np.stack(patches))
        add_noise(values, draws, noise)
        return ImageBatch(torch.from_numpy(values), torch.ones(len(counts), counts[0], dtype=torch.bool), grids)
    stacked = torch.zeros(len(patches), max(counts), patches[0].shape[1])
    mask = torch.zeros(len(patches), max(counts), dtype=torch.bool)
    for row, pixels in enumerate(patches):
        values = normalise(pixels[None])
        add_noise(values, draws[row : row + 1], noise)
        stacked[row, : counts[row]] = torch.from_numpy(values[0])
        mask[row, : counts[row]] = True
    return ImageBatch(stacked, mask, grids)


class EpochBatches:
    """Batches of keys for one rank: a fresh order each epoch, whole batches only, so that all ranks take equal steps."""

    def __init__(self, count: int, batch: int, *, seed: int, rank: int = 0, world: int = 1):
        self.count, self.batch, self.seed, self.rank, self.world, self.epoch = count, batch, seed, rank, world, 0

    def __len__(self) -> int:
        return max(self.count // (self.batch * self.world), 1)

    def __iter__(self) -> Iterator[list[Key]]:
        generator = torch.Generator().manual_seed(hash_key((self.seed, self.epoch)))
        order = torch.randperm(self.count, generator=generator).tolist()
        step = self.batch * self.world
        for start in range(0, len(self) * step, step):
            chunk = order[start : start + step]
            # Only a set smaller than one batch falls short: some records are then dealt twice, so that ranks stay equal.
            chunk += (order * self.world)[: -len(chunk) % self.world]
            yield [(self.epoch, index) for index in chunk[self.rank :: self.world]]


class CleanBatches:
    """Every record once, in order, without augmentation, dealt to ranks batch by batch: nothing is padded or repeated."""

    def __init__(self, count: int, batch: int, *, rank: int = 0, world: int = 1):
        self.batches = [
            [(CLEAN, index) for index in range(start, min(start + batch, count))] for start in range(0, count, batch)
        ][rank::world]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.batches)


class Loader:
    """Batches of a DataLoader; an image that cannot be read is raised here, in the main process."""

    def __init__(self, loader: DataLoader):
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            if isinstance(batch, InputError):
                raise batch
            yield batch


def make_loader(dataset: RecordDataset, batches: EpochBatches | CleanBatches, *, workers: int = 0) -> Loader:
    """A loader over `batches`; VQA's soft targets are sized by the dataset's vocabulary."""
    vocabulary = dataset.vocabulary
    answers = None if vocabulary is None else len(vocabulary.names)
    collate = Collator(dataset.tokenizer.pad_id, answers, dataset.transform.noise)
    return Loader(DataLoader(dataset, batch_sampler=batches, collate_fn=collate, num_workers=workers,
                             persistent_workers=workers > 0))
