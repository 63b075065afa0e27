"""ViLT as a fusion model: a teacher of DiDE, the baseline that becomes one, and a student of ADVL.

Its names are `transformers`' (`vilt.*`, `classifier.{0,1,3}`), so a saved folder loads there too.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from vldistill.data.batch import ImageBatch, TextBatch
from vldistill.models.base.fusion import Fusion, FusionStates
from vldistill.models.base.outputs import Capture, Encoded, PairStates, QueryKey, patches_only, with_cls
from vldistill.models.vilt.encoder import EncoderConfig, ViltEncoder


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
