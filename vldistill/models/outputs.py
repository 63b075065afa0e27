"""What a model returns, and what it is asked to keep on the way.

Layers are counted from 1, as layer outputs. Only the layers asked for are kept: a whole model's attention would cost
five times the memory of its forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Capture:
    """Which layers to keep. qk: query and key projections. hidden: outputs."""

    qk: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()


NOTHING = Capture()


@dataclass(frozen=True)
class QueryKey:
    """Projections of one layer, split by modality, before scaling: each [B, H, T or V, d]."""

    text_query: Tensor
    text_key: Tensor
    image_query: Tensor
    image_key: Tensor


@dataclass(frozen=True)
class View:
    """One image beside its text. text_mask: [B, T]; image_mask: [B, V] bool with the image's CLS first.
    qk: per layer. hidden: per layer, (text [B, T, D], image [B, V, D])."""

    text_mask: Tensor
    image_mask: Tensor
    qk: dict[int, QueryKey] = field(default_factory=dict)
    hidden: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Output:
    """logits: [B, C]. views: one per image of a record (2 for NLVR2)."""

    logits: Tensor
    views: list[View]
