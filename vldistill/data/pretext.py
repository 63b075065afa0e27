"""Batches whose questions are made from the data itself: hidden words, swapped images, matched pairs."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from vldistill.data.batch import Batch

IGNORED = -100
"""The target of a token that is not predicted."""

CMC, MLM, ITM = "cmc", "mlm", "itm"
RANK = "rank"
"""Ranking texts beside an image: a fusion encoder's retrieval, not a task of pre-training, but one without labels too."""
PRETRAINING = {CMC: "cross-modal contrast", MLM: "masked language modelling", ITM: "image-text matching"}
"""The tasks of pre-training, by their short names."""


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
