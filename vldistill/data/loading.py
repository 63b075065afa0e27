"""Examples to batches, by processes that read images. What these need of the machine is looked at before they start: room in
/dev/shm, through which batches come, and open files, of which every tensor on its way is one. Where there is too little, torch's
loader waits for a batch that will never come."""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from vldistill.data.batch import Batch, TextBatch
from vldistill.data.datasets import Example
from vldistill.data.samplers import fullest_of
from vldistill.data.sequences import EncodedText
from vldistill.data.visual import VisualInput
from vldistill.errors import InputError, VldistillError, first_line
from vldistill.joining import VARIABLE, timeout

_LOADER_SECONDS = 600.0
_SLICE_SECONDS, _HURRIED_SECONDS = 5.0, 20.0
SHARED = Path("/dev/shm")
PREFETCH = 2
"""Batches that a worker makes ahead (torch's own number)."""
_IN_HAND = 2
"""Batches that the main process holds: the one that it works on until the next one is there."""
_OWN_FILES = 16  # of a worker: its queues and pipes
_FEWER = "set data.workers lower, or to 0"


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


def make_loader(dataset: Any, batches: Any, *, workers: int = 0, leaving: Callable[[], bool] = lambda: False) -> Loader:
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


def shared_free() -> int | None:
    """Bytes free in /dev/shm; None where there is none."""
    return shutil.disk_usage(SHARED).free if SHARED.is_dir() else None


def raised_files() -> int:
    """How many files this process may have open, once it is as many as its user may ask for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):
            pass  # what there is has to do
    return soft if soft != resource.RLIM_INFINITY else 2**63 - 1


@dataclass(frozen=True)
class Need:
    """Of a loader. pairs, bytes, tensors: of its largest batch, in shared memory."""

    workers: int
    pairs: int
    bytes: int
    tensors: int

    @property
    def batches(self) -> int:
        """On their way at once."""
        return PREFETCH * self.workers + _IN_HAND


def need(batch: Any, rows: int, pairs: int, workers: int) -> Need:
    """batch: one of `rows` pairs, on average no smaller than those of a loader's largest batch, which has `pairs`. Each of its
    tensors is a file of whole pages."""
    held, page = list(_tensors(batch)), resource.getpagesize()
    return Need(workers, pairs, sum(-(-value.nbytes * pairs // (rows * page)) * page for value in held), len(held))


def check_room(needs: Sequence[Need]) -> None:
    """Raises VldistillError where batches on their way have no room. needs: of all loaders that live at the same time."""
    if not needs:
        return
    workers, largest = sum(one.workers for one in needs), max(needs, key=lambda one: one.bytes)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    room = sum(one.bytes * one.batches for one in needs) * here
    free = shared_free()
    if free is not None and free < room:
        raise VldistillError(
            f"has {free / 2**20:,.0f} MiB free; {workers} worker(s) with batches of {largest.pairs} on their way need up to "
            f"{room / 2**20:,.0f}",
            where=str(SHARED),
            hint=f"{_FEWER}, or give it more room (docker, the option shm-size)",
        )
    files = raised_files()
    own = sum(1 for _ in Path("/proc/self/fd").iterdir())
    total = own + sum(one.tensors * one.batches + _OWN_FILES * one.workers for one in needs)
    if files < total:
        raise VldistillError(
            f"{files} files may be open (ulimit -n); {workers} worker(s) need about {total}",
            where="this process",
            hint=f"{_FEWER}, or raise the limit with ulimit -n {max(4096, total)}",
        )


def limits_now() -> str:
    """For messages."""
    free = shared_free()
    shared = "no /dev/shm" if free is None else f"/dev/shm has {free / 2**20:,.0f} MiB free"
    return f"{shared}, ulimit -n is {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}"


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif is_dataclass(value):
        for part in fields(value):
            yield from _tensors(getattr(value, part.name))
    elif type(value).__module__.startswith("vldistill."):
        for part in vars(value).values():
            yield from _tensors(part)
