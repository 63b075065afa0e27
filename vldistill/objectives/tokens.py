"""A word's features among a sequence's tokens (ADVL, section 3.2.2), aligned by word index, never by token position."""

from __future__ import annotations

import torch
from torch import Tensor


def word_features(states: Tensor, words: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over each selected word's tokens, fp32.

    states: [S, T, D]. words: [S, T] word index of each token, -1 at specials. index: [S, m] selected words, -1 for none. Returns
    features [S, m, D] and [S, m] bool, False where there is no such word or all its tokens were cut off (features are then zero).
    """
    member = (words[:, None, :] == index[:, :, None]) & (index[:, :, None] >= 0)
    counts = member.sum(dim=-1)
    # Autocast would take the product back to half precision.
    with torch.autocast(states.device.type, enabled=False):
        sums = member.float() @ states.float()
    return sums / counts.clamp(min=1)[..., None], counts > 0
