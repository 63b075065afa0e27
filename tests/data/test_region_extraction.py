"""Features by ResNet-101 and RoIAlign: against an independent computation, alone as in company, and from the command line."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import test_vcr
import timm
import torch
from PIL import Image
from raw_worlds import write_lines
from safetensors.torch import save_file
from torch.nn import functional as F

from vldistill.data.images import ImageFolder
from vldistill.data.prepare import prepare
from vldistill.data.prepare_regions import Target, extract_regions
from vldistill.data.regions import extract as extraction
from vldistill.data.regions.extract import BACKBONE, Boxes, build_backbone, extract, grid_boxes, resized
from vldistill.data.regions.store import RegionStore
from vldistill.data.sources.jsonl import Jsonl
from vldistill.errors import InputError


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_backbone("random")


@pytest.fixture
def small(monkeypatch):
    """Images of 64 pixels: the arithmetic is the same and the network quick."""
    monkeypatch.setattr(extraction, "SHORT_SIDE", 64)
    monkeypatch.setattr(extraction, "LONG_SIDE", 128)


def picture(path, size, seed=0):
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return path.name


def found(network, root, wanted, batch=8):
    return dict(extract(network, ImageFolder(root), wanted, device=torch.device("cpu"), batch=batch))


@pytest.mark.parametrize(
    "size, expected", [((640, 480), (800, 600)), ((600, 900), (600, 900)), ((3000, 600), (1200, 240)), ((36, 36), (600, 600))]
)
def test_sizes(size, expected):
    assert resized(Image.new("RGB", size)).size == expected


def test_a_grid_covers_the_image():
    boxes = grid_boxes(60, 30, 3)
    assert boxes.shape == (9, 4) and boxes[0].tolist() == [0, 0, 20, 10] and boxes[5].tolist() == [40, 10, 60, 20]
    assert ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum() == 60 * 30


def test_the_backbone_has_2048_features_at_stride_16(network):
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 64, 96))[0].shape == (1, 2048, 4, 6)
    assert not network.training and not any(p.requires_grad for p in network.parameters())


def test_features_of_a_box_are_the_mean_of_the_map_below_it(network, small, tmp_path):
    """Boxes that end on the map's cells, sampled bilinearly: RoIAlign averages points, which here lie between cell centres."""
    name = picture(tmp_path / "a.png", (96, 64))
    boxes = np.array([[0, 0, 96, 64], [16, 16, 64, 48]], dtype=np.float32)
    regions = found(network, tmp_path, [Boxes(name, boxes, np.array([0.5, 0.25], np.float32))])[name]
    pixels = torch.from_numpy(np.array(Image.open(tmp_path / name))).permute(2, 0, 1)[None] / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.inference_mode():
        fmap = network((pixels - mean) / std)[0]
    np.testing.assert_allclose(regions.image_feature, fmap.mean(dim=(2, 3))[0], rtol=1e-4, atol=1e-5)
    for row, (left, top, right, bottom) in zip(regions.features, boxes, strict=True):
        # The 14 x 14 points of 7 x 7 cells of 2 x 2 samples, in map coordinates where pixel centres are at halves.
        xs = (left + (np.arange(14) + 0.5) * (right - left) / 14) / 16
        ys = (top + (np.arange(14) + 0.5) * (bottom - top) / 14) / 16
        grid = np.stack(np.meshgrid(2 * xs / fmap.shape[3] - 1, 2 * ys / fmap.shape[2] - 1), axis=-1)
        points = F.grid_sample(fmap, torch.tensor(grid, dtype=torch.float32)[None], padding_mode="border", align_corners=False)
        np.testing.assert_allclose(row, points.mean(dim=(2, 3))[0], rtol=1e-3, atol=1e-4)
    assert regions.boxes.tolist() == [[0, 0, 1, 1], pytest.approx([1 / 6, 0.25, 2 / 3, 0.75])] and regions.size == (96, 64)


def test_an_image_has_the_same_features_in_any_company(network, small, tmp_path):
    names = [picture(tmp_path / f"{i}.png", size, i) for i, size in enumerate([(64, 64), (64, 96), (64, 64), (80, 64)])]
    wanted = [Boxes(name, grid_boxes(*Image.open(tmp_path / name).size, 2), None) for name in names]
    together = found(network, tmp_path, wanted)
    assert set(together) == set(names)
    for one in wanted:
        alone = found(network, tmp_path, [one], batch=1)[one.path]
        np.testing.assert_allclose(alone.features, together[one.path].features, rtol=1e-4, atol=1e-5)


def test_weights_from_a_file(tmp_path):
    source = timm.create_model(BACKBONE, pretrained=False)
    save_file(source.state_dict(), tmp_path / "resnet.safetensors")
    network = build_backbone(str(tmp_path / "resnet.safetensors"))
    torch.testing.assert_close(network.state_dict()["conv1.weight"], source.state_dict()["conv1.weight"])


def test_few_images_of_many_sizes_wait(network, small, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "MOST_WAITING", 3)
    read, most = [], 0

    def wanted():
        for i in range(7):
            read.append(i)
            yield Boxes(picture(tmp_path / f"{i}.png", (64, 64 + i)), grid_boxes(64, 64 + i, 1), None)

    for done, _ in enumerate(extract(network, ImageFolder(tmp_path), wanted(), device=torch.device("cpu"))):
        most = max(most, len(read) - done)
    assert len(read) == done + 1 == 7 and most == 3


def prepared(folder, sizes):
    """A data artifact of images of these sizes, by their paths."""
    rows = []
    for path, size in sizes.items():
        (folder / "raw" / path).parent.mkdir(parents=True, exist_ok=True)
        picture(folder / "raw" / path, size)
        rows.append({"image": path, "text": "Is it?", "label": "yes"})
    write_lines(folder / "raw/train.jsonl", rows)
    prepare("jsonl", folder / "raw", folder / "data", options=Jsonl(labels=("yes", "no")))
    return folder / "data"


def test_a_limit_is_of_the_first_images(small, tmp_path):
    data = prepared(tmp_path, {f"{i}.png": (64, 64 + (i == 0)) for i in range(5)})
    extract_regions(data, Target(tmp_path / "out", limit=2), weights="random", grid=1, batch=2)
    assert list(RegionStore(tmp_path / "out")) == ["0", "1"]


def test_images_of_one_name_are_refused_before_any_work(tmp_path, monkeypatch):
    data = prepared(tmp_path, {"a/1.png": (8, 8), "b/1.png": (8, 8)})
    monkeypatch.setattr(extraction, "build_backbone", lambda _: pytest.fail("a network was built"))
    with pytest.raises(InputError, match=r"b/1.png: has the same name as a/1.png"):
        extract_regions(data, Target(tmp_path / "out"), weights="random")


@pytest.mark.parametrize(
    "name, damage, message",
    [
        ("regions.jsonl", lambda text: text[:-20], "differs from what its manifest"),
        ("regions.jsonl", None, "is named in the manifest but missing"),
        ("images.jsonl", lambda text: text.replace('"width": 36', '"width": 37'), "differs from what its manifest"),
    ],
)
@pytest.mark.parametrize("grid", [None, 2])
def test_an_edited_artifact_is_refused(world, tmp_path, name, damage, message, grid):
    shutil.copytree("artifacts/data/toy-vcr", tmp_path / "data")
    path = tmp_path / "data" / name
    path.write_text(damage(path.read_text())) if damage else path.unlink()
    with pytest.raises(InputError, match=message) as refusal:
        extract_regions(tmp_path / "data", Target(tmp_path / "out"), weights="random", grid=grid)
    assert refusal.value.where == str(path)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"width": 9}, "m/1.jpg is 8 x 6, its metadata says 9 x 6"),
        ({"boxes": [[0, 0, 4, 4, 1], [8, 0, 9, 4, 1]]}, "m/1.jpg: box 1 has no area inside the image"),
        ({"boxes": [[0, 0, 4, 4, 1], [1, 1, 3, 3, 1.5]]}, "m/1.jpg: a confidence is not in 0 to 1"),
    ],
)
def test_boxes_that_are_not_of_their_image_are_refused(tmp_path, changes, message):
    test_vcr.world(tmp_path / "raw", test_vcr.row(), metadata=test_vcr.METADATA | changes)
    prepare("vcr", tmp_path / "raw", tmp_path / "data")
    with pytest.raises(InputError, match=message) as refusal:
        extract_regions(tmp_path / "data", Target(tmp_path / "out"), weights="random")
    assert refusal.value.where == str(tmp_path / "data/regions.jsonl:1")


def test_other_weights_of_the_same_name_are_another_store(small, tmp_path):
    data, weights = prepared(tmp_path, {"1.png": (8, 8)}), tmp_path / "weights.pth"
    network = timm.create_model(BACKBONE, pretrained=False)
    for seed in (1, 1, 2):
        torch.save({**network.state_dict(), "conv1.weight": torch.full_like(network.conv1.weight, seed)}, weights)
        if seed == 1:
            manifest = extract_regions(data, Target(tmp_path / "out"), weights=str(weights), grid=1)
    assert manifest["unchanged"]
    with pytest.raises(InputError, match="already exists"):
        extract_regions(data, Target(tmp_path / "out"), weights=str(weights), grid=1)


def shaped(name: str) -> dict[str, torch.Tensor]:
    """The state dict of a network of timm, of one stored number a tensor."""
    with torch.device("meta"):
        network = timm.create_model(name, pretrained=False)
    return {key: torch.zeros(()).expand(value.shape) for key, value in network.state_dict().items()}


def test_weights_without_a_classifier_or_counts_are_whole(tmp_path):
    weights = timm.create_model(BACKBONE, pretrained=False).state_dict()
    kept = {key: value for key, value in weights.items() if not key.startswith("fc.") and "num_batches" not in key}
    torch.save({"state_dict": kept}, tmp_path / "resnet.pth")
    build_backbone(str(tmp_path / "resnet.pth"))


@pytest.mark.parametrize(
    "found, message",
    [
        (lambda: shaped("resnet50"), "tensors are missing, layer3"),
        (lambda: {"lm_head.weight": torch.zeros(3)}, "tensors are missing, conv1.weight first"),
        (lambda: {key: torch.zeros(()) for key in shaped(BACKBONE)}, "tensors have another shape, conv1.weight first"),
        (lambda: shaped("resnet152"), "tensors have no place"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, found, message):
    torch.save(found(), tmp_path / "weights.pth")
    with pytest.raises(InputError, match=message) as refusal:
        build_backbone(str(tmp_path / "weights.pth"))
    assert refusal.value.where == str(tmp_path / "weights.pth")


def test_weights_that_cannot_be_had_are_one_error(tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    for weights, message in (
        (str(tmp_path / "gone"), "no such file"),
        (str(tmp_path / "broken.safetensors"), "cannot be had"),
        (None, "cannot be had"),
    ):
        with pytest.raises(InputError, match=message):
            build_backbone(weights)


def test_from_the_command_line(world, well, small, tmp_path):
    """The toy VCR's own boxes, and a grid for data without any."""
    shown = well(
        "prepare",
        "regions",
        "compute",
        "--data",
        "artifacts/data/toy-vcr",
        "--weights",
        "random",
        "--limit",
        "5",
        "--out",
        tmp_path / "vcr",
    ).flat
    assert "regions from random · partial" in shown and "2,048" in shown
    store = RegionStore(tmp_path / "vcr")
    lines = (world / "artifacts/data/toy-vcr/regions.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["image"] in store]
    assert len(rows) == 5
    for row in rows:
        regions = store[row["image"]]
        expected = np.array(row["boxes"])[:, :4] / 36
        np.testing.assert_allclose(regions.boxes, expected, atol=1e-6)
        assert regions.features.shape == (len(expected), 2048) and regions.confidence.tolist() == [1.0] * len(expected)
    cells = (
        "prepare",
        "regions",
        "compute",
        "--data",
        "artifacts/data/toy-vqa",
        "--weights",
        "random",
        "--limit",
        "2",
        "--grid",
        "3",
        "--out",
        tmp_path / "vqa",
    )
    well(*cells)
    store = RegionStore(tmp_path / "vqa")
    assert store.manifest["boxes"] == 18 and store.manifest["confidence"] is False
    assert "up to date" in well(*cells).flat


@pytest.mark.parametrize(
    "words, message",
    [
        (["--raw", "artifacts", "--data", "artifacts/data/toy-vqa"], "--data means nothing for regions import"),
        (["--raw", "artifacts", "--grid", "3"], "--grid means nothing for regions import"),
        (["--data", "artifacts/data/toy-vqa", "--boxes", "1,2"], "--boxes means nothing for regions compute"),
        (["import", "--raw", "artifacts", "--lowshot", "100"], "--lowshot means nothing for regions import"),
        (["--raw", "artifacts", "--boxes", "10"], "not two numbers"),
        (["--raw", "artifacts", "--format", "zip"], "--format zip is not known"),
        (["--data", "artifacts/data/gone"], "no such artifact"),
    ],
)
def test_refusals(world, command, words, message):
    """Also where a command is written as it once was, without `import` or `compute`."""
    result = command("prepare", "regions", *words)
    assert result.code == 2 and message in result.err and result.err.count("\n") == 1
