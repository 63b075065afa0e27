"""METER (Dou et al., 2022): a text and an image stream that read each other by co-attention, with a head on both pooled CLS;
and the dual encoder that comes from it, whose towers are its streams without the attention to the other.

In each co-attention layer a stream attends to itself, then to what the other stream was before the layer, then goes through
its feed-forward network. Parameter names are the official checkpoint's, below `meter.`. Of the co-attention a tower keeps the
query projection of its own layers and the key projection of the other's, which read its own states. They serve the attention
loss alone, and are computed where that asks for them.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vldistill.data.batch import ImageBatch, TextBatch
from vldistill.models.base.bert import BertOutput, BertPooler, Layer, SelfAttention
from vldistill.models.base.dual_encoder import DualEncoder
from vldistill.models.base.fusion import Fusion, FusionStates
from vldistill.models.base.outputs import NOTHING, Capture, Encoded, PairStates, QueryKey, patches_only, with_cls
from vldistill.models.base.recompute import run_layer
from vldistill.models.meter.parts import MeterConfig, MeterParts, attended, side_of


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


_CROSS = re.compile(r"cross_modal_(text|image)_layers\.\d+\.crossattention\.(?:self\.(query|key|value)|output\.\w+)\.")


class _CrossProjection(nn.Module):
    """What is left of an attention to the other modality. name: of the projection, "query" or "key"."""

    def __init__(self, name: str, config: MeterConfig):
        super().__init__()
        self.self, self.name, self.heads = nn.Module(), name, config.num_attention_heads
        setattr(self.self, name, nn.Linear(config.hidden_size, config.hidden_size))

    def forward(self, states: Tensor) -> Tensor:
        """[B, N, D] to [B, H, N, d]."""
        return getattr(self.self, self.name)(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)


class _TowerLayer(Layer):
    """A co-attention layer without what the other modality adds."""

    asked_in_parts = True
    """Rather than called as a whole."""

    def __init__(self, config: MeterConfig):
        super().__init__(config)
        self.crossattention = _CrossProjection("query", config)

    def attend(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """States after their attention to themselves, where METER's would ask the other modality."""
        mixed, _, _ = self.attention.self(states, mask)
        return self.attention.output(mixed, states)

    def finish(self, states: Tensor) -> Tensor:
        """The feed-forward network."""
        return self.output(F.gelu(self.intermediate.dense(states)), states)


class MeterTower(MeterParts):
    """One stream of a METER. side: "text" or "image"; parameters keep METER's names."""

    recompute = False

    def __init__(self, config: MeterConfig, side: str):
        super().__init__(config, text=side == "text", image=side == "image")
        self.side, self.other = side, "image" if side == "text" else "text"
        depth = config.num_hidden_layers
        setattr(self, f"cross_modal_{side}_layers", nn.ModuleList(_TowerLayer(config) for _ in range(depth)))
        setattr(
            self,
            f"cross_modal_{self.other}_layers",
            nn.ModuleList(nn.ModuleDict({"crossattention": _CrossProjection("key", config)}) for _ in range(depth)),
        )
        setattr(self, f"cross_modal_{side}_pooler", BertPooler(config.hidden_size))
        self.initialise()

    def encode_text(self, text: TextBatch, capture: Capture = NOTHING) -> Encoded:
        """The text alone, [B, T, D]."""
        return self._encode(self.embed_text(text), attended(text.mask), capture)

    def encode_image(self, image: ImageBatch, position: int = 0, capture: Capture = NOTHING) -> Encoded:
        """The image alone, [B, 1 + N, D]."""
        return self._encode(self.embed_image(image, position), None, capture)

    def pool(self, hidden: Tensor) -> Tensor:
        """[B, N, D] to [B, D]: dense and tanh of the first token."""
        return getattr(self, f"cross_modal_{self.side}_pooler")(hidden)

    def of_other_half(self, name: str) -> bool:
        """What serves the other modality alone; of the attentions, all but the queries and keys that read this one's states."""
        if (cross := _CROSS.match(name)) is None:
            return side_of(name) == self.other
        return cross.groups() not in ((self.side, "query"), (self.other, "key"))

    def _encode(self, states: Tensor, mask: Tensor | None, capture: Capture) -> Encoded:
        qk, layers = {}, {}
        pairs = zip(
            getattr(self, f"cross_modal_{self.side}_layers"), getattr(self, f"cross_modal_{self.other}_layers"), strict=True
        )
        for number, (layer, others) in enumerate(pairs, start=1):
            before, states = states, run_layer(layer.attend, states, mask, recompute=self.recompute)
            if number in capture.qk:
                qk[number] = (layer.crossattention(states), others["crossattention"](before))
            states = run_layer(layer.finish, states, recompute=self.recompute)
            if number in capture.hidden:
                layers[number] = states
        return Encoded(states, qk, layers)


class MeterDual(DualEncoder):
    """Both streams of a METER, apart."""

    uses_all_parameters = False
    """The projections of layers that no attention loss asks for get no gradient."""

    def __init__(self, config: MeterConfig, *, images: int, classes: int, pretraining: Collection[str] = ()):
        super().__init__(
            MeterTower(config, "text"), MeterTower(config, "image"), images=images, classes=classes, pretraining=pretraining
        )
