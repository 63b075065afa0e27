"""Contrastive objectives: ADVL's image-text matching, and DiDE's cross-modal contrastive learning (CMC), whose rows are gathered
from all processes with gradients."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F

from vldistill.data.batch import RecordSource


def processes() -> tuple[int, int]:
    """This process's rank, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def gather(rows: Tensor) -> Tensor:
    """[B, ...] of each process, all of equal shape, to [W * B, ...], those of rank 0 first.

    The gradient of a row is the sum of what all processes ask of it. Where every process takes the mean over its own rows, and
    their gradients are averaged (as DDP does), the result is the gradient of the mean over all rows.
    """
    return _Gather.apply(rows) if processes()[1] > 1 else rows


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        context.rows = len(rows)
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        # A reduce-scatter would move half as much, but gloo has none.
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        start = dist.get_rank() * context.rows
        return total[start : start + context.rows]


TEMPERATURE, COLDEST = 0.07, 0.01
"""Where CMC's temperature starts, and what it does not fall below (both as CLIP, Radford et al. 2021)."""


def itm_info_nce(scores: Tensor) -> Tensor:
    """Image-text matching by InfoNCE (ADVL, Eq. 6): -log softmax of the matched pair's score, batch mean, fp32.

    scores: [B, 3] of (image, text), (image, another text), (another image, text), divided by the temperature: what the head says,
    as probabilities (the paper's) or logits. With probabilities at temperature 1 the loss lies between ln(1 + 2 / e) and
    ln(1 + 2e).
    """
    return -scores.float().log_softmax(dim=-1)[:, 0].mean()


def mismatched(same: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """For each row another row to take its image or text from, uniformly among those that are not the same.

    same: [B, B] bool, True where two rows hold the same image (or text), the diagonal included. Returns [B] row numbers, -1 where
    every other row is the same.
    """
    draws = torch.rand(same.shape, generator=generator, device=same.device).masked_fill(same, -1.0)
    best, row = draws.max(dim=-1)
    return row.masked_fill(best < 0, -1)


def cross_modal_info_nce(scores: Tensor, own: Tensor, excluded: Tensor) -> Tensor:
    """InfoNCE of one direction: -log softmax of each row's own column, batch mean, fp32 (DiDE, section 3.3.1).

    scores: [B, N] similarities over the temperature. own: [B] the column that matches each row. excluded: [B, N] bool, columns
    that are no negatives of a row; its own stays in whatever stands there.
    """
    others = excluded.scatter(1, own[:, None], False)
    return F.cross_entropy(scores.float().masked_fill(others, -math.inf), own)


class CrossModalContrast(nn.Module):
    """CMC: InfoNCE from image to text plus from text to image, among the pairs of all processes, by the dot product of
    normalised vectors over a learned temperature (DiDE, section 3.3.1).

    A pair that shares a text or an image with another is no negative of it: Flickr30K has five texts an image, and short captions
    recur. negatives: of the last call, how many a row had on average.
    """

    def __init__(self, temperature: float = TEMPERATURE):
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.negatives: Tensor = torch.zeros(())

    @property
    def temperature(self) -> Tensor:
        return self.log_temperature.exp().clamp(min=COLDEST)

    def forward(self, text: Tensor, image: Tensor, keys: Tensor) -> Tensor:
        """text, image: [B, D] of matched pairs, of this process; keys: [B, 2] as `pair_keys` makes them. Returns a scalar."""
        # Autocast would compare half-precision vectors, whose error is that of close neighbours.
        with torch.autocast(text.device.type, enabled=False):
            text, image = F.normalize(text.float(), dim=-1), F.normalize(image.float(), dim=-1)
            texts, images, all_keys = gather(text), gather(image), gather(keys)
            own = torch.arange(len(text), device=text.device) + processes()[0] * len(text)
            excluded = (keys[:, None] == all_keys).any(dim=-1)
            self.negatives = (~excluded).sum(dim=1).float().mean()
            image_to_text = cross_modal_info_nce(image @ texts.T / self.temperature, own, excluded)
            text_to_image = cross_modal_info_nce(text @ images.T / self.temperature, own, excluded)
        return image_to_text + text_to_image

    @staticmethod
    def right(text: Tensor, image: Tensor, keys: Tensor) -> tuple[Tensor, int]:
        """Of this process's pairs, how many images are nearest to their own text and texts to their own image, and out of how
        many."""
        scores = F.normalize(text.float(), dim=-1) @ F.normalize(image.float(), dim=-1).T
        own = torch.arange(len(text), device=text.device)
        others = (keys[:, None] == keys).any(dim=-1).fill_diagonal_(False)
        scores = scores.masked_fill(others, -math.inf)
        return (scores.argmax(dim=0) == own).sum() + (scores.argmax(dim=1) == own).sum(), 2 * len(own)


def pair_keys(sources: Sequence[RecordSource], device: torch.device | str = "cpu") -> Tensor:
    """[B, 2] numbers by which equal texts and equal images are known, on every process alike."""
    return torch.tensor([[_key(source.sentences), _key(source.images)] for source in sources], device=device)


def _key(value: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(value).encode(), digest_size=8).digest(), "little", signed=True)
