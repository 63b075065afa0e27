"""Region features for users without a detector: a ResNet-101 of timm, RoIAlign over annotated boxes or the cells of a grid,
2,048 numbers a box; or those that VL-BERT's own image network has, computed once.

timm's last stage is dilated, so that the map has a stride of 16 pixels; each box is aligned to 7 x 7 cells and averaged. Images
keep their shape: shorter side 600 pixels, the longer one at most 1,200 (VL-BERT's sizes), ImageNet's normalisation. The features
are an ImageNet classifier's, not those of the detector that published UNITER, VILLA and OSCAR weights were trained with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import roi_align

from vldistill.data.artifact import DataArtifact
from vldistill.data.images import Images
from vldistill.data.records import read_jsonl
from vldistill.data.regions.network import STRIDE, ImageNetwork, RegionNetwork, read_resnet, whole
from vldistill.data.regions.objects import ObjectIndex
from vldistill.data.regions.store import ImageRegions, image_key
from vldistill.data.visual import PixelInput, fit
from vldistill.data.writing import IMAGES_FILE, REGIONS_FILE
from vldistill.errors import IMAGE, InputError, Problems, first_line
from vldistill.finite import check_weights

BACKBONE = "resnet101.a1_in1k"
CELLS = 7
SHORT_SIDE, LONG_SIDE = 600, 1200
MOST_OBJECTS = 1000
MOST_WAITING = 64  # images of a few MB each, where sizes are many
Read = TypeVar("Read")
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GRID = 6
_MEND = "mend it in the raw data and prepare it again, or pass --grid"


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
        reason = first_line(error)
        raise InputError(
            f"the weights of {BACKBONE} cannot be had: {reason}",
            where=weights or "hub",
            hint="fetch them on a machine with network and give the file with --weights",
        ) from None
    check_weights(network.state_dict(), weights or BACKBONE)
    return network.eval().requires_grad_(False)


def _load_file(network: nn.Module, path: str) -> None:
    """Loads a file's tensors, not by timm's own way, which passes over what does not fit."""
    from timm.models import load_state_dict

    weights = load_state_dict(path, weights_only=True)
    weights = {key: value for key, value in weights.items() if not str(key).startswith("fc.")}
    network.load_state_dict(whole(network.state_dict(), weights, path, BACKBONE))


def build_vlbert(weights: str, network: ImageNetwork | None = None) -> RegionNetwork:
    """VL-BERT's image network, frozen. weights: a file in torchvision's layout, or "random". Raises InputError where they do not
    fit."""
    made = RegionNetwork(network or ImageNetwork())
    if weights != "random":
        made.load_state_dict(whole(made.state_dict(), read_resnet(weights), weights, "VL-BERT's ResNet"))
    return made


def resized(image: Image.Image) -> Image.Image:
    """SHORT_SIDE, or less where the longer side would pass LONG_SIDE."""
    return fit(image, SHORT_SIDE, LONG_SIDE)


@torch.inference_mode()
def extract_vlbert(
    network: RegionNetwork,
    images: Images,
    objects: ObjectIndex,
    paths: Iterable[str],
    *,
    device: torch.device,
    batch: int = 8,
    problems: Problems | None = None,
) -> Iterator[tuple[str, ImageRegions]]:
    """(path, regions) of each image in order: features of its objects as a student with this network has them before training.
    problems: takes the images that cannot be read; None: they raise InputError."""
    network, paths = network.to(device), iter(paths)
    source = PixelInput(images, objects, network.network, most=MOST_OBJECTS)
    while group := list(islice(paths, batch)):
        there = [(path, item) for path in group if (item := _readable(lambda p=path: source.read(p, None), problems)) is not None]
        if not there:
            continue
        group, items = zip(*there, strict=True)
        seen = network(source.stack(list(items)).to(device=device))
        for row, (path, (_, image_objects)) in enumerate(zip(group, items, strict=True)):
            features = seen.features[row, : len(image_objects)].cpu().numpy()
            yield path, ImageRegions(features, image_objects.boxes, None, image_feature=seen.whole[row].cpu().numpy())


def extract(
    network: nn.Module,
    images: Images,
    wanted: Iterable[Boxes],
    *,
    device: torch.device,
    batch: int = 8,
    problems: Problems | None = None,
) -> Iterator[tuple[str, ImageRegions]]:
    """(path, regions) of each image, not in order: images of equal size go through the network together, so that none is padded
    and its features do not depend on its company; at most MOST_WAITING are held. problems: see `extract_vlbert`."""
    network = network.to(device)
    waiting: dict[tuple[int, int], list[tuple[Boxes, Tensor, tuple[int, int]]]] = {}
    for one in wanted:
        image = _readable(lambda path=one.path: images.open(path), problems)
        if image is None:
            continue
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


def _readable(read: Callable[[], Read], problems: Problems | None) -> Read | None:
    """What is read; None where that fails and `problems` takes it."""
    try:
        return read()
    except InputError as error:
        if problems is None:
            raise
        problems.add(error.message, where=error.where, hint=error.hint, part=IMAGE)
        return None


@torch.inference_mode()
def _features(
    network: nn.Module, group: list[tuple[Boxes, Tensor, tuple[int, int]]], device: torch.device
) -> Iterator[tuple[str, ImageRegions]]:
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
        yield one.path, ImageRegions(features.cpu().numpy(), boxes, one.confidence, image_feature=image_feature, size=size)


def boxes_of(artifact: DataArtifact, grid: int | None, limit: int | None) -> tuple[Callable[[Problems], list[Boxes]], str]:
    """A function that reads the boxes of the first `limit` images, and where they are from: the artifact's own (VCR's), or a grid
    of G x G cells where one is asked for or there are none. It leaves out images that would have the key of another in a store,
    or whose boxes are not of them, and adds these faults to what it is given.

    Raises InputError where the artifact has no list of images, or it or its boxes were edited.
    """
    files = artifact.manifest["files"]
    annotated = grid is None and REGIONS_FILE in files
    if not annotated and IMAGES_FILE not in files:
        raise InputError("has no list of images", where=str(artifact.folder), hint="prepare it without --images none")
    for name in {REGIONS_FILE, IMAGES_FILE} & files.keys():
        artifact.verified(name)
    side = grid or GRID

    def read(problems: Problems) -> list[Boxes]:
        seen, boxes = {}, []
        for one in islice(_annotated(artifact, problems) if annotated else _cells(artifact, side), limit):
            first = seen.setdefault(image_key(one.path), one.path)
            if first != one.path:
                problems.add(
                    f"has the same name as {first}, and regions are found by it",
                    where=one.path,
                    hint="rename one of them in the raw data and prepare it again",
                    part=IMAGE,
                )
            else:
                boxes.append(one)
        return boxes

    return read, "annotated" if annotated else f"grid {side}"


def _cells(artifact: DataArtifact, side: int) -> Iterator[Boxes]:
    for _, row in _rows(artifact, IMAGES_FILE):
        yield Boxes(row["path"], grid_boxes(row["width"], row["height"], side), None)


def _annotated(artifact: DataArtifact, problems: Problems) -> Iterator[Boxes]:
    sizes = {}
    if IMAGES_FILE in artifact.manifest["files"]:
        sizes = {row["path"]: (row["width"], row["height"]) for _, row in _rows(artifact, IMAGES_FILE)}
    for where, row in _rows(artifact, REGIONS_FILE):
        rows, size = np.array(row["boxes"], dtype=np.float32).reshape(-1, 5), (row["width"], row["height"])
        boxes = np.minimum(rows[:, :4].clip(0), np.array(size * 2, dtype=np.float32))
        name, real = row["image"], sizes.get(row["image"], size)
        if real != size:
            problems.add(
                f"{name} is {real[0]} x {real[1]}, its metadata says {size[0]:g} x {size[1]:g}",
                where=where,
                hint=_MEND,
                part=IMAGE,
            )
        elif (flat := (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)).any():
            problems.add(f"{name}: box {int(flat.argmax())} has no area inside the image", where=where, hint=_MEND, part=IMAGE)
        elif ((rows[:, 4] < 0) | (rows[:, 4] > 1)).any():
            problems.add(f"{name}: a confidence is not in 0 to 1", where=where, hint=_MEND, part=IMAGE)
        elif len(rows):
            yield Boxes(name, boxes, rows[:, 4])


def _rows(artifact: DataArtifact, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    # `prepare` wrote these lines, and they are as it left them, so the plain reader is strict enough.
    return read_jsonl(artifact.folder / name, Problems(), parse=json.loads)
