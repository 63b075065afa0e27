"""The ResNet through which Pixel-BERT sees (Huang et al., 2020): one of timm, whose last map, a quarter as large after pooling,
is a sequence of cells."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vldistill.errors import InputError
from vldistill.models.base.bert import RegionBertConfig
from vldistill.models.base.loading import RANDOM, fetched

_FETCH = "where there is a network: the same command with --dry-run; or set student.pixels.weights to a file, or to random"


@dataclass(frozen=True)
class PixelBertConfig(RegionBertConfig):
    """BERT's sizes (base, uncased), and those of the network (ResNet-50).

    region_size: width of a cell. network: its name in timm. image_mean, image_std: of pixels in [0, 1]. long_side: of the canvas,
    in pixels. sample: cells of an image that a training pass draws, 0 for all.
    """

    vocab_size: int = 30522
    network: str = "resnet50"
    image_mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    image_std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    long_side: int = 640
    sample: int = 0


class PixelNetwork(nn.Module):
    """The network up to its last map, and the pooling of 2 x 2 cells by their maximum behind it."""

    def __init__(self, config: PixelBertConfig):
        super().__init__()
        self.body = _created(config.network, pretrained=False)
        for name, values in (("mean", config.image_mean), ("std", config.image_std)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """[N, n, C] cells, row by row, of [N, 3, H, W] uint8."""
        grid = self.body.forward_features((pixels.to(self.mean.dtype) / 255 - self.mean) / self.std)
        return F.max_pool2d(grid, 2, ceil_mode=True).flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class ReadNetwork:
    """A network, read. fields: of a `PixelBertConfig`. weights: of `PixelNetwork.body`; None for random ones."""

    fields: dict[str, Any]
    weights: dict[str, Tensor] | None


def read_network(model: str, weights: str | None) -> ReadNetwork:
    """A network of timm. weights: None for the published ones, a file, or "random". Raises InputError where it cannot be had, or
    makes no map."""
    import timm

    if not timm.is_model(model):
        raise InputError("is no model of timm", where=model, hint="for example student.pixels.model=resnet50")
    if weights not in (None, RANDOM) and not Path(weights).is_file():
        raise InputError("no such file", where=weights, hint="set student.pixels.weights to a file, to random, or leave it out")
    drawn = weights == RANDOM
    body = fetched(lambda: _created(model, pretrained=not drawn, file=None if drawn else weights), model, _FETCH)
    if not hasattr(body, "layer4"):
        raise InputError("is no ResNet", where=model, hint="choose a ResNet of timm, for example resnet50")
    norms = {f"image_{name}": list(body.pretrained_cfg[name]) for name in ("mean", "std")}
    return ReadNetwork({"network": model, "region_size": body.num_features, **norms}, None if drawn else body.state_dict())


def _created(name: str, *, pretrained: bool, file: str | None = None) -> nn.Module:
    import timm

    overlay = {"pretrained_cfg_overlay": {"file": file}} if file else {}
    return timm.create_model(name, pretrained=pretrained, num_classes=0, **overlay)
