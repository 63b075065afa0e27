"""How much attention goes to each modality, and to each word (ADVL, appendix and Figs. 3 and 8, after Cao et al., 2020).

Pure functions of a view. They make whole attention maps of the layers that were captured, a batch at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vldistill.models.base.outputs import PairStates
from vldistill.objectives.attention import attention_log_probs, joined


def whole_attention(view: PairStates, layer: int, *, first_only: bool = True) -> Tensor:
    """The attention of one layer over text and image together, [S, H, Q, T + V]: of the first token, [CLS], alone (Q = 1), or of
    all tokens of both modalities (Q = T + V)."""
    kept = view.qk[layer]
    query = kept.text_query[:, :, :1] if first_only else joined(kept.text_query, kept.image_query)
    valid = torch.cat([view.text_mask, view.image_mask], dim=1)
    return attention_log_probs(query, joined(kept.text_key, kept.image_key), valid).exp()


def modality_mass(view: PairStates, layer: int, *, first_only: bool = True) -> Tensor:
    """[S, H, 2]: the attention on visual and that on text tokens, in [0, 1], of [CLS], or the mean over all real tokens. What is
    neither (an image's own CLS, an end token) counts for none."""
    attention = whole_attention(view, layer, first_only=first_only)
    length = view.text_mask.shape[1]
    vision = attention[..., length:].masked_fill(~view.visual[:, None, None, :], 0.0).sum(dim=-1)
    text = attention[..., :length].masked_fill(~view.text_mask[:, None, None, :], 0.0).sum(dim=-1)
    mass = torch.stack([vision, text], dim=-1)  # [S, H, Q, 2]
    if first_only:
        return mass[:, :, 0]
    asking = torch.cat([view.text_mask, view.image_mask], dim=1)[:, None, :, None]
    return (mass * asking).sum(dim=2) / asking.sum(dim=2)


def token_attention(view: PairStates, layer: int) -> Tensor:
    """[S, T]: what each text token gets of the attention of [CLS], summed over heads; zero at padding."""
    attention = whole_attention(view, layer)[:, :, 0, : view.text_mask.shape[1]].sum(dim=1)
    return attention.masked_fill(~view.text_mask, 0.0)


def text_to_image(view: PairStates, layer: int) -> Tensor:
    """[S, T, V]: the attention of each text token over the image alone, as DiDE compares it (section 3.2), mean over heads."""
    kept = view.qk[layer]
    return attention_log_probs(kept.text_query, kept.image_key, view.image_mask).exp().mean(dim=1)


def by_word(values: Tensor, words: Tensor, count: int, *, mean: bool) -> Tensor:
    """[T, ...] of tokens to [W, ...] of `count` words, summed or averaged over a word's tokens; zero for words without one.

    words: [T] the index of each token's word, -1 at specials and padding.
    """
    totals = values.new_zeros(count, *values.shape[1:])
    kept = words >= 0
    totals.index_add_(0, words[kept], values[kept])
    if not mean:
        return totals
    tokens = torch.bincount(words[kept], minlength=count).clamp(min=1)
    return totals / tokens.view(-1, *[1] * (values.dim() - 1))
