"""Multiply-add counts of the encoders, as the limit that a measured speed-up is held against. One multiply-add is 2 FLOP."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vldistill.models.base.bert import RegionBertConfig
from vldistill.models.lxmert.model import LxmertConfig
from vldistill.models.vilt.model import EncoderConfig
from vldistill.models.visualbert.model import VisualBertConfig

Config = EncoderConfig | RegionBertConfig | VisualBertConfig


def transformer_flops(tokens: int, config: Config) -> float:
    """Forward FLOP of the layers for one sequence (norms, softmax and biases left out)."""
    return config.num_hidden_layers * _layer_flops(tokens, config)


def _layer_flops(tokens: int, config: Config | LxmertConfig) -> float:
    width, inner = config.hidden_size, config.intermediate_size
    return 2 * tokens * (4 * width**2 + 2 * width * inner) + 4 * tokens**2 * width


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


def stream_flops(tokens: int, cells: int, config: RegionBertConfig | VisualBertConfig, *, boxes: int = 0) -> float:
    """One pass of a BERT over a text and regions or cells of a map, their projection and the pooler included. boxes: numbers of a
    box that are projected beside the feature."""
    seen = 2 * cells * (config.region_size + boxes) * config.hidden_size
    return transformer_flops(tokens + cells, config) + seen + 2 * config.hidden_size**2


def lxmert_flops(tokens: int, regions: int, config: LxmertConfig) -> float:
    """One pass of LXMERT. A layer that crosses has attention from each side to the other before a layer of each side's own."""
    width = config.hidden_size
    own = config.l_layers * _layer_flops(tokens, config) + config.r_layers * _layer_flops(regions, config)
    cross = 2 * 4 * width**2 * (tokens + regions) + 2 * 4 * tokens * regions * width
    crossed = config.x_layers * (cross + _layer_flops(tokens, config) + _layer_flops(regions, config))
    seen = 2 * regions * (config.visual_feat_dim + config.visual_pos_dim) * width
    return own + crossed + seen + 2 * width**2


def network_flops(network: nn.Module, height: int, width: int) -> float:
    """One image through a convolutional network, as torch counts it; nothing is computed."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        network.to_empty(device="meta").forward_features(torch.empty(1, 3, height, width))
    return counter.get_total_flops()
