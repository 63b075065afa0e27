"""Label smoothing (Szegedy et al., 2016): cross-entropy against targets that leave a share to the other labels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, share: float) -> Tensor:
    """logits: [B, C]. labels: [B]. share: in [0, 1), spread over all labels. Returns the batch mean, a scalar."""
    return F.cross_entropy(logits, labels, label_smoothing=share)
