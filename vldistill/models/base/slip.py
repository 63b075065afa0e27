"""SLIP (Mu et al., 2021): a ViT of timm and CLIP's text tower, as its published checkpoints lay them out.

`vldistill convert slip` turns a checkpoint, which holds its trainer's arguments as a pickled object, into config.json and
model.safetensors; that folder is what is loaded here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vldistill.artifacts import write_json
from vldistill.models.base.checkpoint import load_strict, read_weights
from vldistill.models.base.converter import Account, OfficialLayout, Weights, depth_of
from vldistill.models.base.official import CLIP_TEXT, SLIP_IMAGE, Stack, heads_of
from vldistill.models.base.weights import save_tensors
from vldistill.places import read_regular

_VISUAL = {384: ("vit_small_patch16_224", 6), 768: ("vit_base_patch16_224", 12), 1024: ("vit_large_patch16_224", 16)}
"""timm's architecture and its heads, by the width of the visual tower."""


class SlipModel(nn.Module):
    """Both towers and their projections. architecture: of timm. options: further arguments for it. width, layers: of the text
    tower. shared: width of the shared space. context: text tokens."""

    def __init__(
        self,
        *,
        architecture: str,
        options: dict[str, Any],
        width: int,
        layers: int,
        heads: int,
        shared: int,
        context: int,
        vocabulary: int,
    ):
        super().__init__()
        import timm
        from open_clip.transformer import QuickGELU, Transformer

        self.visual = timm.create_model(architecture, pretrained=False, num_classes=0, **options)
        self.transformer = Transformer(width, layers, heads, act_layer=QuickGELU)
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.randn(context, width) * 0.01)
        self.ln_final = nn.LayerNorm(width)
        self.image_projection = nn.Parameter(torch.randn(self.visual.num_features, shared) * width**-0.5)
        self.text_projection = nn.Parameter(torch.randn(width, shared) * width**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(2.6592))  # ln(1 / 0.07)
        self.register_buffer("attn_mask", torch.full((context, context), float("-inf")).triu_(1), persistent=False)


def image_states(network: SlipModel, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings [N, E] in the shared space, and patches [N, T, D] after the final norm."""
    states = network.visual.forward_features(pixels)
    return states[:, 0] @ network.image_projection, states[:, 1:]


def load(folder: Path, *, random: bool) -> tuple[SlipModel, Any]:
    """The model of a converted folder and its transform: ImageNet's normalisation, 224 pixels, centre crop."""
    from timm.data import create_transform

    config = json.loads(read_regular(folder / "config.json"))
    network = SlipModel(**config["sizes"])
    if not random:
        load_strict(network, read_weights(folder), str(folder))
    size = network.visual.patch_embed.img_size
    return network, create_transform((3, *size), is_training=False, interpolation="bicubic", crop_pct=1.0)


class SlipLayout(OfficialLayout):
    kind = called = "SLIP"
    renamed = ()
    left_out = ((r"^image_mlp\.", "the self-supervised head, which neither a teacher nor a student needs"),)
    file_hint = "name a checkpoint of a SLIP model with both towers"

    def sizes(self, weights: Weights, file: Path, heads: Sequence[int] | None) -> dict[str, Any]:
        """Arguments of SlipModel. heads: of texts and of images."""
        visual, text = weights["visual.cls_token"].shape[-1], weights["text_projection"]
        context, width = weights["positional_embedding"].shape
        architecture, own = _VISUAL.get(visual, (_VISUAL[768][0], None))
        head_counts = heads_of({"text": Stack(CLIP_TEXT, width), "image": Stack(SLIP_IMAGE, visual)}, heads, file)
        options = {} if head_counts["image"] == own else {"num_heads": head_counts["image"]}
        if visual not in _VISUAL:
            options |= {"embed_dim": visual, "depth": depth_of(weights, "visual.blocks.")}
        return {
            "architecture": architecture,
            "options": options,
            "width": width,
            "layers": depth_of(weights, "transformer.resblocks."),
            "heads": head_counts["text"],
            "shared": text.shape[1],
            "context": context,
            "vocabulary": len(weights["token_embedding.weight"]),
        }

    def tokenizer(self, vocabulary: Path | None, lowercase: bool | None) -> None:
        """It is CLIP's, which is not written beside the weights."""

    def completed(
        self, config: dict[str, Any], official: Weights, weights: Weights, account: Account, answers: Path | None, file: Path
    ) -> tuple[dict[str, Any], Weights]:
        load_strict(SlipModel(**config), weights, str(file))
        return config, weights

    def write(self, folder: Path, spec: dict[str, Any], tokenizer: Any, weights: Weights) -> None:
        write_json(folder / "config.json", {"model_type": "slip", "sizes": spec})
        save_tensors(folder / "model.safetensors", {name: value.contiguous() for name, value in weights.items()})

    def facts(self, spec: dict[str, Any]) -> dict[str, Any]:
        return {"vision": spec["architecture"], "text": f"{spec['layers']} x {spec['width']}"}


LAYOUT = SlipLayout()
