"""CLIP's image network as a source of grid features, a vector for each cell of the map before the pooling, as CLIP-ViL has them
(Shen et al., 2021). A ResNet sees canvases of any size; a Vision Transformer, whose positions are a table, square ones."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vldistill.errors import InputError
from vldistill.models.base.bert import RegionBertConfig
from vldistill.models.base.clip import load_open_clip, published
from vldistill.models.base.loading import RANDOM, fetched, weights_file

RESNET_STRIDE = 32
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""CLIP's, of pixels in [0, 1]."""
_FETCH = "where there is a network: the same command with --dry-run; or give a local folder"


@dataclass(frozen=True)
class ClipVilConfig(RegionBertConfig):
    """BERT's sizes (base, uncased), and those of CLIP's image network (RN50x4).

    region_size: width of a cell. tower, quick_gelu: open_clip's `vision_cfg` and its activation. image_mean, image_std: of pixels
    in [0, 1]. long_side: of the canvas, in pixels. positions: rows, and columns, that have an embedding. frozen: the image
    network does not learn. batch_statistics: in training its batch norms use those of the batch, and keep a running mean.
    """

    vocab_size: int = 30522
    region_size: int = 2560
    tower: dict[str, Any] = field(default_factory=lambda: {"image_size": 288, "layers": [4, 6, 10, 6], "width": 80})
    quick_gelu: bool = False
    image_mean: list[float] = field(default_factory=lambda: list(MEAN))
    image_std: list[float] = field(default_factory=lambda: list(STD))
    long_side: int = 640
    positions: int = 25
    frozen: bool = False
    batch_statistics: bool = True


class GridTower(nn.Module):
    """The image network without its pooling and projection, which would learn nothing."""

    def __init__(self, config: ClipVilConfig):
        super().__init__()
        import open_clip

        nobody = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}
        self.visual = open_clip.CLIP(1, config.tower, nobody, config.quick_gelu).visual
        setattr(self.visual, "attnpool" if is_resnet(config.tower) else "proj", None)
        for name, values in (("mean", config.image_mean), ("std", config.image_std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        self.frozen, self.batch_statistics = config.frozen, config.batch_statistics
        self.requires_grad_(not config.frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> GridTower:
        """Keeps still what is frozen."""
        super().train(mode and not self.frozen)
        if not self.batch_statistics:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        """[N, C, h, w] of [N, 3, H, W] uint8."""
        values = (pixels / 255 - self.mean) / self.std
        outputs = self.visual.forward_intermediates(values, indices=1, normalize_intermediates=True, intermediates_only=True)
        return outputs["image_intermediates"][-1]


@dataclass(frozen=True)
class ReadTower:
    """A CLIP's image network, read. fields: of a `ClipVilConfig`. weights: of `GridTower.visual`; None for random ones."""

    fields: dict[str, Any]
    weights: dict[str, Tensor] | None


def read_tower(model: str, weights: str | None, short: int, long: int) -> ReadTower:
    """The image network of a CLIP (see `load_open_clip`) for canvases of short x long pixels. Raises InputError where it cannot
    be had, or does not fit the canvas."""
    whole = fetched(lambda: _configuration(model), model, _FETCH)
    sizes = {name: value for name, value in whole["vision_cfg"].items() if value is not None}
    if sizes.get("timm_model_name") or sizes.get("attentional_pool"):
        raise InputError("has no image network of CLIP's own", where=model, hint="choose a ResNet or ViT of open_clip")
    check_canvas(sizes, short, long)
    options = {}
    if not is_resnet(sizes):
        sizes["image_size"] = options["force_image_size"] = short  # its table of positions is resized to the canvas
    quick, transform, tower_weights = whole.get("quick_gelu", False), whole.get("preprocess_cfg", {}), None
    if weights != RANDOM:
        if Path(model).is_dir():
            weights_file(Path(model))
        elif not Path(weights or "").is_file():
            quick = quick or published(model, weights).get("quick_gelu", False)
        network, _ = fetched(lambda: load_open_clip(model, weights, **options), model, _FETCH)
        transform = network.visual.preprocess_cfg
        tower_weights = {
            name: value for name, value in network.visual.state_dict().items() if not name.startswith(("attnpool.", "proj"))
        }
    return ReadTower(
        {
            "tower": sizes,
            "quick_gelu": bool(quick),
            "region_size": sizes["width"] * (32 if is_resnet(sizes) else 1),
            "image_mean": list(transform.get("mean", MEAN)),
            "image_std": list(transform.get("std", STD)),
        },
        tower_weights,
    )


def is_resnet(sizes: dict[str, Any]) -> bool:
    """sizes: open_clip's `vision_cfg`."""
    return isinstance(sizes["layers"], list | tuple)


def check_canvas(sizes: dict[str, Any], short: int, long: int) -> None:
    """Raises InputError where the image network cannot see a canvas of short x long pixels."""
    cell = RESNET_STRIDE if is_resnet(sizes) else sizes["patch_size"]
    if short > long or short % cell or long % cell:
        raise InputError(
            f"a canvas of {short} x {long} pixels does not fit cells of {cell}",
            hint=f"set image.size and image.long_side to multiples of {cell}, the second not the smaller one",
        )
    if not is_resnet(sizes) and short != long:
        raise InputError(
            f"a canvas of {short} x {long} pixels is not square, as this CLIP's ViT needs it", hint=f"set image.long_side={short}"
        )


def _configuration(model: str) -> dict[str, Any]:
    """open_clip's, of a name or of a folder in its layout."""
    import open_clip

    if Path(model).is_dir():
        read = json.loads((Path(model) / "open_clip_config.json").read_text(encoding="utf-8"))
        return {**read["model_cfg"], "preprocess_cfg": read.get("preprocess_cfg", {})}
    config = open_clip.get_model_config(model)
    if config is None:
        raise InputError("is no model of open_clip, and no folder", where=model, hint="for example RN50x4")
    return config
