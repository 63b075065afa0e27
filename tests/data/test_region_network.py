"""VL-BERT's image network: against a computation written out here, alone as in company, and in the two places that use it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from vldistill.data.images import ImageFolder
from vldistill.data.regions import extract as extraction
from vldistill.data.regions.extract import build_vlbert, extract_vlbert
from vldistill.data.regions.network import ImageNetwork, RegionNetwork, norms, prepared, read_resnet
from vldistill.data.regions.objects import MASK, Objects
from vldistill.data.regions.store import RegionStore
from vldistill.data.visual import PixelInput, fit, stack_pixels
from vldistill.errors import InputError
from vldistill.models.base.bert import RegionBertConfig
from vldistill.models.vlbert.model import VlBert

TINY = ImageNetwork(blocks=(1, 2, 1, 2), width=4, short_side=48, long_side=96)


@pytest.fixture(scope="module")
def network() -> RegionNetwork:
    """Random weights, norms with statistics of their own."""
    torch.manual_seed(0)
    made = RegionNetwork(TINY)
    for norm in norms(made):
        for values, low, high in (
            (norm.weight, 0.5, 1.5),
            (norm.bias, -0.5, 0.5),
            (norm.running_mean, -0.5, 0.5),
            (norm.running_var, 0.5, 2.0),
        ):
            values.data.uniform_(low, high)
    return made


def seen(seed: int, width: int = 90, height: int = 40, count: int = 3) -> tuple[np.ndarray, Objects]:
    draw = np.random.default_rng(seed)
    corners = draw.uniform(0, 0.5, (count, 2))
    boxes = np.concatenate([corners, corners + draw.uniform(0.1, 0.5, (count, 2))], axis=1).astype(np.float32)
    masks = draw.random((count, MASK, MASK)) < 0.6
    return draw.integers(0, 256, (height, width, 3), dtype=np.uint8), Objects(boxes, masks, draw.integers(1, 81, count))


def normed(values, state, name):
    return F.batch_norm(
        values,
        state[f"{name}.running_mean"],
        state[f"{name}.running_var"],
        state[f"{name}.weight"],
        state[f"{name}.bias"],
        eps=1e-5,
    )


def block(values, state, name, stride=1, dilation=1):
    inner = F.relu(normed(F.conv2d(values, state[f"{name}.conv1.weight"], stride=stride), state, f"{name}.bn1"))
    inner = F.conv2d(inner, state[f"{name}.conv2.weight"], padding=dilation, dilation=dilation)
    inner = F.relu(normed(inner, state, f"{name}.bn2"))
    inner = normed(F.conv2d(inner, state[f"{name}.conv3.weight"]), state, f"{name}.bn3")
    if f"{name}.downsample.0.weight" in state:
        values = normed(F.conv2d(values, state[f"{name}.downsample.0.weight"], stride=stride), state, f"{name}.downsample.1")
    return F.relu(inner + values)


def expected(state, pixels: np.ndarray, box: list[float], mask: np.ndarray) -> torch.Tensor:
    """One region's feature, as VL-BERT's code computes it: caffe's strides, every block of the last stage dilated."""
    height, width = pixels.shape[:2]
    bgr = torch.from_numpy(pixels[:, :, ::-1].copy()).float() - torch.tensor([102.9801, 115.9465, 122.7717])
    canvas = torch.zeros(1, 3, 48, 96)
    canvas[0, :, :height, :width] = bgr.permute(2, 0, 1)
    values = F.relu(normed(F.conv2d(canvas, state["backbone.conv1.weight"], stride=2, padding=3), state, "backbone.bn1"))
    values = F.max_pool2d(values, 3, 2, 1)
    for stage, count in enumerate(TINY.blocks[:3], start=1):
        for number in range(count):
            values = block(values, state, f"backbone.layer{stage}.{number}", stride=2 if stage > 1 and not number else 1)
    # One point in the middle of each of 14 x 14 cells, with bilinear weights, on a map of 16 pixels a cell.
    x1, y1, x2, y2 = (min(share * side, side - 1) / 16 for share, side in zip(box, [width, height] * 2, strict=True))
    xs = x1 + (torch.arange(MASK) + 0.5) * max(x2 - x1, 1) / MASK
    ys = y1 + (torch.arange(MASK) + 0.5) * max(y2 - y1, 1) / MASK
    rows, columns = values.shape[2:]
    grid = torch.stack(
        torch.meshgrid(
            2 * xs.clamp(0, columns - 1) / (columns - 1) - 1, 2 * ys.clamp(0, rows - 1) / (rows - 1) - 1, indexing="xy"
        ),
        dim=-1,
    )
    cells = F.grid_sample(values, grid[None], align_corners=True)
    for number in range(TINY.blocks[3]):
        cells = block(cells, state, f"roi_head_feature_extractor.{number}", dilation=2)
    return (cells * torch.from_numpy(mask)).mean(dim=(2, 3))[0]


@torch.no_grad()
def test_features_are_those_of_the_published_network(network):
    pixels, objects = seen(1)
    found = network(stack_pixels([(pixels, objects)], TINY))
    assert found.features.shape == (1, 3, TINY.features)
    state = network.state_dict()
    for row in range(3):
        alone = expected(state, pixels, objects.boxes[row].tolist(), objects.masks[row])
        torch.testing.assert_close(found.features[0, row], alone, atol=1e-4, rtol=1e-4)
    everything = expected(state, pixels, [0, 0, 1, 1], np.ones((MASK, MASK), bool))
    torch.testing.assert_close(found.whole[0], everything, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_an_image_has_the_same_features_in_any_company(network):
    items = [seen(1), seen(2, 40, 90, 1), seen(3, 96, 30, 0), seen(4, 48, 48, 5)]
    together = network(stack_pixels(items, TINY))
    assert together.mask.sum(1).tolist() == [3, 1, 0, 5] and (together.features[~together.mask] == 0).all()
    for row, item in enumerate(items):
        alone = network(stack_pixels([item], TINY))
        torch.testing.assert_close(together.features[row, : len(item[1])], alone.features[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.whole[row], alone.whole[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_rows_that_share_an_image_share_its_features(network):
    images = stack_pixels([seen(1), seen(2)], TINY)
    plain, chosen = network(images), network(images[torch.tensor([1, 0, 1])])
    assert len(images[torch.tensor([1, 0, 1])].pixels) == 2
    torch.testing.assert_close(chosen.features, plain.features[[1, 0, 1]])
    torch.testing.assert_close(chosen.whole, plain.whole[[1, 0, 1]])


def test_pixels_lose_their_mean_and_the_canvas_is_empty():
    white = prepared(torch.full((1, 3, 4, 5), 255, dtype=torch.uint8), torch.tensor([[3, 2]]))
    assert white[0, :, 0, 0].tolist() == pytest.approx([255 - 102.9801, 255 - 115.9465, 255 - 122.7717])
    assert (white[0, :, :2, :3] > 0).all() and white.count_nonzero() == 3 * 2 * 3
    red = torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
    red[0, 0] = 255
    assert prepared(red, torch.tensor([[1, 1]])).flatten().argmax() == 2  # last, since BGR


@pytest.mark.parametrize(
    "size, fitted, canvas",
    [
        ((640, 480), (800, 600), (600, 1200)),
        ((480, 640), (600, 800), (1200, 600)),
        ((1920, 800), (1200, 500), (600, 1200)),
    ],
)
def test_sizes_are_the_published_ones(size, fitted, canvas):
    assert fit(Image.new("RGB", size), 600, 1200).size == fitted and ImageNetwork().canvas(*fitted) == canvas


# --- reading images ------------------------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path):
    """A function that makes a PixelInput over three images and their objects."""
    found = {}
    for row, size in enumerate([(96, 48), (48, 96), (200, 30)]):
        pixels, objects = seen(row, *size)
        Image.fromarray(pixels).save(tmp_path / f"{row}.png")
        found[f"{row}.png"] = objects
    return lambda **options: PixelInput(ImageFolder(tmp_path), found, TINY, **{"most": 100, **options})


def test_half_of_the_training_images_are_mirrored_by_their_draw(source):
    plain, flipping = source(), source(flip=True)
    pixels, objects = plain.read("0.png", None)
    mirrored = []
    for epoch in range(200):
        other, found = flipping.read("0.png", (0, epoch, 0, 0))
        again, _ = flipping.read("0.png", (0, epoch, 0, 0))
        assert np.array_equal(other, again)
        if np.array_equal(other, pixels):
            assert np.array_equal(found.boxes, objects.boxes)
        else:
            mirrored.append(epoch)
            assert np.array_equal(other, pixels[:, ::-1]) and np.array_equal(found.boxes, objects.flipped().boxes)
    assert 70 < len(mirrored) < 130
    for draw in (None, (0, mirrored[0], 0, 0)):
        assert np.array_equal(plain.read("0.png", draw)[0], pixels)
    assert np.array_equal(flipping.read("0.png", None)[0], pixels)


def test_no_more_objects_than_asked_for(source):
    few = source(most=2)
    assert len(few.read("0.png", None)[1]) == 2 and few.stack([few.read("0.png", None)]).mask.shape == (1, 2)


# --- features computed once ----------------------------------------------------------------------------------------------


def test_features_computed_once_are_those_of_a_student_before_training(network, source):
    """The student in training mode: neither its norms nor anything else of its network acts differently there."""
    config = RegionBertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        type_vocab_size=3,
        region_size=TINY.features,
    )
    student = VlBert(config, classes=1, target="choice", network=TINY).train()
    state = {f"image_feature_extractor.{name}": value for name, value in network.state_dict().items()}
    assert not student.load_state_dict(state, strict=False).unexpected_keys
    paths, reader = ["0.png", "1.png", "2.png"], source()
    stored = dict(extract_vlbert(network, reader._images, reader._objects, paths, device=torch.device("cpu"), batch=2))
    batch = reader.stack([reader.read(path, None) for path in paths])
    with torch.no_grad():
        regions = student.image_feature_extractor.see(batch)
    for row, path in enumerate(paths):
        count = len(reader._objects[path])
        np.testing.assert_allclose(stored[path].features, regions.features[row, :count], atol=1e-4)
        np.testing.assert_allclose(stored[path].image_feature, regions.whole[row], atol=1e-4)
        np.testing.assert_allclose(stored[path].boxes, regions.boxes[row, :count])


def test_from_the_command_line(world, well, command, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "ImageNetwork", lambda: TINY)
    torch.save(layout(RegionNetwork(TINY)), tmp_path / "resnet.model")
    arguments = (
        "prepare",
        "regions",
        "compute",
        "--data",
        "artifacts/data/toy-vcr",
        "--network",
        "vlbert",
        "--limit",
        "3",
        "--out",
        tmp_path / "store",
    )
    shown = well(*arguments, "--weights", tmp_path / "resnet.model").flat
    store = RegionStore(tmp_path / "store")
    assert "vlbert" in shown and store.features == "vlbert" and len(store) == 3 and store.width == TINY.features
    for words, part in (((), "needs --weights"), (("--weights", "random", "--grid", "2"), "a grid has none")):
        refused = command(*arguments, *words)
        assert refused.code == 2 and part in refused.err and refused.err.count("\n") == 1
    refused = command(
        "prepare", "regions", "compute", "--data", "artifacts/data/toy-vqa", "--network", "vlbert", "--weights", "random"
    )
    assert refused.code == 2 and "this one has none" in refused.err
    assert "--network other is not known" in command(*arguments[:5], "--network", "other").err


# --- weights -------------------------------------------------------------------------------------------------------------


def layout(network: RegionNetwork) -> dict[str, torch.Tensor]:
    """A network's weights under torchvision's names, with a classifier."""
    renamed = {
        name.replace("backbone.", "").replace("roi_head_feature_extractor.", "layer4."): value
        for name, value in network.state_dict().items()
    }
    return renamed | {"fc.weight": torch.zeros(2, TINY.features), "fc.bias": torch.zeros(2)}


def test_names_are_torchvisions_by_stage():
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        names = set(torchvision.models.resnet101().state_dict())
        own = RegionNetwork(ImageNetwork()).state_dict()
    shapes = layout(RegionNetwork(TINY))
    assert names == {name.replace("backbone.", "").replace("roi_head_feature_extractor.", "layer4.") for name in own} | {
        "fc.weight",
        "fc.bias",
    }
    assert "layer4.0.downsample.0.weight" in shapes


def test_weights_of_a_file_are_loaded_whole(network, tmp_path):
    weights = {name: value for name, value in layout(network).items() if "num_batches" not in name}
    torch.save({"state_dict": weights}, tmp_path / "resnet.model")
    loaded = build_vlbert(str(tmp_path / "resnet.model"), TINY)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert not loaded.training and not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize(
    "change, part",
    [
        (
            lambda weights: {name: value for name, value in weights.items() if name != "conv1.weight"},
            "are missing, backbone.conv1",
        ),
        (lambda weights: weights | {"layer3.9.conv1.weight": torch.zeros(1)}, "have no place, backbone.layer3.9"),
        (lambda weights: weights | {"layer4.0.bn1.bias": torch.zeros(1)}, "have another shape, roi_head_feature_extractor.0"),
    ],
)
def test_weights_that_do_not_fit_are_refused(network, tmp_path, change, part):
    torch.save(change(layout(network)), tmp_path / "resnet.model")
    with pytest.raises(InputError, match=part) as refusal:
        build_vlbert(str(tmp_path / "resnet.model"), replace(TINY))
    assert refusal.value.where == str(tmp_path / "resnet.model")


def test_what_is_no_weights_file_is_refused(tmp_path):
    (tmp_path / "broken").write_bytes(b"nothing")
    for path, part in (("gone", "no such file"), ("broken", "is no weights file")):
        with pytest.raises(InputError, match=part):
            read_resnet(str(tmp_path / path))
