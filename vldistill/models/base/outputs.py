"""What a model returns, and what it is asked to keep on the way.

Layers are counted from 1, as layer outputs. Only the layers asked for are kept: a whole model's attention would cost
five times the memory of its forward pass.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Capture:
    """Which layers to keep. qk: query and key projections. hidden: outputs."""

    qk: tuple[int, ...] = ()
    hidden: tuple[int, ...] = ()


NOTHING = Capture()


@dataclass(frozen=True)
class Encoded:
    """What an encoder makes of a sequence. hidden: [B, S, D] final states. qk: per captured layer, query and key [B, H, S, d].
    layers: per captured layer, its output [B, S, D]."""

    hidden: Tensor
    qk: dict[int, tuple[Tensor, Tensor]]
    layers: dict[int, Tensor]


@dataclass(frozen=True)
class QueryKey:
    """Projections of one layer, split by modality, before scaling: each [B, H, T or V, d]."""

    text_query: Tensor
    text_key: Tensor
    image_query: Tensor
    image_key: Tensor


@dataclass(frozen=True)
class PairStates:
    """One image beside each sequence. text_mask: [S, T]; image_mask: [S, V] bool, whatever stands for the image. visual: [S, V]
    the patches or regions among it, not the image's CLS. qk: per layer. hidden: per layer, (text [S, T, D], image [S, V, D])."""

    text_mask: Tensor
    image_mask: Tensor
    visual: Tensor
    qk: dict[int, QueryKey] = field(default_factory=dict)
    hidden: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __getitem__(self, rows: Tensor) -> PairStates:
        """The sequences `rows` [R], in that order."""
        qk = {
            layer: QueryKey(*(getattr(kept, name)[rows] for name in QueryKey.__dataclass_fields__))
            for layer, kept in self.qk.items()
        }
        hidden = {layer: (text[rows], image[rows]) for layer, (text, image) in self.hidden.items()}
        return PairStates(self.text_mask[rows], self.image_mask[rows], self.visual[rows], qk, hidden)


@dataclass(frozen=True)
class Vectors:
    """What a dual encoder makes of each side alone. text: [S, D]. images: per image of a record, [B, D]."""

    text: Tensor
    images: list[Tensor]


@dataclass(frozen=True)
class Output:
    """logits: [B, C], by which an answer is chosen; of a record with choices, one a choice. views: one per image of a record (2
    for NLVR2). pairs: [B, C, 2] where a head judges each choice by two classes of its own, wrong and right (UNITER on VCR).
    auxiliary: weighted loss terms of the model's own, beside the task's, by name; in training only. vectors: of a dual encoder,
    what retrieval compares. words: [M, V] logits of the hidden tokens, and matching: [K, 2], where a batch asks (`Pretext`)."""

    logits: Tensor
    views: list[PairStates]
    pairs: Tensor | None = None
    auxiliary: dict[str, Tensor] = field(default_factory=dict)
    vectors: Vectors | None = None
    words: Tensor | None = None
    matching: Tensor | None = None


@dataclass(frozen=True)
class TeacherOutput:
    """What ADVL's teachers say of a batch, in the precision they were stored or computed in.

    vision: per image of a record, [B, Dv]. text: [S, Dt]. word_index: [S, m] indices of the selected words, -1 where a sequence
    has fewer. words: [S, m, Dt] their features, zero of a word that the teacher cut off. fusion: a fusion teacher's output beside
    them (DiDE). None: not asked for.
    """

    vision: list[Tensor] | None = None
    text: Tensor | None = None
    word_index: Tensor | None = None
    words: Tensor | None = None
    fusion: Output | None = None


def with_cls(mask: Tensor) -> Tensor:
    """[B, N] mask of what stands for an image to [B, 1 + N] with the image's CLS, which is always valid."""
    return F.pad(mask, (1, 0), value=True)


def patches_only(mask: Tensor) -> Tensor:
    """[B, N] mask of what stands for an image to [B, 1 + N] without the image's CLS."""
    return F.pad(mask, (1, 0), value=False)
