"""The dual encoder that comes from a METER: each tower is one of its streams without the attention to the other.

Of that attention a tower keeps the query projection of its own layers and the key projection of the other's, which read its own
states. They serve the attention loss alone, and are computed where that asks for them.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from torch import Tensor, nn
from torch.nn import functional as F

from vldistill.data.batch import ImageBatch, TextBatch
from vldistill.models.base.bert import BertPooler, Layer
from vldistill.models.base.dual_encoder import DualEncoder
from vldistill.models.base.outputs import NOTHING, Capture, Encoded
from vldistill.models.base.recompute import run_layer
from vldistill.models.meter.parts import MeterConfig, MeterParts, attended, side_of

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
