"""What METER (Dou et al., 2022) makes of each modality before they meet: CLIP's ViT without its last block, RoBERTa, and a Linear
to the common width. Parameter names are the official checkpoint's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vldistill.data.batch import ImageBatch, TextBatch
from vldistill.data.transforms import MEAN, STD
from vldistill.models.base.bert import Layer, RegionBertConfig
from vldistill.models.base.checkpoint import ModelConfig
from vldistill.models.base.heads import init_weights, initial_std
from vldistill.models.base.recompute import run_layer

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
FIRST_POSITION = 2
"""The row of RoBERTa's position table that a text's first token reads; the rows before are those of padding."""
_EPS = 1e-5


@dataclass(frozen=True)
class MeterConfig(ModelConfig):
    """Sizes. The plain names are those of the co-attention layers, of which each modality has `num_hidden_layers`.
    `max_position_embeddings` counts the tokens a text may have. `image_size` is the square that the position table is for."""

    vocab_size: int = 50265
    hidden_size: int = 768
    num_hidden_layers: int = 6
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    layer_norm_eps: float = 1e-12
    max_position_embeddings: int = 512
    modality_type_vocab_size: int = 2
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    text_feedforward: int = 3072
    vision_width: int = 768
    vision_layers: int = 11
    vision_heads: int = 12
    image_size: int = 288
    patch_size: int = 16

    @property
    def text(self) -> RegionBertConfig:
        """Sizes of RoBERTa."""
        return RegionBertConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.text_width,
            num_hidden_layers=self.text_layers,
            num_attention_heads=self.text_heads,
            intermediate_size=self.text_feedforward,
            layer_norm_eps=_EPS,
            hidden_dropout_prob=self.hidden_dropout_prob,
            attention_probs_dropout_prob=self.attention_probs_dropout_prob,
        )


class RobertaEmbeddings(nn.Module):
    """Word + position + the one type, norm, dropout."""

    def __init__(self, config: RegionBertConfig, positions: int):
        super().__init__()
        width = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, width)
        self.position_embeddings = nn.Embedding(positions + FIRST_POSITION, width)
        self.token_type_embeddings = nn.Embedding(1, width)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, ids: Tensor) -> Tensor:
        """[B, T] to [B, T, D]."""
        places = self.position_embeddings.weight[FIRST_POSITION : FIRST_POSITION + ids.shape[1]]
        return self.dropout(self.LayerNorm(self.word_embeddings(ids) + places + self.token_type_embeddings.weight))


class Roberta(nn.Module):
    """The text encoder, [B, T, Dt] of a text."""

    recompute = False

    def __init__(self, config: MeterConfig):
        super().__init__()
        self.embeddings = RobertaEmbeddings(config.text, config.max_position_embeddings)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(Layer(config.text) for _ in range(config.text_layers))

    def forward(self, text: TextBatch) -> Tensor:
        states, attend = self.embeddings(text.ids), attended(text.mask)
        for layer in self.encoder.layer:
            states, _, _ = run_layer(layer, states, attend, recompute=self.recompute)
        return states


class _Gated(nn.Module):
    """CLIP's quick approximation of GELU."""

    def forward(self, values: Tensor) -> Tensor:
        return values * torch.sigmoid(1.702 * values)


class _Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width, eps=_EPS), nn.LayerNorm(width, eps=_EPS)
        self.mlp = nn.Module()
        self.mlp.c_fc, self.mlp.gelu, self.mlp.c_proj = nn.Linear(width, 4 * width), _Gated(), nn.Linear(4 * width, width)

    def forward(self, states: Tensor) -> Tensor:
        inner = self.ln_1(states)
        states = states + self.attn(inner, inner, inner, need_weights=False)[0]
        return states + self.mlp.c_proj(self.mlp.gelu(self.mlp.c_fc(self.ln_2(states))))


class MeterVision(nn.Module):
    """The image encoder: all tokens after `ln_post`, without CLIP's projection. Images are squares of one size."""

    recompute = False

    def __init__(self, config: MeterConfig):
        super().__init__()
        width, side = config.vision_width, config.image_size // config.patch_size
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(side**2 + 1, width))
        self.conv1 = nn.Conv2d(3, width, config.patch_size, stride=config.patch_size, bias=False)
        self.ln_pre, self.ln_post = nn.LayerNorm(width, eps=_EPS), nn.LayerNorm(width, eps=_EPS)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(_Block(width, config.vision_heads) for _ in range(config.vision_layers))
        # From pixels in [-1, 1] to CLIP's normalisation.
        scale, shift = (
            torch.tensor([change(mean, std) for mean, std in zip(CLIP_MEAN, CLIP_STD, strict=True)])
            for change in (lambda mean, std: STD / std, lambda mean, std: (MEAN - mean) / std)
        )
        self.register_buffer("scale", scale[:, None], persistent=False)
        self.register_buffer("shift", shift[:, None], persistent=False)

    def forward(self, image: ImageBatch) -> Tensor:
        """[B, 1 + N, Dv], the CLS first."""
        pixels = (image.patches.unflatten(-1, (3, -1)) * self.scale + self.shift).flatten(2)
        patches = F.linear(pixels, self.conv1.weight.flatten(1))
        first = self.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        states = self.ln_pre(torch.cat([first, patches], dim=1) + self.positional_embedding)
        for block in self.transformer.resblocks:
            states = run_layer(block, states, recompute=self.recompute)
        return self.ln_post(states)


class MeterParts(nn.Module):
    """The encoders of one modality or both, each with its Linear and its rows of the modality types: row 0 is the text's, row 1
    the first image's, row 2 the second's."""

    words = "text_transformer.embeddings.word_embeddings.weight"
    types = "token_type_embeddings.weight"
    positions = "vit_model.visual.positional_embedding"

    def __init__(self, config: MeterConfig, *, text: bool = True, image: bool = True):
        super().__init__()
        self.config = config
        if text:
            self.text_transformer = Roberta(config)
            self.cross_modal_text_transform = nn.Linear(config.text_width, config.hidden_size)
        if image:
            self.vit_model = nn.Module()
            self.vit_model.visual = MeterVision(config)
            self.cross_modal_image_transform = nn.Linear(config.vision_width, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.modality_type_vocab_size, config.hidden_size)

    def embed_text(self, text: TextBatch) -> Tensor:
        """[B, T, D], what the co-attention layers read."""
        return self.cross_modal_text_transform(self.text_transformer(text)) + self.token_type_embeddings.weight[0]

    def embed_image(self, image: ImageBatch, position: int) -> Tensor:
        """[B, 1 + N, D]; `position` is the image's place in its record."""
        states = self.cross_modal_image_transform(self.vit_model.visual(image))
        return states + self.token_type_embeddings.weight[1 + position]

    def initialise(self) -> None:
        """Fresh weights for all that a class has built."""
        init_weights(self, initial_std(self.config.hidden_size))
        if hasattr(self, "vit_model"):
            visual, std = self.vit_model.visual, initial_std(self.config.vision_width)
            for block in visual.transformer.resblocks:
                nn.init.normal_(block.attn.in_proj_weight, std=std)
                nn.init.zeros_(block.attn.in_proj_bias)
            nn.init.normal_(visual.class_embedding, std=std)
            nn.init.normal_(visual.positional_embedding, std=std)


def attended(mask: Tensor) -> Tensor:
    """[B, N] to what attention asks for, [B, 1, 1, N]."""
    return mask[:, None, None, :]


_SIDE = re.compile(r"(?:text_transformer|vit_model)\.|cross_modal_(text|image)_(?:transform|pooler|layers)\.")


def side_of(name: str) -> str | None:
    """The modality whose stream a weight of METER's belongs to, or None.

    >>> side_of("cross_modal_text_layers.0.output.dense.bias"), side_of("token_type_embeddings.weight")
    ('text', None)
    """
    if (match := _SIDE.match(name)) is None:
        return None
    return match[1] or ("text" if name.startswith("text_transformer.") else "image")
