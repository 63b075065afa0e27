"""Masked language modelling: whole words are hidden and predicted (Devlin et al. 2019; DiDE, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vldistill.data.batch import IGNORED, TextBatch
from vldistill.errors import needed

_MASKED, _RANDOM = 0.8, 0.1  # of the chosen tokens: shown as [MASK], as a token drawn at random; the rest as they are


def mask_words(text: TextBatch, *, mask_id: int, vocabulary: int, probability: float) -> tuple[Tensor, Tensor]:
    """Hides each word with a probability, one at least in every sequence with words; drawn by torch's generator.

    Returns ids [S, T] to be read and targets [S, T], the true id of each hidden word's tokens and IGNORED elsewhere.
    """
    words, device = needed(text.words, "the words' places").cpu(), text.ids.device
    sequences = len(words)
    draw = torch.rand(sequences, int(words.max()) + 2)
    # Where there is no word, at column -1, nothing is ever chosen.
    seen = torch.zeros_like(draw, dtype=torch.bool).scatter_(1, words % draw.shape[1], True)
    seen[:, -1] = False
    draw = draw.masked_fill(~seen, 2.0)
    chosen = (draw < probability) | ((draw == draw.min(dim=1, keepdim=True).values) & seen)
    chosen = chosen.gather(1, words % draw.shape[1])
    fate, others = torch.rand(words.shape), torch.randint(vocabulary, words.shape)
    ids = text.ids.cpu()
    replaced = torch.where(fate < _MASKED, torch.full_like(ids, mask_id), torch.where(fate < _MASKED + _RANDOM, others, ids))
    return (torch.where(chosen, replaced, ids).to(device), torch.where(chosen, ids, IGNORED).to(device))


def masked_language_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Cross-entropy of logits [M, V] with true ids [M], mean over the M hidden tokens, fp32."""
    return F.cross_entropy(logits.float(), truth)
