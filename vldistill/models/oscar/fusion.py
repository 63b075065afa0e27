"""OSCAR as a fusion model: a teacher of DiDE, and the baseline that becomes one.

Its heads are the official ones: on NLVR2, which is read in two passes, (text, left) and (text, right), an MLP of the two pooled
vectors; on tasks of one image a single Linear. Both have dropout before them.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn
from torch.nn import functional as F

from vldistill.data.batch import RegionBatch, TextBatch
from vldistill.models.base.fusion import Fusion, FusionStates
from vldistill.models.base.heads import init_weights, initial_std
from vldistill.models.base.outputs import Capture
from vldistill.models.oscar.encoder import OscarConfig, OscarEncoder


class Oscar(Fusion):
    """OSCAR, with heads on the pooled [CLS]."""

    towers = ("bert",)

    def __init__(self, config: OscarConfig, *, images: int, classes: int, pretraining: Collection[str] = ()):
        super().__init__(
            OscarEncoder(config), config, pooled=config.hidden_size, images=images, classes=classes, pretraining=pretraining
        )

    def head(self, inputs: int, hidden: int, classes: int) -> nn.Module:
        width, dropout = self.config.hidden_size, self.config.hidden_dropout_prob
        if inputs == width:
            return Head(dropout, nn.Linear(inputs, classes))
        hidden = width * self.config.cls_hidden_scale
        return Head(dropout, nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, classes))

    def read(self, text: TextBatch, image: RegionBatch, position: int, capture: Capture) -> FusionStates:
        encoded = self.bert.encode_pair(text, image, capture)
        words = encoded.parts[0]
        return FusionStates(self.bert.pool(words), words, encoded.view)


class Head(nn.Sequential):
    """Layers behind a dropout, which has no place among their names."""

    def __init__(self, dropout: float, *layers: nn.Module):
        super().__init__(*layers)
        self._dropout = dropout
        init_weights(self, initial_std(layers[0].in_features))

    def forward(self, pooled: Tensor) -> Tensor:
        return super().forward(F.dropout(pooled, self._dropout, self.training))
