"""Region features for users without a detector: a ResNet-101 of timm, RoIAlign over given boxes, 2,048 numbers a box.

The last stage is dilated, so that the map has a stride of 16 pixels; each box is aligned to 7 x 7 cells and averaged. Images keep
their shape: shorter side 600 pixels, the longer one at most 1,200 (VL-BERT's sizes), ImageNet's normalisation. The features are
an ImageNet classifier's, not those of the detector that published UNITER, VILLA and OSCAR weights were trained with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import roi_align

from vldistill.data.images import Images
from vldistill.data.regions.store import Regions
from vldistill.errors import InputError

BACKBONE = "resnet101.a1_in1k"
STRIDE = 16
CELLS = 7
SHORT_SIDE, LONG_SIDE = 600, 1200
MOST_WAITING = 64  # images of a few MB each, where sizes are many
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Boxes:
    """What to extract of an image. path: as records have it. boxes: [N, 4], x1, y1, x2, y2 in pixels. confidence: [N]."""

    path: str
    boxes: np.ndarray
    confidence: np.ndarray | None


def grid_boxes(width: int, height: int, side: int) -> np.ndarray:
    """[side * side, 4] cells of an image in reading order, in pixels."""
    xs, ys = (np.linspace(0, extent, side + 1, dtype=np.float32) for extent in (width, height))
    return np.array([[xs[j], ys[i], xs[j + 1], ys[i + 1]] for i in range(side) for j in range(side)], dtype=np.float32)


def build_backbone(weights: str | None = None) -> nn.Module:
    """The network that makes the map, frozen. weights: a local file (safetensors or a torch state dict), "random" (for tests and
    timings), or None for timm's own, from the hub. Raises InputError where they cannot be had or do not fit."""
    import timm

    def make(**arguments) -> nn.Module:
        return timm.create_model(BACKBONE, features_only=True, out_indices=(4,), output_stride=STRIDE, **arguments)

    try:
        if weights == "random":
            network = make(pretrained=False)
        elif weights is None:
            network = make(pretrained=True)
        elif Path(weights).is_file():
            network = make(pretrained=False)
            _load_file(network, weights)
        else:
            raise InputError("no such file", where=weights, hint="name a weights file of ResNet-101")
    except InputError:
        raise
    except Exception as error:  # the hub, safetensors and torch each raise their own
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise InputError(f"the weights of {BACKBONE} cannot be had: {reason}", where=weights or "hub",
                         hint="fetch them on a machine with network and give the file with --weights") from None
    return network.eval().requires_grad_(False)


def _load_file(network: nn.Module, path: str) -> None:
    """Loads a file's tensors. timm's own way passes over what does not fit, which would leave random features under the name of
    a trained network. Raises InputError where a tensor is missing, of another shape, or of no such network."""
    from timm.models import load_state_dict

    found, own = load_state_dict(path, weights_only=True), network.state_dict()
    # A count of training steps, which files of old torch lack and which does nothing here.
    missing = [key for key in own if key not in found and not key.endswith(".num_batches_tracked")]
    other = [key for key in own if key in found and getattr(found[key], "shape", None) != own[key].shape]
    foreign = [key for key in found if key not in own and not str(key).startswith("fc.")]
    for keys, what in ((missing, "are missing"), (other, "have another shape"), (foreign, "have no place")):
        if keys:
            raise InputError(f"is not of {BACKBONE}: {len(keys)} of its tensors {what}, {str(keys[0])[:60]} first", where=path,
                             hint="name a weights file of ResNet-101, as timm saves it")
    network.load_state_dict({**own, **{key: found[key] for key in own if key in found}})


def resized(image: Image.Image) -> Image.Image:
    """SHORT_SIDE, or less where the longer side would pass LONG_SIDE."""
    scale = min(SHORT_SIDE / min(image.size), LONG_SIDE / max(image.size))
    size = tuple(max(1, round(side * scale)) for side in image.size)
    return image if size == image.size else image.resize(size, Image.Resampling.BILINEAR)


def extract(
    network: nn.Module, images: Images, wanted: Iterable[Boxes], *, device: torch.device, batch: int = 8
) -> Iterator[tuple[str, Regions]]:
    """(path, regions) of each image, not in order: images of equal size go through the network together, so that none is padded
    and its features do not depend on its company; at most MOST_WAITING are held. Raises InputError for an image that cannot be
    read."""
    network = network.to(device)
    waiting: dict[tuple[int, int], list[tuple[Boxes, Tensor, tuple[int, int]]]] = {}
    for one in wanted:
        image = images.open(one.path)
        pixels = torch.from_numpy(np.array(resized(image)))
        size = tuple(pixels.shape[:2])
        waiting.setdefault(size, []).append((one, pixels, image.size))
        if sum(map(len, waiting.values())) == MOST_WAITING:
            size = max(waiting, key=lambda key: len(waiting[key]))
        elif len(waiting[size]) < batch:
            continue
        yield from _features(network, waiting.pop(size), device)
    for group in waiting.values():
        yield from _features(network, group, device)


@torch.inference_mode()
def _features(
    network: nn.Module, group: list[tuple[Boxes, Tensor, tuple[int, int]]], device: torch.device
) -> Iterator[tuple[str, Regions]]:
    pixels = torch.stack([pixels for _, pixels, _ in group]).to(device).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (_MEAN, _STD))
    maps = network((pixels - mean) / std)[0]
    height, width = pixels.shape[2:]
    rois = []
    for one, _, size in group:
        scale = torch.tensor([width / size[0], height / size[1]] * 2)
        rois.append((torch.from_numpy(one.boxes) * scale).to(device))
    cells = roi_align(maps, rois, CELLS, spatial_scale=1 / STRIDE, sampling_ratio=2, aligned=True)
    vectors = cells.mean(dim=(2, 3)).split([len(roi) for roi in rois])
    whole = maps.mean(dim=(2, 3))
    for (one, _, size), features, image_feature in zip(group, vectors, whole, strict=True):
        boxes, image_feature = one.boxes / np.array(size * 2, dtype=np.float32), image_feature.cpu().numpy()
        yield one.path, Regions(features.cpu().numpy(), boxes, one.confidence, image_feature=image_feature, size=size)
