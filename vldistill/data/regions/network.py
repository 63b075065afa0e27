"""VL-BERT's image network: from an image's pixels and objects to a feature of each of them (Su et al., 2020; its code's layout).

A ResNet up to its third stage makes a map of 16 pixels a cell. Each box is cut out of it by RoIAlign at 14 x 14 cells, passes
the fourth stage, all of whose blocks are dilated, is multiplied by the object's mask and averaged. Strides are in the 1 x 1
convolutions, and images are BGR of 0 to 255 without their mean, as in the weights of bottom-up attention.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vldistill.data.batch import PixelBatch, RegionBatch
from vldistill.data.regions.objects import MASK
from vldistill.errors import InputError, first_line
from vldistill.finite import check_weights

STRIDE = 16
FROZEN = ("conv1", "layer1")
"""Stages that are not trained, the first two; norms never are."""
NORM_COUNT = ".num_batches_tracked"
"""A count of training steps, which files of old versions of torch lack and which does nothing here."""
_BGR_MEAN = (102.9801, 115.9465, 122.7717)
BODY, HEAD = "backbone.", "roi_head_feature_extractor."


@dataclass(frozen=True)
class ImageNetwork:
    """blocks: of the four stages; width: of the first one's inner convolutions (ResNet-101 by default). short_side, long_side: of
    an image in pixels; one that is too long is made shorter. object_loss: weight of the loss on objects' classes."""

    blocks: tuple[int, ...] = (3, 4, 23, 3)
    width: int = 64
    short_side: int = 600
    long_side: int = 1200
    object_loss: float = 1.0

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ImageNetwork:
        """From JSON."""
        return cls(**{**values, "blocks": tuple(values["blocks"])})

    @property
    def features(self) -> int:
        """Numbers of a region."""
        return 32 * self.width

    def canvas(self, width: int, height: int) -> tuple[int, int]:
        """(height, width) to which an image of these sides is padded: one of two, so that its features do not depend on what
        else is in its batch."""
        sides = self.short_side, self.long_side
        return sides if height <= width else sides[::-1]


def make_stages(network: ImageNetwork) -> tuple[nn.Sequential, nn.Sequential]:
    """The network up to the map, and the stage behind it, with random weights. Norms and the first two stages are frozen."""
    import timm

    widths = tuple(network.width << stage for stage in range(4))
    resnet = timm.create_model(
        "resnet101",
        pretrained=False,
        num_classes=0,
        layers=network.blocks,
        channels=widths,
        output_stride=STRIDE,
        zero_init_last=False,
    )
    for stage in (resnet.layer2, resnet.layer3):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    for block in resnet.layer4:
        block.conv2.dilation = block.conv2.padding = (2, 2)
    for module in resnet.modules():
        if hasattr(module, "bn3"):  # else the sum over random blocks would double with each
            nn.init.constant_(module.bn3.weight, 0.2)
    body = nn.Sequential(
        OrderedDict((name, getattr(resnet, name)) for name in ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3"))
    )
    for name in FROZEN:
        body.get_submodule(name).requires_grad_(False)
    for norm in norms(body, resnet.layer4):
        norm.requires_grad_(False)
    return body, resnet.layer4


def norms(*modules: nn.Module) -> list[nn.Module]:
    """The batch norms, which stay in evaluation mode while the rest is trained."""
    return [norm for module in modules for norm in module.modules() if isinstance(norm, nn.BatchNorm2d)]


def region_features(body: nn.Module, head: nn.Module, images: PixelBatch) -> RegionBatch:
    """[B, R, F] features of the objects, and [B, F] of the whole images, which are boxes of their own. Zero at padding."""
    from torchvision.ops import roi_align  # slow to import, and most students see regions

    count = len(images.pixels)
    boxes = torch.cat([images.boxes.new_tensor([0.0, 0.0, 1.0, 1.0]).expand(count, 1, 4), images.boxes], dim=1)
    masks = torch.cat([images.masks.new_ones(count, 1, MASK, MASK), images.masks], dim=1)
    there = torch.cat([images.mask.new_ones(count, 1), images.mask], dim=1)
    features: Tensor | None = None
    for canvas in sorted(set(images.canvases)):
        rows = torch.tensor([row for row, own in enumerate(images.canvases) if own == canvas], device=boxes.device)
        pixels, sizes = images.pixels[rows, :, : canvas[0], : canvas[1]], images.sizes[rows]
        maps = body(prepared(pixels, sizes))
        sides = sizes.to(boxes.dtype).repeat(1, 2)[:, None]
        places = torch.minimum(boxes[rows] * sides, sides - 1)
        cut = [place[valid] for place, valid in zip(places, there[rows], strict=True)]
        cells = head(roi_align(maps.float(), cut, MASK, spatial_scale=1 / STRIDE, sampling_ratio=1, aligned=False))
        vectors = (cells * masks[rows][there[rows]][:, None]).mean(dim=(2, 3)).float()
        if features is None:
            features = vectors.new_zeros(*there.shape, vectors.shape[-1])
        row, region = there[rows].nonzero(as_tuple=True)
        features = features.index_put((rows[row], region), vectors)
    return RegionBatch(features[:, 1:], images.boxes, images.mask, features[:, 0])[images.rows]


def prepared(pixels: Tensor, sizes: Tensor) -> Tensor:
    """[B, 3, H, W] RGB bytes to BGR without its mean, zero where there is no image. sizes: [B, 2] width and height of it."""
    values = pixels.flip(1).float() - torch.tensor(_BGR_MEAN, device=pixels.device)[:, None, None]
    wide, high = (
        torch.arange(side, device=pixels.device) < size[:, None]
        for side, size in ((pixels.shape[3], sizes[:, 0]), (pixels.shape[2], sizes[:, 1]))
    )
    return values * (high[:, None, :, None] & wide[:, None, None, :])


class RegionNetwork(nn.Module):
    """The network by itself, frozen, for features that are computed once."""

    def __init__(self, network: ImageNetwork):
        super().__init__()
        self.network = network
        self.backbone, self.roi_head_feature_extractor = make_stages(network)
        self.eval().requires_grad_(False)

    def forward(self, images: PixelBatch) -> RegionBatch:
        return region_features(self.backbone, self.roi_head_feature_extractor, images)


def read_resnet(path: str) -> dict[str, Tensor]:
    """A ResNet's file in torchvision's layout (safetensors or a torch state dict), by the names of the network's two parts;
    its classifier is left out. Raises InputError where there is none."""
    from timm.models import load_state_dict

    if not Path(path).is_file():
        raise InputError("no such file", where=path, hint="name a weights file of ResNet-101")
    try:
        weights = load_state_dict(path, weights_only=True)
    except Exception as error:  # safetensors and torch each raise their own
        raise InputError(
            f"is no weights file: {first_line(error)}", where=path, hint="name a weights file of ResNet-101"
        ) from None
    return {
        f"{HEAD}{name.removeprefix('layer4.')}" if name.startswith("layer4.") else f"{BODY}{name}": value
        for name, value in weights.items()
        if not str(name).startswith("fc.")
    }


def whole(own: dict[str, Tensor], weights: dict[str, Tensor], where: str, name: str) -> dict[str, Tensor]:
    """A file's tensors for a network that has `own`. Raises InputError where one is missing, of another shape, or has no place:
    random features would else go under the name of a trained network. name: of the network that is expected."""
    check_weights({name: value for name, value in weights.items() if isinstance(value, Tensor)}, where)
    missing = [key for key in own if key not in weights and not key.endswith(NORM_COUNT)]
    other = [key for key in own if key in weights and getattr(weights[key], "shape", None) != own[key].shape]
    foreign = [key for key in weights if key not in own]
    for keys, what in ((missing, "are missing"), (other, "have another shape"), (foreign, "have no place")):
        if keys:
            raise InputError(
                f"is not of {name}: {len(keys)} of its tensors {what}, {str(keys[0])[:60]} first",
                where=where,
                hint="name a weights file of ResNet-101",
            )
    return {**own, **weights}
