"""Multiply-add counts of the encoders, as the limit that a measured speed-up is held against. One multiply-add is 2 FLOP."""

from __future__ import annotations

from vldistill.models.vilt import EncoderConfig


def transformer_flops(tokens: int, config: EncoderConfig) -> float:
    """Forward FLOP of the layers for one sequence (norms, softmax and biases left out)."""
    width, inner = config.hidden_size, config.intermediate_size
    return config.num_hidden_layers * (2 * tokens * (4 * width**2 + 2 * width * inner) + 4 * tokens**2 * width)


def patch_flops(patches: int, config: EncoderConfig) -> float:
    """FLOP of projecting the patches of one image."""
    return 2 * patches * 3 * config.patch_size**2 * config.hidden_size


def fusion_flops(tokens: int, patches: int, config: EncoderConfig) -> float:
    """One text-image pair through the fusion encoder, pooler included."""
    return transformer_flops(tokens + patches + 1, config) + patch_flops(patches, config) + 2 * config.hidden_size**2


def image_flops(patches: int, config: EncoderConfig) -> float:
    """One image through the image tower."""
    return transformer_flops(patches + 1, config) + patch_flops(patches, config) + 2 * config.hidden_size**2


def text_flops(tokens: int, config: EncoderConfig) -> float:
    """One text through the text tower."""
    return transformer_flops(tokens, config) + 2 * config.hidden_size**2


def fuse_flops(config: EncoderConfig) -> float:
    """The fusion MLP for one pair: 2D to 2D to D."""
    return 2 * (4 * config.hidden_size**2 + 2 * config.hidden_size**2)
