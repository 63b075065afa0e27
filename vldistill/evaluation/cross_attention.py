"""Where on the image each word of a text attends, in a dual encoder and in the fusion teacher that it learned from (DiDE, section
3.2): the very distributions that attention distillation compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vldistill.data.batch import Batch, ImageBatch, VisualBatch
from vldistill.data.images import Images
from vldistill.data.loading import make_loader
from vldistill.data.records import Record
from vldistill.data.samplers import CleanBatches
from vldistill.data.sequences import readable, sentences
from vldistill.data.transforms import MEAN, STD
from vldistill.data.visual import unpatchify
from vldistill.errors import InputError
from vldistill.evaluation.attention import by_word, text_to_image
from vldistill.evaluation.opened import open_model
from vldistill.models.base.family import families, family_of
from vldistill.models.base.inputs import plain_dataset
from vldistill.models.base.outputs import Capture, PairStates
from vldistill.recipe.schema.recipe import Recipe
from vldistill.teachers.fusion import build_fusion_teacher
from vldistill.teachers.words import is_content, words_of

MOST_WORDS = 4
EVERY = "all words"


@dataclass(frozen=True)
class Looked:
    """Where attention on an image lies: on the cells of a grid [rows, columns], or on boxes [R, 4] in shares of its sides."""

    image: np.ndarray
    grid: tuple[int, int] | None
    boxes: np.ndarray | None


@dataclass(frozen=True)
class WordMaps:
    """word: or EVERY, their mean. maps: by model, and of each image [V], the share of the attention on each patch or region."""

    word: str
    maps: dict[str, list[np.ndarray]]


@dataclass(frozen=True)
class CrossSample:
    """A record. places: of each of its images. rows: EVERY, then some words. divergence: mean over words of KL(teacher ||
    student), in nats; None without a teacher."""

    id: str
    text: str
    places: list[Looked]
    rows: list[WordMaps]
    divergence: float | None


@dataclass(frozen=True)
class CrossView:
    run: str
    teacher: str | None
    layer: int
    samples: list[CrossSample]

    @property
    def title(self) -> str:
        return f"Where the words of a text attend on the image, {self.run}"

    @property
    def summary(self) -> str:
        beside = f", beside its teacher {self.teacher}" if self.teacher else ""
        return (
            f"Attention of text over the image in layer {self.layer}, mean over heads and a word's tokens{beside} "
            "(DiDE, section 3.2)."
        )


def view_cross(run: str, recipe: Recipe, images: Images, records: Sequence[Record]) -> CrossView:
    """Reads the records with the run, and with its fusion teacher where its recipe names one. Raises InputError where the model
    has no attention of text on an image, or a record another number of images than it takes."""
    opened = open_model(run)
    spec, device = opened.spec, opened.device
    if not family_of(spec.kind).crosses:
        raise InputError(
            f"is a {spec.kind} model, whose words are not compared with patches or regions",
            where=run,
            hint=f"name one of: {', '.join(family.kind for family in families() if family.crosses)}",
        )
    for record in records:
        if len(record.images) != spec.images:
            raise InputError(
                f"takes {spec.images} image(s), {len(record.images)} were given",
                where=run,
                hint="give --image as often as the model has images",
            )
    models = {"student": opened.model}
    if recipe.teacher is not None and recipe.objective.kind == "dide":
        teacher = build_fusion_teacher(recipe.teacher.kind, recipe.teacher.model, labels=spec.labels, images=spec.images)
        models = {"teacher": teacher.to(device), **models}
    layer = opened.model.layers
    dataset = plain_dataset(list(records), images, opened.tokenizer, spec)
    samples: list[CrossSample] = []
    for batch in make_loader(dataset, CleanBatches(len(records), 1)):
        moved = batch.to(device)
        with torch.no_grad():
            views = {name: one(moved, Capture(qk=(layer,))).views for name, one in models.items()}
        samples.append(_sample(records[len(samples)], batch, views, layer, images))
    return CrossView(run, recipe.teacher.model if "teacher" in models else None, layer, samples)


def _sample(record: Record, batch: Batch, views: dict[str, list[PairStates]], layer: int, images: Images) -> CrossSample:
    sentence = sentences(record)[0]
    words = words_of(sentence)
    kept = {name: [_word_maps(view, batch.text.words[:1], layer, len(words)) for view in own] for name, own in views.items()}
    first = kept["teacher" if "teacher" in kept else "student"]
    peaks = {
        place: max(float(maps[place].max()) for maps in first)
        for place, word in enumerate(words)
        if is_content(word) and any(float(maps[place].sum()) for maps in first)
    }
    chosen = sorted(sorted(peaks, key=lambda place: -peaks[place])[:MOST_WORDS])
    mean = {name: [maps[maps.sum(dim=1) > 0].mean(dim=0).numpy() for maps in own] for name, own in kept.items()}
    rows = [WordMaps(EVERY, mean)]
    rows += [
        WordMaps(words[place], {name: [maps[place].numpy() for maps in own] for name, own in kept.items()}) for place in chosen
    ]
    places = [_place(image_batch, images, path) for image_batch, path in zip(batch.images, record.images, strict=True)]
    text = " ".join(readable(part, record.objects) for part in sentence)
    return CrossSample(record.id, text, places, rows, _divergence(views, layer))


def _word_maps(view: PairStates, words: Tensor, layer: int, count: int) -> Tensor:
    """[W, V] over what the view calls visual, without an image's own CLS."""
    attention = text_to_image(view, layer)[0].cpu()
    return by_word(attention, words[0].cpu(), count, mean=True)[:, view.visual[0].cpu()]


def _divergence(views: dict[str, list[PairStates]], layer: int) -> float | None:
    if "teacher" not in views:
        return None
    values = []
    for own, other in zip(views["student"], views["teacher"], strict=True):
        student, teacher = (text_to_image(view, layer)[0].clamp(min=1e-12) for view in (own, other))
        rows = (teacher * (teacher / student).log()).sum(dim=-1)[own.text_mask[0]]
        values.append(float(rows.mean()))
    return sum(values) / len(values)


def _place(image_batch: VisualBatch, images: Images, path: str) -> Looked:
    """The image as the model sees it: its patches put together again, or the whole image under its regions."""
    if isinstance(image_batch, ImageBatch):
        grid = image_batch.grids[0]
        patches = image_batch.patches[0, : grid[0] * grid[1]].numpy()
        side = int((patches.shape[1] // 3) ** 0.5)
        pixels = unpatchify(patches * STD + MEAN, grid, side)
        return Looked((pixels.clip(0, 1) * 255).round().astype(np.uint8), grid, None)
    boxes = image_batch.boxes[0][image_batch.mask[0]].numpy()
    return Looked(np.asarray(images.open(path), dtype=np.uint8), None, boxes)
