"""A dual encoder's vectors of a whole set of captions, each image and each text encoded once, and the ranking by them; used by
validation during training and by `evaluate`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vldistill.data.datasets import RecordDataset
from vldistill.data.loading import make_loader, pad_text
from vldistill.data.records import Record
from vldistill.data.samplers import CLEAN
from vldistill.finite import check_outputs
from vldistill.metrics.retrieval import Ranks, ranks_of_vectors
from vldistill.models.base.dual_encoder import DualEncoder


@dataclass(frozen=True)
class Encoding:
    """How a set is encoded. batch: images or texts at a time. workers: processes that read images. rank, world: this process's
    share; `together` then sums over all of them. tick: told how many are done. watch: may leave
    batches, by an exception of all processes."""

    batch: int
    device: torch.device
    workers: int = 0
    rank: int = 0
    world: int = 1
    together: Callable[[Tensor], Tensor] = lambda values: values
    autocast: Callable[[], AbstractContextManager] = nullcontext
    tick: Callable[[int], None] = lambda count: None
    watch: Callable[[Iterable[Any]], Iterable[Any]] = iter

    def share(self, rows: Sequence[int]) -> list[list[int]]:
        """The places within `rows` of this process's batches."""
        places = range(len(rows))
        return [list(places[start : start + self.batch]) for start in range(0, len(places), self.batch)][self.rank :: self.world]


@dataclass(frozen=True)
class CaptionSet:
    """first: of each image, the first record that shows it, in the order of the records. owner: [N] of each record, the number of
    its image."""

    first: list[int]
    owner: Tensor


def caption_set(records: Sequence[Record]) -> CaptionSet:
    """Which captions share an image, by its path."""
    numbers: dict[str, int] = {}
    first, owner = [], []
    for row, record in enumerate(records):
        number = numbers.setdefault(record.images[0], len(numbers))
        if number == len(first):
            first.append(row)
        owner.append(number)
    return CaptionSet(first, torch.tensor(owner))


@torch.no_grad()
def encode_images(model: DualEncoder, dataset: RecordDataset, rows: Sequence[int], how: Encoding) -> Tensor:
    """[len(rows), D] pooled vectors, fp32, of the clean images of the records `rows`."""
    shares = how.share(rows)
    keys = [[(CLEAN, rows[place]) for place in places] for places in shares]
    vectors = torch.zeros(len(rows), model.width, device=how.device)
    for places, batch in how.watch(zip(shares, make_loader(dataset, keys, workers=how.workers), strict=True)):
        with how.autocast():
            vectors[places] = model.encode_image(batch.images[0].to(device=how.device, non_blocking=True)).float()
        check_outputs(vectors[places], [dataset.records[rows[place]].images[0] for place in places])
        how.tick(len(places))
    return how.together(vectors)


@torch.no_grad()
def encode_texts(model: DualEncoder, dataset: RecordDataset, how: Encoding) -> Tensor:
    """[N, D] pooled vectors, fp32, of all texts of the dataset; texts of like length share a batch, so that little is padded."""
    texts = [dataset.texts(row)[0] for row in range(len(dataset))]
    order = sorted(range(len(texts)), key=lambda row: len(texts[row].ids))
    vectors = torch.zeros(len(texts), model.width, device=how.device)
    for places in how.watch(how.share(order)):
        rows = [order[place] for place in places]
        padded = pad_text([texts[row] for row in rows], dataset.pad_id).to(device=how.device, non_blocking=True)
        with how.autocast():
            vectors[rows] = model.encode_text(padded).float()
        check_outputs(vectors[rows], [dataset.records[row].id for row in rows])
        how.tick(len(rows))
    return how.together(vectors)


@dataclass(frozen=True)
class Ranking:
    """ranks: of a caption set, on the CPU. seconds: of each part."""

    ranks: Ranks
    seconds: dict[str, float]


def rank_captions(model: DualEncoder, dataset: RecordDataset, how: Encoding) -> Ranking:
    """All images of a set of captions against all of its texts, by the cosine. The model is left in the mode it came in."""
    captions = caption_set(dataset.records)
    training, seconds, started = model.training, {}, time.perf_counter()

    def lap(name: str) -> None:
        nonlocal started
        now = time.perf_counter()
        seconds[name], started = now - started, now

    model.eval()
    try:
        images = F.normalize(encode_images(model, dataset, captions.first, how), dim=-1)
        lap("images")
        texts = F.normalize(encode_texts(model, dataset, how), dim=-1)
        lap("texts")
        ranks = ranks_of_vectors(texts, images, captions.owner.to(how.device))
        ranks = Ranks(ranks.image.cpu(), ranks.text.cpu())
        lap("ranking")
    finally:
        model.train(training)
    return Ranking(ranks, seconds)
