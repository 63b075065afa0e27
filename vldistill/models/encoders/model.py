"""Encoders of one modality, to be trained as teachers: a BERT of `transformers` on text alone, a ViT of `timm` on images alone.

Their folders are those libraries' own, so that a teacher is named by its run or folder like a published one.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vldistill.data.batch import Batch, ImageBatch, Pretext
from vldistill.data.transforms import MEAN, STD
from vldistill.errors import InputError
from vldistill.models.base.checkpoint import ModelConfig
from vldistill.models.base.heads import Pretrained, init_weights, initial_std
from vldistill.models.base.outputs import NOTHING, Capture, Output, PairStates


@dataclass(frozen=True)
class TextConfig(ModelConfig):
    """Field names and defaults are `transformers.BertConfig`'s."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2

    def library(self, classes: int) -> dict[str, Any]:
        return {"model_type": "bert", "architectures": ["BertModel"]}


@dataclass(frozen=True)
class VisionConfig(ModelConfig):
    """A ViT without a CLS token, whose feature is the mean of its patches. image_size: of the square that is cut out."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_dropout_prob: float = 0.0
    image_size: int = 224
    patch_size: int = 16
    max_position_embeddings: int = 40  # of the text that it is never given

    @property
    def arguments(self) -> dict[str, Any]:
        """timm's. The norm stands before the pooling, so that patches are normalised as ADVL compares them."""
        return {
            "img_size": self.image_size,
            "patch_size": self.patch_size,
            "embed_dim": self.hidden_size,
            "depth": self.num_hidden_layers,
            "num_heads": self.num_attention_heads,
            "mlp_ratio": self.intermediate_size / self.hidden_size,
            "class_token": False,
            "global_pool": "avg",
            "fc_norm": False,
        }

    def library(self, classes: int) -> dict[str, Any]:
        side = self.image_size
        pixels = {
            "input_size": [3, side, side],
            "mean": [MEAN] * 3,
            "std": [STD] * 3,
            "crop_pct": 1.0,
            "interpolation": "bicubic",
        }
        parts = {"num_classes": classes, "classifier": "head", "first_conv": "patch_embed.proj"}
        return {
            "architecture": VisionEncoder.NAME,
            "num_classes": classes,
            "model_args": self.arguments,
            "pretrained_cfg": {**pixels, **parts},
        }


class TextEncoder(Pretrained):
    """BERT, which is trained by masked words; the head for these is not kept."""

    losses: ClassVar[dict[str, str]] = {}

    def __init__(self, config: TextConfig, pretraining: Collection[str] = ()):
        super().__init__()
        from transformers import BertConfig, BertModel

        self.bert = BertModel(BertConfig(**config.to_dict(), initializer_range=initial_std(config.hidden_size)))
        self.layers, self.width = config.num_hidden_layers, config.hidden_size
        self.add_heads(pretraining, config.hidden_size, config.vocab_size)

    @classmethod
    def from_spec(cls, spec) -> TextEncoder:
        return cls(spec.encoder, spec.pretraining)

    def forward(self, batch: Batch, capture: Capture = NOTHING) -> Output:
        """No logits, [B, 0], and one view without an image; of a `Pretext` what the head says."""
        text = batch.joint().text if isinstance(batch, Pretext) else batch.text
        output = self.bert(
            text.ids,
            attention_mask=text.mask,
            token_type_ids=text.segments.clamp(max=1),
            output_hidden_states=bool(capture.hidden),
        )
        states = output.last_hidden_state
        nothing, none = states.new_zeros(len(states), 0, states.shape[-1]), text.mask[:, :0]
        hidden = {layer: (output.hidden_states[layer], nothing) for layer in capture.hidden}
        words = self.hidden_words(states, batch) if isinstance(batch, Pretext) else None
        return Output(states.new_zeros(len(batch), 0), [PairStates(text.mask, none, none, {}, hidden)], words=words)


class VisionEncoder(nn.Module):
    """A ViT with a linear head on the mean of its patches."""

    NAME = "vit_tiny_patch16_224"  # a name that timm knows; every size is overridden
    losses: ClassVar[dict[str, str]] = {}

    def __init__(self, config: VisionConfig, classes: int):
        super().__init__()
        import timm

        self.vit = timm.create_model(
            self.NAME, pretrained=False, num_classes=classes, proj_drop_rate=config.hidden_dropout_prob, **config.arguments
        )
        init_weights(self.vit, initial_std(config.hidden_size))
        self.layers, self.width = config.num_hidden_layers, config.hidden_size

    @classmethod
    def from_spec(cls, spec) -> VisionEncoder:
        return cls(spec.encoder, spec.classes)

    def forward(self, batch: Batch, capture: Capture = NOTHING) -> Output:
        """Logits [B, C]; nothing is captured."""
        return Output(self.vit(pixels_of(batch.images[0])), [])


def pixels_of(image: ImageBatch) -> Tensor:
    """[B, 3, H, W] of patches in raster order. Raises InputError where images differ in size."""
    if not image.uniform:
        raise InputError("a vision encoder needs images of one size", hint="square images come from its own preprocessing")
    rows, columns = image.grids[0]
    side = int((image.patches.shape[-1] // 3) ** 0.5)
    cells = image.patches.view(-1, rows, columns, 3, side, side)
    return torch.einsum("brcxyz->bxrycz", cells).reshape(len(cells), 3, rows * side, columns * side)
