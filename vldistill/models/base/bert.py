"""BERT's encoder (post-norm) over one sequence of text and what stands for the image: the body of UNITER, VILLA, VL-BERT,
CLIP-ViL and OSCAR.

Parameter names are BERT's, as the official checkpoints have them. Sequences are packed: what is padding between a row's text and
its regions is taken out before the encoder and put back behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vldistill.data.batch import TextBatch
from vldistill.models.base.checkpoint import ModelConfig
from vldistill.models.base.outputs import NOTHING, Capture, Encoded, PairStates, QueryKey
from vldistill.models.base.recompute import run_layer


@dataclass(frozen=True)
class RegionBertConfig(ModelConfig):
    """Sizes; field names and defaults are `transformers.BertConfig`'s (base, cased), but for `region_size`, the width of a
    region's feature."""

    vocab_size: int = 28996
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    layer_norm_eps: float = 1e-12
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    region_size: int = 2048


class TextEmbeddings(nn.Module):
    """Word + position + type, norm, dropout."""

    def __init__(self, config: RegionBertConfig):
        super().__init__()
        width = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, width, padding_idx=0)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, width)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, text: TextBatch, delta: Tensor | None = None) -> Tensor:
        """[S, T, D]. delta: [S, T, D], added to word embeddings."""
        words = self.word_embeddings(text.ids)
        if delta is not None:
            words = words + delta
        states = words + self.position_embeddings.weight[: words.shape[1]] + self.token_type_embeddings(text.segments)
        return self.dropout(self.LayerNorm(states))


class BertOutput(nn.Module):
    """A Linear with dropout, residual and norm behind it, named as BERT names them."""

    def __init__(self, inputs: int, config: RegionBertConfig):
        super().__init__()
        self.dense = nn.Linear(inputs, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, states: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(states)) + residual)


class SelfAttention(nn.Module):
    """Attention of states to themselves, or, under the same names, to others."""

    def __init__(self, config: RegionBertConfig):
        super().__init__()
        self.heads, self.dropout = config.num_attention_heads, config.attention_probs_dropout_prob
        width = config.hidden_size
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, states: Tensor, mask: Tensor | None, others: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        read = states if others is None else others
        query, key, value = (
            part(source).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part, source in ((self.query, states), (self.key, read), (self.value, read))
        )
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0
        )
        return mixed.transpose(1, 2).flatten(2), query, key


class Layer(nn.Module):
    def __init__(self, config: RegionBertConfig):
        super().__init__()
        self.attention = nn.Module()
        self.attention.self = SelfAttention(config)
        self.attention.output = BertOutput(config.hidden_size, config)
        self.intermediate = nn.Module()
        self.intermediate.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output = BertOutput(config.intermediate_size, config)

    def forward(self, states: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        mixed, query, key = self.attention.self(states, mask)
        states = self.attention.output(mixed, states)
        return self.output(F.gelu(self.intermediate.dense(states)), states), query, key


class BertEncoder(nn.Module):
    """The stack of layers."""

    recompute = False

    def __init__(self, config: RegionBertConfig):
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, states: Tensor, mask: Tensor | None = None, capture: Capture = NOTHING) -> Encoded:
        """states: [S, N, D]. mask: [S, N] bool of the real ones; None where all are."""
        attend = None if mask is None else mask[:, None, None, :]
        qk, layers = {}, {}
        for number, layer in enumerate(self.layer, start=1):
            states, query, key = run_layer(layer, states, attend, recompute=self.recompute)
            if number in capture.qk:
                qk[number] = (query, key)
            if number in capture.hidden:
                layers[number] = states
        return Encoded(states, qk, layers)


class BertPooler(nn.Module):
    """Dense and tanh of the first token."""

    def __init__(self, width: int):
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, states: Tensor) -> Tensor:
        return torch.tanh(self.dense(states[:, 0]))


@dataclass(frozen=True)
class Packing:
    """How rows of several parts become rows without gaps. order: [S, P] place of each packed token in the joined parts. mask:
    [S, P] bool. sizes: tokens of each part."""

    order: Tensor
    mask: Tensor
    sizes: tuple[int, ...]

    def pack(self, states: Tensor) -> Tensor:
        """[S, N, D] of the joined parts to [S, P, D]."""
        return states.gather(1, self.order[..., None].expand(-1, -1, states.shape[-1]))

    def split(self, states: Tensor) -> list[Tensor]:
        """[S, P, D] back to the parts, [S, N_i, D] each; padding is zero."""
        kept = states * self.mask[..., None]
        whole = states.new_zeros(len(states), sum(self.sizes), states.shape[-1])
        whole = whole.scatter_add(1, self.order[..., None].expand_as(kept), kept)
        return list(whole.split(self.sizes, dim=1))


def make_packing(masks: list[Tensor]) -> Packing:
    """From each part's mask, [S, N_i] bool."""
    joined = torch.cat(masks, dim=1)
    longest = int(joined.sum(dim=1).max())
    # Stable, so that real tokens keep their order.
    order = (~joined).to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]
    return Packing(order, joined.gather(1, order), tuple(mask.shape[1] for mask in masks))


@dataclass(frozen=True)
class BertStates:
    """first: [S, D] the first token's output. parts: outputs of each part. views: what `capture` asked for."""

    first: Tensor
    parts: list[Tensor]
    view: PairStates


def encode(
    encoder: BertEncoder, states: Tensor, masks: list[Tensor], *, visual: Tensor, capture: Capture = NOTHING
) -> BertStates:
    """Runs the encoder over packed embeddings.

    states: [S, N, D] of the joined parts: the text, then what stands for the image. masks: [S, N_i] bool of each part. visual:
    [S, N - N_0] bool, regions among what stands for the image.
    """
    packing = make_packing(masks)
    text = packing.sizes[0]
    output = encoder(packing.pack(states), None if bool(packing.mask.all()) else packing.mask, capture)
    qk, hidden = {}, {}
    for number, projected in output.qk.items():
        query, key = (_joined_parts(packing, part) for part in projected)
        qk[number] = QueryKey(query[:, :, :text], key[:, :, :text], query[:, :, text:], key[:, :, text:])
    for number, states in output.layers.items():
        own, *image = packing.split(states)
        hidden[number] = (own, torch.cat(image, dim=1))
    view = PairStates(masks[0], torch.cat(masks[1:], dim=1), visual, qk, hidden)
    return BertStates(output.hidden[:, 0], packing.split(output.hidden), view)


def _joined_parts(packing: Packing, heads: Tensor) -> Tensor:
    """[S, H, P, d] back to the joined parts, [S, H, N, d]."""
    parts = packing.split(heads.transpose(1, 2).flatten(2))
    return torch.cat(parts, dim=1).unflatten(-1, (heads.shape[1], -1)).transpose(1, 2)
