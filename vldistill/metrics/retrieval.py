"""Image-text retrieval in both directions, as pure functions of tensors: ranks from scores or vectors, and recalls from ranks.

Image retrieval asks, for each text, at which place its image comes among all images; text retrieval, for each image, at which
place the first of its own texts comes among all texts. Places count from 1. A tie counts against the one that is looked for, so
that a model that scores everything alike finds nothing; so does a score that is no number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

AT = (1, 5, 10)
_BLOCK = 512
"""Texts that are scored at a time: all scores of COCO's test set would take half a gigabyte."""


@dataclass(frozen=True)
class Ranks:
    """image: [N] the place of each text's image, 1 to M. text: [M] the place of each image's best text, 1 to N."""

    image: Tensor
    text: Tensor


def ranks_of_vectors(texts: Tensor, images: Tensor, owner: Tensor) -> Ranks:
    """Ranks by the dot product, in fp32. texts: [N, D]; images: [M, D], both normalised where the cosine is meant; owner: [N] the
    row of each text's image, of which every image has one or more."""
    texts, images = texts.float(), images.float()
    return _ranks(lambda rows: texts[rows] @ images.T, owner, len(images))


def ranks_of_scores(scores: Tensor, owner: Tensor) -> Ranks:
    """Ranks by scores [N, M] of every text with every image; owner as in `ranks_of_vectors`."""
    return _ranks(lambda rows: scores[rows], owner, scores.shape[1])


def _ranks(scored: Callable[[slice], Tensor], owner: Tensor, images: int) -> Ranks:
    # What an image's best text scores is known only once all have been scored, so that they are scored twice.
    best = torch.full((images,), -torch.inf, device=owner.device)
    image, own = [], []
    for rows in _blocks(len(owner)):
        scores = scored(rows)
        mine = scores.gather(1, owner[rows, None])
        image.append(scores.shape[1] - (scores < mine).sum(dim=1))
        own.append(mine[:, 0])
    owned = torch.cat(own)
    best.scatter_reduce_(0, owner, owned, "amax")
    behind = torch.zeros(images, dtype=torch.long, device=owner.device)
    for rows in _blocks(len(owner)):
        behind += (scored(rows) < best).sum(dim=0)
    # Of its own texts the best comes first: those that tie with it are not ahead.
    level = torch.zeros_like(behind).scatter_add_(0, owner, (~(owned < best[owner])).long())
    return Ranks(torch.cat(image), len(owner) - behind - level + 1)


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK))


def recalls(ranks: Ranks) -> dict[str, float | int]:
    """Shares in [0, 1] of those that are found among the first 1, 5 and 10: `ir_r1` to `ir_r10` (image retrieval, over all texts)
    and `tr_r1` to `tr_r10` (text retrieval, over all images). mean_recall: of all six. accuracy: of both at 1, by which the best
    model is chosen. count: texts; images: of them."""
    shares = {
        f"{side}_r{at}": float((places <= at).double().mean())
        for side, places in (("ir", ranks.image), ("tr", ranks.text))
        for at in AT
    }
    return {
        "accuracy": (shares["ir_r1"] + shares["tr_r1"]) / 2,
        **shares,
        "mean_recall": sum(shares.values()) / len(shares),
        "count": len(ranks.image),
        "images": len(ranks.text),
    }
