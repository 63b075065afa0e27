"""How large a batch can be by a recipe's rules: at least as large as those of any images and texts, and not much larger."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from vldistill.data.datasets import FalseTexts, MixedDataset, RecordDataset
from vldistill.data.loading import make_loader, need, need_of
from vldistill.data.records import Record
from vldistill.data.regions.network import ImageNetwork
from vldistill.data.regions.objects import MASK, Objects
from vldistill.data.regions.store import ImageRegions
from vldistill.data.samplers import CleanBatches
from vldistill.data.text import train_tokenizer
from vldistill.models.base import inputs
from vldistill.models.base.checkpoint import ModelSpec
from vldistill.models.base.inputs import text_layout, visual_input
from vldistill.models.families import FAMILIES
from vldistill.recipe.load import RECIPES, load_recipe
from vldistill.recipe.schema.recipe import Recipe
from vldistill.training.inputs import make_batches

FILES = sorted(RECIPES.rglob("*.yaml"))
SHAPES = ["80x50", "50x80", "64x64", "100x5"]
FEATURES = 256
WORDS = [f"word{number}" for number in range(300)]
TOKENIZER = train_tokenizer([(tuple(WORDS),)], 400)
PATCHES = {"clip_dual": 32, "meter": 16, "meter_dual": 16}


class Shapes:
    """An image's path is its size, after an "@" the number of its regions, and after a "/" its own."""

    def turned(self, upright: bool) -> Shapes:
        return self

    def open(self, path: str) -> Image.Image:
        return Image.new("RGB", tuple(map(int, path.split("@")[0].split("x"))))


class Objected:
    """As `ObjectIndex` and as `RegionStore`."""

    width, folder, manifest = FEATURES, Path("regions"), {"stage": "regions"}

    def __init__(self, kind: type):
        self.kind = kind

    def count(self, path: str) -> int:
        return int(path.split("@")[1].split("/")[0])

    def __getitem__(self, path: str) -> Objects | ImageRegions:
        count = self.count(path)
        boxes = np.zeros((count, 4), np.float32)
        if self.kind is ImageRegions:
            return ImageRegions(np.zeros((count, FEATURES), np.float16), boxes)
        return Objects(boxes, np.zeros((count, MASK, MASK), bool), np.zeros(count, np.int64))


def dataset_of(recipe: Recipe, images: list[str], *, words: int) -> RecordDataset | MixedDataset | FalseTexts:
    """Records of these images, as the recipe's student is given them; what surrounds them is as small as it can be."""
    kind, pair = recipe.student.kind, 2 if recipe.name.endswith("nlvr2") else 1
    encoder = SimpleNamespace(
        patch_size=PATCHES.get(kind) or getattr(recipe.student.sizes, "patch", None),
        long_side=recipe.image.long_side,
        region_size=FEATURES,
    )
    own = recipe.student.own_features
    network = ImageNetwork.from_dict(recipe.student.image_network.model_dump(exclude={"weights"})) if own else None
    spec = ModelSpec(
        kind,
        encoder,
        "vqa",
        pair,
        [],
        recipe.image.size,
        recipe.text.max_length,
        image_network=network,
        regions=recipe.regions.path if recipe.regions else None,
        most_regions=recipe.regions.most if recipe.regions else 100,
    )
    visual = visual_input(spec, Shapes(), augment=recipe.image.augment, objects=Objected(Objects), memory=False)
    choices = [WORDS[:words]] * 4 if "vcr" in recipe.data.path else None
    shown = [[] if kind == "text_encoder" else [f"{image}/{number}"] * pair for number, image in enumerate(images)]
    records = [
        Record(f"{number}", "vcr" if choices else "vqa", names, [f"word{number}", *WORDS[:words]], label=0, choices=choices)
        for number, names in enumerate(shown)
    ]
    classes = 3129 if "vqa" in recipe.data.path else None
    records = [replace(record, tags=[1]) for record in records] if classes else records
    dataset = RecordDataset(records, text_layout(spec, TOKENIZER), visual, pad_id=TOKENIZER.pad_id, classes=classes)
    if recipe.objective.kind == "retrieval" and kind == "vilt":
        return FalseTexts(dataset, 15)
    return MixedDataset([(dataset, 1.0), *[(dataset, part.weight) for part in recipe.data.mix]]) if recipe.data.mix else dataset


def bytes_of(batch) -> int:
    """Of a batch as it is."""
    return need(batch, 1, 1, 1).bytes


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_batch_is_larger_than_what_is_asked_for(path, monkeypatch):
    """Of images of every shape with as many regions as there may be or one, and texts that are too long: the largest batch takes
    what the rules say, but for the shares of pages; of batches that count tokens, those of the data."""
    monkeypatch.setattr(inputs, "RegionStore", lambda place: Objected(ImageRegions))
    recipe = load_recipe(str(path))
    tokens = recipe.train.batch.pairs is None
    recipe = load_recipe(str(path), ["train.batch.tokens=2000" if tokens else "train.batch.pairs=2"])
    most, seen, asked = (recipe.regions.most if recipe.regions else 100), [], []
    count = 20 if recipe.regions or recipe.objective.kind == "retrieval" else 4
    sets = [[f"{shape}@{most + 20}"] * count for shape in SHAPES] + [[f"{SHAPES[0]}@1"] * count]
    sets.append([f"{SHAPES[number % 2]}@{most}" for number in range(count)])  # lying and standing
    for images in sets if recipe.student.kind != "text_encoder" else sets[:1]:
        dataset = dataset_of(recipe, images, words=30 if tokens else recipe.text.max_length + 5)
        batches = make_batches(recipe, dataset)
        wanted = need_of(dataset, batches, 2)
        for found in make_loader(dataset, list(batches)):
            assert bytes_of(found) <= wanted.bytes
            seen.append(bytes_of(found))
        asked.append(wanted.bytes)
        clean = CleanBatches(len(dataset), 3)
        wanted = need_of(dataset, clean, 2)
        largest = max(bytes_of(found) for found in make_loader(dataset, clean))
        assert largest <= wanted.bytes and wanted.pairs == 3
    least = 0.7 if tokens else 0.98  # texts are not as long as they may be
    assert least * max(asked) <= max(seen) <= max(asked)


def test_every_family_has_a_recipe():
    assert {load_recipe(str(path)).student.kind for path in FILES} | {"vilt"} == FAMILIES.keys()


def test_a_batch_keeps_its_size_on_the_way_to_another_process():
    dataset = dataset_of(load_recipe("quickstart_teacher"), ["64x64@1"] * 2, words=3)
    [batch] = make_loader(dataset, CleanBatches(2, 2))
    assert bytes_of(pickle.loads(pickle.dumps(batch))) == bytes_of(batch)
