"""ViLT (Kim et al., 2021) as a fusion model (a teacher of DiDE, the baseline that becomes one, a student of ADVL), and the
dual encoder that comes from it (DiDE, section 3.1).

The encoder is written for this tool because the library's draws a random patch permutation at every call (also in evaluation)
and has no fused attention. Parameter names are those of `transformers` (`vilt.*`, `classifier.{0,1,3}`), so weights load by
name, a saved folder loads there too, and the output is matched to 1e-5. A half (text only, image only) is a tower of the dual
encoder; it keeps only the parameters it needs.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vldistill.data.batch import ImageBatch, TextBatch
from vldistill.models.base.checkpoint import ModelConfig
from vldistill.models.base.dual_encoder import DualEncoder
from vldistill.models.base.fusion import Fusion, FusionStates
from vldistill.models.base.heads import init_weights, initial_std
from vldistill.models.base.outputs import NOTHING, Capture, Encoded, PairStates, QueryKey, patches_only, with_cls
from vldistill.models.base.recompute import run_layer


@dataclass(frozen=True)
class EncoderConfig(ModelConfig):
    """Sizes of the encoder; field names and defaults are `transformers.ViltConfig`'s (ViLT-B/32), but for dropout and
    the norm's epsilon, which are ViLT's own. `image_size` sets the grid of position embeddings (12 x 12)."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.0
    layer_norm_eps: float = 1e-12
    image_size: int = 384
    patch_size: int = 32
    max_position_embeddings: int = 40
    type_vocab_size: int = 2
    modality_type_vocab_size: int = 2

    def library(self, classes: int) -> dict[str, Any]:
        return {"qkv_bias": True, "num_channels": 3, "tie_word_embeddings": False}


_HALVES = (
    "embeddings.text_embeddings.",
    "embeddings.patch_embeddings.",
    "embeddings.cls_token",
    "embeddings.position_embeddings",
)


class _SelfAttention(nn.Module):
    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.heads, self.dropout = config.num_attention_heads, config.attention_probs_dropout_prob
        width = config.hidden_size
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, states: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = (self._split(part(states)) for part in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0
        )
        return mixed.transpose(1, 2).flatten(2), query, key

    def _split(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class _Projection(nn.Module):
    """A named Linear, for the nesting that the library's parameter names have."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)

    def forward(self, states: Tensor) -> Tensor:
        return self.dense(states)


class _Layer(nn.Module):
    def __init__(self, config: EncoderConfig):
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.attention = nn.Module()
        self.attention.attention = _SelfAttention(config)
        self.attention.output = _Projection(width, width)
        self.intermediate = _Projection(width, config.intermediate_size)
        self.output = _Projection(config.intermediate_size, width)
        self.layernorm_before, self.layernorm_after = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, states: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        mixed, query, key = self.attention.attention(self.layernorm_before(states), mask)
        states = states + self.dropout(self.attention.output(mixed))
        inner = F.gelu(self.intermediate(self.layernorm_after(states)))
        return states + self.dropout(self.output(inner)), query, key


class _TextEmbeddings(nn.Module):
    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, ids: Tensor) -> Tensor:
        positions = self.position_embeddings.weight[: ids.shape[1]]
        states = self.word_embeddings(ids) + positions + self.token_type_embeddings.weight[0]
        return self.dropout(self.LayerNorm(states))


class _Embeddings(nn.Module):
    """Text and image embeddings with their modality types: row 0 is text, row 1 the first image, row 2 the second."""

    def __init__(self, config: EncoderConfig, *, text: bool, image: bool):
        super().__init__()
        width = config.hidden_size
        self.side = config.image_size // config.patch_size
        self.token_type_embeddings = nn.Embedding(config.modality_type_vocab_size, width)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        if text:
            self.text_embeddings = _TextEmbeddings(config)
        if image:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
            self.position_embeddings = nn.Parameter(torch.zeros(1, self.side**2 + 1, width))
            self.patch_embeddings = nn.Module()
            self.patch_embeddings.projection = nn.Conv2d(3, width, config.patch_size, stride=config.patch_size)

    def text(self, ids: Tensor) -> Tensor:
        """[B, T] ids to [B, T, D]."""
        return self.text_embeddings(ids) + self.token_type_embeddings.weight[0]

    def image(self, batch: ImageBatch, position: int) -> Tensor:
        """Patches to [B, 1 + N, D], the image's CLS first; `position` is the image's place in its record."""
        projection = self.patch_embeddings.projection
        patches = F.linear(batch.patches, projection.weight.flatten(1), projection.bias)
        states = patches + self._positions(batch.grids, patches.shape[1])
        cls = (self.cls_token + self.position_embeddings[:, :1]).expand(len(states), -1, -1)
        states = self.dropout(torch.cat([cls.to(states.dtype), states], dim=1))
        return states + self.token_type_embeddings.weight[1 + position]

    def _positions(self, grids: list[tuple[int, int]], longest: int) -> Tensor:
        """The square table resized to each row's own grid (bilinear, corners aligned): [1 or B, N, D]."""
        table = self.position_embeddings[:, 1:].transpose(1, 2).unflatten(2, (self.side, self.side))
        resized = {}
        for grid in set(grids):
            scaled = (
                table
                if grid == (self.side, self.side)
                else F.interpolate(table.float(), size=grid, mode="bilinear", align_corners=True).to(table.dtype)
            )
            rows = scaled.flatten(2).transpose(1, 2)
            resized[grid] = F.pad(rows, (0, 0, 0, longest - rows.shape[1]))
        if len(resized) == 1:
            return next(iter(resized.values()))
        return torch.cat([resized[grid] for grid in grids])


class ViltEncoder(nn.Module):
    """ViLT's embeddings, pre-norm Transformer, final norm and pooler; `text` and `image` say which halves it has."""

    words = "embeddings.text_embeddings.word_embeddings.weight"
    types = "embeddings.token_type_embeddings.weight"
    positions = None  # resized at each pass, to each image's own grid
    recompute = False

    def __init__(self, config: EncoderConfig, *, text: bool = True, image: bool = True):
        super().__init__()
        self.config = config
        self.embeddings = _Embeddings(config, text=text, image=image)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pooler = _Projection(config.hidden_size, config.hidden_size)
        std = initial_std(config.hidden_size)
        init_weights(self, std)
        if image:
            nn.init.trunc_normal_(self.embeddings.cls_token, std=std)
            nn.init.trunc_normal_(self.embeddings.position_embeddings, std=std)

    def encode_text(self, text: TextBatch, capture: Capture = NOTHING) -> Encoded:
        """The text alone, [B, T, D]."""
        return self._encode(self.embeddings.text(text.ids), text.mask, capture)

    def encode_image(self, image: ImageBatch, position: int = 0, capture: Capture = NOTHING) -> Encoded:
        """The image alone, [B, 1 + N, D]."""
        mask = None if image.uniform else with_cls(image.mask)
        return self._encode(self.embeddings.image(image, position), mask, capture)

    def encode_pair(self, text: TextBatch, image: ImageBatch, position: int = 0, capture: Capture = NOTHING) -> Encoded:
        """Text and image in one sequence, text first, [B, T + 1 + N, D]."""
        states = torch.cat([self.embeddings.text(text.ids), self.embeddings.image(image, position)], dim=1)
        return self._encode(states, torch.cat([text.mask, with_cls(image.mask)], dim=1), capture)

    @staticmethod
    def of_other_half(name: str) -> bool:
        """Whether a whole encoder's weight has no place in one of its halves."""
        return name.startswith(_HALVES)

    def pool(self, hidden: Tensor) -> Tensor:
        """[B, S, D] to [B, D]: dense and tanh of the first token."""
        return torch.tanh(self.pooler(hidden[:, 0]))

    def _encode(self, states: Tensor, mask: Tensor | None, capture: Capture) -> Encoded:
        attend = None if mask is None else mask[:, None, None, :]
        qk, layers = {}, {}
        for number, layer in enumerate(self.encoder.layer, start=1):
            states, query, key = run_layer(layer, states, attend, recompute=self.recompute)
            if number in capture.qk:
                qk[number] = (query, key)
            if number in capture.hidden:
                layers[number] = states
        return Encoded(self.layernorm(states), qk, layers)


class Vilt(Fusion):
    """ViLT, with heads on the pooled text CLS."""

    towers = ("vilt",)

    def __init__(self, config: EncoderConfig, *, images: int, classes: int, pretraining: Collection[str] = ()):
        super().__init__(
            ViltEncoder(config), config, pooled=config.hidden_size, images=images, classes=classes, pretraining=pretraining
        )

    def read(self, text: TextBatch, image: ImageBatch, position: int, capture: Capture) -> FusionStates:
        encoded = self.vilt.encode_pair(text, image, position, capture)
        return FusionStates(self.vilt.pool(encoded.hidden), encoded.hidden[:, : text.ids.shape[1]], _view(text, image, encoded))


def _view(text: TextBatch, image: ImageBatch, encoded: Encoded) -> PairStates:
    length = text.ids.shape[1]
    qk = {layer: _split(query, key, length) for layer, (query, key) in encoded.qk.items()}
    hidden = {layer: (states[:, :length], states[:, length:]) for layer, states in encoded.layers.items()}
    return PairStates(text.mask, with_cls(image.mask), patches_only(image.mask), qk, hidden)


def _split(query: Tensor, key: Tensor, length: int) -> QueryKey:
    return QueryKey(query[:, :, :length], key[:, :, :length], query[:, :, length:], key[:, :, length:])


class ViltDual(DualEncoder):
    """Each tower is a half of a ViLT: its embeddings, all its layers, its norm and its pooler."""

    def __init__(self, config: EncoderConfig, *, images: int, classes: int, pretraining: Collection[str] = ()):
        super().__init__(
            ViltEncoder(config, image=False),
            ViltEncoder(config, text=False),
            images=images,
            classes=classes,
            pretraining=pretraining,
        )
