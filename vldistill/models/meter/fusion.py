"""METER (Dou et al., 2022): a text and an image stream that read each other by co-attention, with a head on both pooled CLS.

In each co-attention layer a stream attends to itself, then to what the other stream was before the layer, then goes through its
feed-forward network. Parameter names are the official checkpoint's, below `meter.`.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vldistill.data.batch import ImageBatch, TextBatch
from vldistill.models.base.bert import BertOutput, BertPooler, Layer, SelfAttention
from vldistill.models.base.fusion import Fusion, FusionStates
from vldistill.models.base.outputs import NOTHING, Capture, PairStates, QueryKey, patches_only, with_cls
from vldistill.models.base.recompute import run_layer
from vldistill.models.meter.parts import MeterConfig, MeterParts, attended


class CoLayer(Layer):
    """BERT's layer with an attention to the other modality between its own attention and the feed-forward network."""

    def __init__(self, config: MeterConfig):
        super().__init__(config)
        self.crossattention = nn.Module()
        self.crossattention.self = SelfAttention(config)
        self.crossattention.output = BertOutput(config.hidden_size, config)

    def forward(self, states: Tensor, mask: Tensor | None, other: Tensor, beside: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """states: [B, N, D], other: [B, M, D] of the other modality, each with its mask, None for images. Returns the output and,
        of the attention to the other, queries [B, H, N, d] and keys [B, H, M, d]."""
        mixed, _, _ = self.attention.self(states, mask)
        states = self.attention.output(mixed, states)
        mixed, query, key = self.crossattention.self(states, beside, other)
        states = self.crossattention.output(mixed, states)
        return self.output(F.gelu(self.intermediate.dense(states)), states), query, key


class MeterEncoder(MeterParts):
    """Both encoders, the co-attention layers and the two poolers."""

    recompute = False

    def __init__(self, config: MeterConfig):
        super().__init__(config)
        depth = config.num_hidden_layers
        self.cross_modal_text_layers = nn.ModuleList(CoLayer(config) for _ in range(depth))
        self.cross_modal_image_layers = nn.ModuleList(CoLayer(config) for _ in range(depth))
        self.cross_modal_text_pooler = BertPooler(config.hidden_size)
        self.cross_modal_image_pooler = BertPooler(config.hidden_size)
        self.initialise()

    def encode_pair(
        self, text: TextBatch, image: ImageBatch, position: int = 0, capture: Capture = NOTHING
    ) -> tuple[Tensor, Tensor, PairStates]:
        """Final states of the text [B, T, D] and of the image [B, 1 + N, D], and the view. The queries and keys of a layer are
        those by which its two streams read each other."""
        words, patches, mask = self.embed_text(text), self.embed_image(image, position), attended(text.mask)
        qk, hidden = {}, {}
        pairs = zip(self.cross_modal_text_layers, self.cross_modal_image_layers, strict=True)
        for number, (of_text, of_image) in enumerate(pairs, start=1):
            read, text_query, image_key = run_layer(of_text, words, mask, patches, None, recompute=self.recompute)
            patches, image_query, text_key = run_layer(of_image, patches, None, words, mask, recompute=self.recompute)
            words = read
            if number in capture.qk:
                qk[number] = QueryKey(text_query, text_key, image_query, image_key)
            if number in capture.hidden:
                hidden[number] = (words, patches)
        return words, patches, PairStates(text.mask, with_cls(image.mask), patches_only(image.mask), qk, hidden)

    def pool(self, words: Tensor, patches: Tensor) -> Tensor:
        """[B, 2 D]: text, then image."""
        return torch.cat([self.cross_modal_text_pooler(words), self.cross_modal_image_pooler(patches)], dim=-1)

    @staticmethod
    def of_other_half(name: str) -> bool:
        """It has both halves."""
        return False


class Meter(Fusion):
    """METER, with heads on [text pooled; image pooled]."""

    towers = ("meter",)

    def __init__(self, config: MeterConfig, *, images: int, classes: int, pretraining: Collection[str] = ()):
        super().__init__(
            MeterEncoder(config), config, pooled=2 * config.hidden_size, images=images, classes=classes, pretraining=pretraining
        )

    def read(self, text: TextBatch, image: ImageBatch, position: int, capture: Capture) -> FusionStates:
        words, patches, view = self.meter.encode_pair(text, image, position, capture)
        return FusionStates(self.meter.pool(words, patches), words, view)
