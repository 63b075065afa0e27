"""The dual encoders that DiDE is compared with (Table 2): CLIP, SLIP and DeCLIP, with DiDE's fusion MLP and heads on their
vectors."""

from __future__ import annotations

from collections.abc import Collection

from vldistill.models.base.dual_encoder import DualEncoder
from vldistill.models.clip_dual.towers import ClipConfig, ClipImageTower, ClipTextTower


class ClipDual(DualEncoder):
    """Both towers as they were pre-trained, projections included: the fusion MLP, and the cosine of retrieval, read the vectors
    of the shared space. No fusion model of this kind could teach it, so it learns from labels or by contrast alone."""

    def __init__(self, config: ClipConfig, *, images: int, classes: int, pretraining: Collection[str] = ()):
        super().__init__(ClipTextTower(config), ClipImageTower(config), images=images, classes=classes, pretraining=pretraining)
