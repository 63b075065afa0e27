"""What a model is given: tensors of one batch, the same for every student and teacher."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextBatch:
    """ids: [B, T] token ids, padded to the longest text of the batch. mask: [B, T] bool, True at real tokens.
    words: per row, the word index of each token (None at specials), by which features align across tokenizers."""

    ids: Tensor
    mask: Tensor
    words: list[list[int | None]]


@dataclass(frozen=True)
class ImageBatch:
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
        """True where all rows have the same grid, so that nothing is padded."""
        return len(set(self.grids)) == 1


@dataclass(frozen=True)
class Batch:
    """ids: record ids. text, images: inputs; `images` holds one `ImageBatch` per image of a record (2 for NLVR2).
    target: [B] class indices, or [B, A] soft answer scores in [0, 1] (VQA), or None without labels."""

    ids: list[str]
    text: TextBatch
    images: list[ImageBatch]
    target: Tensor | None

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        move = {"device": device, "non_blocking": True}
        return replace(
            self,
            text=replace(self.text, ids=self.text.ids.to(**move), mask=self.text.mask.to(**move)),
            images=[replace(image, patches=image.patches.to(**move), mask=image.mask.to(**move)) for image in self.images],
            target=None if self.target is None else self.target.to(**move),
        )
