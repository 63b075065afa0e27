"""What a clip_dual student starts from: a CLIP of open_clip, a SLIP that `vldistill convert slip` wrote, or nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vldistill.data.records import read_json
from vldistill.data.text import WordTokenizer, clip_tokenizer
from vldistill.errors import InputError
from vldistill.models.base.checkpoint import fit_encoder, load_strict, read_weights, resolve_model
from vldistill.models.base.clip import load_open_clip
from vldistill.models.base.slip import SlipModel
from vldistill.models.base.weights import fetched, fixed_random
from vldistill.models.clip_dual.model import GELU, IMAGENET_MEAN, IMAGENET_STD, QUICK_GELU, TIMM_VISION, ClipConfig, ClipDual

# The temperature of pre-training, which neither answers nor ranks depend on, and what some models add to it.
_LEFT_OUT = ("logit_scale", "logit_bias")
_OF_IMAGES = ("visual.", "image_projection")
_EPS = 1e-5
"""Of all norms."""
_FETCH = "where there is a network: the same command with --dry-run; or give a local folder"


@dataclass(frozen=True)
class Towers:
    """A pre-trained pair, read. weights: under the names of both towers together. where: it came from."""

    config: ClipConfig
    weights: dict[str, Tensor]
    tokenizer: WordTokenizer
    where: str


def read_clip(model: str, weights: str | None) -> Towers:
    """A CLIP of open_clip (see `load_open_clip`). Raises InputError where it cannot be had, or has other parts than CLIP's own
    two Transformers and vocabulary."""

    def load() -> nn.Module:
        with fixed_random():
            return load_open_clip(model, weights)[0]

    network = fetched(load, model, _FETCH)
    tokenizer = clip_tokenizer()
    visual, text = network.visual, getattr(network, "text", network)
    if not _plain(visual, text) or len(text.token_embedding.weight) != len(tokenizer.vocabulary):
        raise InputError(
            "is no pair of CLIP's own Transformers, read at CLS and at the end token of CLIP's vocabulary",
            where=model,
            hint="choose a ViT model of open_clip, for example ViT-B-32-quickgelu",
        )
    context, text_width = text.positional_embedding.shape
    linear = isinstance(text.text_projection, nn.Linear)
    projection = text.text_projection.weight.T if linear else text.text_projection
    seen = visual.preprocess_cfg
    config = ClipConfig(
        hidden_size=projection.shape[1],
        vocab_size=len(tokenizer.vocabulary),
        max_position_embeddings=context,
        num_hidden_layers=text.transformer.layers,
        text_width=text_width,
        **_block("text", text.transformer),
        text_projection_bias=linear and text.text_projection.bias is not None,
        vision_layers=visual.transformer.layers,
        vision_width=visual.transformer.width,
        **_block("vision", visual.transformer),
        image_size=visual.image_size[0],
        patch_size=visual.patch_size[0],
        pixel_mean=tuple(seen["mean"]),
        pixel_std=tuple(seen["std"]),
    )
    towers = {name.removeprefix("text."): value.float() for name, value in network.state_dict().items()}
    if linear and not config.text_projection_bias:
        towers["text_projection"] = towers.pop("text_projection.weight").T.contiguous()
    return Towers(config, towers, tokenizer, model)


def read_slip(source: str) -> Towers | None:
    """A SLIP, with ImageNet's normalisation; None where `source` is another model's folder. Raises InputError where it is
    broken."""
    folder = resolve_model(source)
    read = read_json(folder / "config.json") if (folder / "config.json").is_file() else None
    if not isinstance(read, dict) or read.get("model_type") != "slip":
        return None
    try:
        with torch.device("meta"):  # its sizes alone
            network = SlipModel(**read["sizes"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise InputError(
            f"is not a model configuration: {error}",
            where=str(folder / "config.json"),
            hint="make it again with: vldistill convert slip FILE OUT",
        ) from None
    visual, block = network.visual, network.visual.blocks[0]
    context, text_width = network.positional_embedding.shape
    config = ClipConfig(
        hidden_size=network.text_projection.shape[1],
        vocab_size=len(network.token_embedding.weight),
        max_position_embeddings=context,
        num_hidden_layers=network.transformer.layers,
        text_width=text_width,
        **_block("text", network.transformer),
        vision=TIMM_VISION,
        vision_layers=len(visual.blocks),
        vision_width=visual.embed_dim,
        vision_heads=block.attn.num_heads,
        vision_feedforward=block.mlp.fc1.out_features,
        vision_activation=GELU,
        image_size=visual.patch_embed.img_size[0],
        patch_size=visual.patch_embed.patch_size[0],
        pixel_mean=IMAGENET_MEAN,
        pixel_std=IMAGENET_STD,
    )
    tokenizer = clip_tokenizer()
    if config.vocab_size != len(tokenizer.vocabulary):
        raise InputError(
            f"has {config.vocab_size:,} tokens, CLIP's vocabulary has {len(tokenizer.vocabulary):,}",
            where=str(folder),
            hint="give a SLIP of the published layout",
        )
    return Towers(config, read_weights(folder), tokenizer, str(folder))


def scratch_config(words: int, context: int, *, layers: int, width: int, heads: int, feedforward: int, patch: int) -> ClipConfig:
    """A CLIP whose towers have the same sizes, and the shared space their width. words, context: of the text."""
    text = {"text_width": width, "text_heads": heads, "text_feedforward": feedforward}
    vision = {"vision_layers": layers, "vision_width": width, "vision_heads": heads, "vision_feedforward": feedforward}
    return ClipConfig(
        hidden_size=width,
        vocab_size=words,
        max_position_embeddings=context,
        num_hidden_layers=layers,
        patch_size=patch,
        **text,
        **vision,
    )


def sized(config: ClipConfig, image_size: int, where: str | None = None) -> ClipConfig:
    """For images of another size. Raises InputError where patches do not divide it."""
    patch = config.patch_size
    if image_size % patch:
        raise InputError(
            f"image.size {image_size} is no multiple of CLIP's patch, {patch}",
            where=where,
            hint=f"set image.size={image_size // patch * patch or patch}",
        )
    return replace(config, image_size=image_size)


def load_towers(model: ClipDual, weights: dict[str, Tensor], where: str) -> None:
    """Fills both towers; a table of positions for squares of another size is resized. Raises InputError where a weight has no
    place, or a place no weight."""
    kept = {name: value for name, value in weights.items() if name not in _LEFT_OUT}
    for tower, images in ((model.text_encoder, False), (model.image_encoder, True)):
        own = {name: value for name, value in kept.items() if name.startswith(_OF_IMAGES) == images}
        load_strict(tower, fit_encoder(own, tower), where)


def _plain(visual: nn.Module, text: nn.Module) -> bool:
    """Whether these are the Transformers that the towers are, pooled as they are."""
    if not hasattr(visual, "transformer") or not hasattr(visual, "class_embedding") or not hasattr(text, "token_embedding"):
        return False
    pooled = getattr(text, "text_pool_type", getattr(text, "pool_type", None))
    return (
        getattr(text, "attn_mask", None) is not None
        and pooled in ("argmax", "eos")
        and visual.pool_type == "tok"
        and visual.attn_pool is None
        and text.text_projection is not None
        and {norm.eps for norm in (visual.ln_post, text.ln_final)} == {_EPS}
        and all(_activation(part.transformer) for part in (visual, text))
    )


def _block(side: str, transformer: nn.Module) -> dict[str, Any]:
    """Sizes that each block of a Transformer of open_clip has."""
    block = transformer.resblocks[0]
    return {
        f"{side}_heads": block.attn.num_heads,
        f"{side}_feedforward": block.mlp.c_fc.out_features,
        f"{side}_activation": _activation(transformer),
    }


def _activation(transformer: nn.Module) -> str | None:
    """None for one that the towers do not have."""
    from open_clip.transformer import QuickGELU

    layer = transformer.resblocks[0].mlp.gelu
    if isinstance(layer, QuickGELU):
        return QUICK_GELU
    return GELU if isinstance(layer, nn.GELU) and layer.approximate == "none" else None
