"""The dual encoder that comes from a ViLT (DiDE, section 3.1)."""

from __future__ import annotations

from collections.abc import Collection

from vldistill.models.base.dual_encoder import DualEncoder
from vldistill.models.vilt.encoder import EncoderConfig, ViltEncoder


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
