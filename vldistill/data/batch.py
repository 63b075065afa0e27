"""What a model is given: tensors of one batch, the same for every student and teacher; in pre-training with questions made from
the data itself (hidden words, swapped images, matched pairs)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor
from typing_extensions import Self

IGNORED = -100
"""The target of a token that is not predicted."""
CMC, MLM, ITM = "cmc", "mlm", "itm"
RANK = "rank"
"""Ranking texts beside an image: a fusion encoder's retrieval, not a task of pre-training, but one without labels too."""
PRETRAINING = {CMC: "cross-modal contrast", MLM: "masked language modelling", ITM: "image-text matching"}
"""The tasks of pre-training, by their short names."""


@dataclass(frozen=True)
class Tensors:
    """Fields that are indexed and moved together; those that are no tensors stay as they are."""

    def __getitem__(self, rows: Tensor) -> Self:
        """The rows (sequences, images) `rows` [R], in that order."""
        return self._each(lambda value: value[rows])

    def to(self, **move) -> Self:
        return self._each(lambda value: value.to(**move))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        return replace(self, **{name: change(value) for name, value in parts.items() if isinstance(value, Tensor)})


@dataclass(frozen=True)
class TextBatch(Tensors):
    """Sequences, padded to the longest of the batch: S of them, a record's choices side by side.

    ids: [S, T] token ids. mask: [S, T] bool, True at real tokens. words: [S, T] the word index of each token, -1 at specials,
    spaces and padding, by which features align across tokenizers. segments: [S, T] the part of each token, from 0. tags: [S, T]
    the object that a tag's token names, -1 elsewhere.
    """

    ids: Tensor
    mask: Tensor
    words: Tensor | None = None
    segments: Tensor | None = None
    tags: Tensor | None = None


@dataclass(frozen=True)
class ImageBatch(Tensors):
    """Images cut into patches, in raster order.

    patches: [B, N, 3 * P * P] normalised pixels (channel, row, column), zero at padding; N is the largest patch count of
    the batch. mask: [B, N] bool, True at real patches. grids: per row, its (rows, columns) of patches.

    The order is fixed: the library's ViLT draws a random permutation of the patches at every call, even in evaluation,
    which misaligns a teacher's attention with its student's.
    """

    patches: Tensor
    mask: Tensor
    grids: list[tuple[int, int]]

    @property
    def uniform(self) -> bool:
        """True where all rows have the same grid, and nothing is padded: some rows of a batch keep the padding of the whole."""
        return len(set(self.grids)) == 1 and self.grids[0][0] * self.grids[0][1] == self.mask.shape[1]

    def __getitem__(self, rows: Tensor) -> ImageBatch:
        return ImageBatch(self.patches[rows], self.mask[rows], [self.grids[row] for row in rows.tolist()])


@dataclass(frozen=True)
class RegionBatch(Tensors):
    """Images as regions, padded to the most of the batch.

    features: [B, R, F]. boxes: [B, R, 4] x1, y1, x2, y2 as shares of width and height, zero at padding. mask: [B, R] bool.
    whole: [B, F] the feature of the whole image.
    """

    features: Tensor
    boxes: Tensor
    mask: Tensor
    whole: Tensor


@dataclass(frozen=True)
class LetterboxBatch(Tensors):
    """I whole images for B rows, each on a canvas of one size.

    pixels: [I, 3, S, L] uint8 RGB, S the canvas's shorter side. upright: of each image, whether its canvas stands; its pixels are
    stored with rows and columns exchanged. rows: [B] the image of each row; one that several rows share is there once.
    """

    pixels: Tensor
    upright: list[bool]
    rows: Tensor

    def __getitem__(self, rows: Tensor) -> LetterboxBatch:
        return replace(self, rows=self.rows[rows])


@dataclass(frozen=True)
class PixelBatch(Tensors):
    """I images with their objects, for B rows, padded to the most of the batch.

    pixels: [I, 3, H, W] uint8 RGB. sizes: [I, 2] width and height of the image, in the upper left of its canvas. canvases: their
    (height, width). boxes: [I, R, 4] x1, y1, x2, y2 as shares of the image's sides. mask: [I, R] bool. masks: [I, R, 14, 14]
    bool, an object inside its box. classes: [I, R], -1 where not known. rows: [B] the image of each row; one that several rows
    share is there once.
    """

    pixels: Tensor
    sizes: Tensor
    canvases: list[tuple[int, int]]
    boxes: Tensor
    mask: Tensor
    masks: Tensor
    classes: Tensor
    rows: Tensor

    def __getitem__(self, rows: Tensor) -> PixelBatch:
        return replace(self, rows=self.rows[rows])


VisualBatch = ImageBatch | RegionBatch | LetterboxBatch | PixelBatch


@dataclass(frozen=True)
class RecordSource:
    """What a record's inputs were made from, for teachers with an input of their own. images: paths, as the record has them.
    sentences: per sequence, the words of each of its parts, tags spelled out (a `Phrase` where the source wrote text)."""

    images: tuple[str, ...]
    sentences: tuple[tuple[tuple[str, ...], ...], ...]


@dataclass(frozen=True)
class Batch:
    """ids: [B] record ids. text: S = B * choices sequences, a record's side by side. images: one per image of a record (2 for
    NLVR2), each of B rows. target: [B] class or choice indices, or [B, A] soft answer scores in [0, 1] (VQA), or None without
    labels. sources: [B]; empty where nobody asks for them."""

    ids: list[str]
    text: TextBatch
    images: list[VisualBatch]
    target: Tensor | None
    sources: list[RecordSource] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def choices(self) -> int:
        """Sequences of a record."""
        return len(self.text.ids) // len(self.ids)

    def image_for_each_text(self, position: int) -> VisualBatch:
        """The image `position` of every record, repeated for each of its sequences: S rows."""
        image, choices = self.images[position], self.choices
        if choices == 1:
            return image
        rows = torch.arange(len(self), device=self.text.ids.device)
        return image[rows.repeat_interleave(choices)]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        move = {"device": device, "non_blocking": True}
        return replace(
            self,
            text=self.text.to(**move),
            images=[image.to(**move) for image in self.images],
            target=None if self.target is None else self.target.to(**move),
        )


@dataclass(frozen=True)
class Pretext(Batch):
    """B pairs arranged for pre-training: N texts, some of them with hidden words, and B images, read in R pairs.

    A dual encoder encodes each text and each image once, however many pairs they stand in; a fusion encoder reads every pair, but
    a pair that several tasks ask about only once. pairs: [R, 2] row of the text, row of the image. rows: of each task, the pairs
    [K] that it is about. hidden: [N, T] true ids of hidden tokens and IGNORED elsewhere. matched: [B] bool, whether a pair of ITM
    has its own image.
    """

    pairs: Tensor = field(default_factory=lambda: torch.empty(0, 2, dtype=torch.long))
    rows: dict[str, Tensor] = field(default_factory=dict)
    hidden: Tensor | None = None
    matched: Tensor | None = None

    def joint(self) -> Batch:
        """All R pairs, texts beside images."""
        texts, images = self.pairs.unbind(dim=1)
        return Batch([""] * len(texts), self.text[texts], [image[images] for image in self.images], None)

    def hidden_words(self) -> Tensor:
        """[K, T] targets of the pairs of MLM."""
        return self.hidden[self.pairs[self.rows[MLM], 0]]
