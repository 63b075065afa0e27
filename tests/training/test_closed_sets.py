"""Whatever a recipe may name is looked up in a table: a name without an entry is an error and never means something else.

The list is the schema's own: each field of a few permitted words, and each kind of a section. The schema refuses other words
before they get anywhere; here they go past it, as a word would that was added to the schema and forgotten elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from PIL import Image
from pydantic import BaseModel
from tiny_teachers import write_bert, write_vit
from torch import nn

from vldistill.data.artifact import open_data
from vldistill.data.transforms import ImageTransform
from vldistill.errors import VldistillError
from vldistill.models.base.checkpoint import ModelSpec
from vldistill.models.base.family import family_of
from vldistill.models.build import new_from_scratch, new_student
from vldistill.objectives.advl import Scalars, make_map
from vldistill.objectives.attention import AttentionMatch, attention_divergence, mapped_layers
from vldistill.objectives.base import task_loss
from vldistill.objectives.matching import SCORES
from vldistill.recipe.load import load_recipe, models_in
from vldistill.recipe.schema.recipe import Recipe
from vldistill.runtime import make_accelerator
from vldistill.teachers.clip import Clip
from vldistill.teachers.encoders import TimmVision, TransformersText
from vldistill.teachers.unimodal import TEXT, VISION
from vldistill.training import build
from vldistill.training.methods import advl
from vldistill.training.methods.table import METHODS
from vldistill.training.optim import make_optimizer, phase_rate
from vldistill.training.stages import Stage, describe

NOBODY = "nobody"


def words_of(annotation: Any) -> tuple[str, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(word for part in get_args(annotation) for word in words_of(part))


def closed(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The dotted name of each field that takes some words only."""
    for name, field in model.model_fields.items():
        inner = models_in(field.annotation)
        if not inner and words_of(field.annotation):
            yield prefix + name
        for section in inner:
            yield from closed(section, f"{prefix}{name}.")


def with_nobody(name: str, *paths: str) -> Recipe:
    """A recipe with a word that no schema let through."""
    recipe = load_recipe(name).model_copy(deep=True)  # sections that a recipe leaves out are shared
    for path in paths:
        *sections, last = path.split(".")
        inner = recipe
        for section in sections:
            inner = getattr(inner, section)
        inner.__dict__[last] = NOBODY
    return recipe


def plan_of(name: str, path: str) -> Any:
    """The whole way of `--dry-run`."""
    recipe = with_nobody(name, path)
    parts = build.build_parts(recipe)
    return describe(Stage("distill", recipe, []), parts)


def schedule_of(path: str) -> None:
    from vldistill.training.optim import build_optimizer, build_schedule

    recipe, student = with_nobody("quickstart_teacher", path), nn.Linear(2, 2)
    build_schedule(recipe, build_optimizer(recipe, student, nn.Module(), 8.0), 10)


def cached(path: str) -> Any:
    from vldistill.training.caches import TeacherCaches

    caches = object.__new__(TeacherCaches)
    caches._recipe, caches.live = with_nobody("quickstart_advl", path), False
    caches.inputs, caches.missing = lambda wanted: None, lambda inputs: {"images": [b"x"]}
    return caches


MAP = torch.zeros(1, 1, 1, 1)
MASK = torch.ones(1, 1, dtype=torch.bool)
NO_SPEC = ModelSpec(NOBODY, None, "nlvr2", 2, [], 36, 16)
LOOK_UPS = {
    "data.part": lambda: open_data_of("part"),
    "image.augment": lambda: ImageTransform(36, 12, NOBODY),
    "student.kind": lambda: new_student(NO_SPEC),
    "student.visual": lambda: with_nobody("advl_vlbert_snli_ve", "student.visual").student.own_features,
    "teacher.kind": lambda: family_of(NOBODY),
    "teachers.vision.kind": lambda: VISION[NOBODY],
    "teachers.vision.layer": lambda: vision_at_layer(),
    "teachers.text.kind": lambda: TEXT[NOBODY],
    "teachers.text.layer": lambda: text_at_layer(),
    "teachers.relevance.kind": lambda: Clip(NOBODY, "model", None).network,
    "teachers.precision": lambda: cached("teachers.precision")._dtype(),
    "objective.kind": lambda: plan_of("quickstart_teacher", "objective.kind"),
    "objective.answer_loss": lambda: task_loss(f"answer_{NOBODY}", type("Output", (), {"logits": MAP})(), MAP),
    "objective.attention": lambda: AttentionMatch(NOBODY, (1,))._of_layer(
        *[type("View", (), {"qk": {1: None}, "text_mask": MASK, "image_mask": MASK})()] * 2, 1
    ),
    "objective.layers": lambda: mapped_layers(NOBODY, 4),
    "objective.kl": lambda: attention_divergence(MAP, MAP, MASK, MASK, kl=NOBODY),
    "objective.itm_score": lambda: SCORES[NOBODY],
    "objective.layers.vision": lambda: advl._layer(NOBODY, 4, "vision"),
    "objective.layers.text": lambda: advl._layer(NOBODY, 4, "text"),
    "objective.map": lambda: make_map(NOBODY, 4, 4),
    "objective.weights": lambda: Scalars(mode=NOBODY),
    "objective.task.kind": lambda: advl.TASKS[NOBODY],
    "objective.tasks": lambda: plan_of_tasks(),
    "optim.kind": lambda: make_optimizer([{"params": [nn.Parameter(MAP)], "lr": 1.0}], kind=NOBODY),
    "optim.lr_scale": lambda: phase_rate(1.0, NOBODY, 8.0),
    "optim.decay": lambda: schedule_of("optim.decay"),
    "optim.schedule": lambda: schedule_of("optim.schedule"),
    "train.precision": lambda: make_accelerator_of(),
    "train.validate_every": lambda: plan_of("quickstart_teacher", "train.validate_every"),
    "train.trackers": lambda: make_accelerator_of(trackers=[NOBODY]),
    "cache.mode": lambda: cached("cache.mode").ensure([], lambda text: None),
    "cache.versions": lambda: cached("cache.versions")._mixing(),
}
SAME = {f"objective.task.{name}": f"objective.{name}" for name in ("attention", "layers", "kl", "answer_loss")}


def open_data_of(part: str) -> None:
    open_data(Path("artifacts/data/toy-nlvr2")).records("val", **{part: NOBODY})


def vision_at_layer() -> None:
    with TemporaryDirectory() as folder:
        TimmVision(str(write_vit(Path(folder) / "vit")), None, NOBODY)([Image.new("RGB", (24, 24))])


def text_at_layer() -> None:
    with TemporaryDirectory() as folder:
        TransformersText(str(write_bert(Path(folder) / "bert")), "random", NOBODY)([((("a", "red"),))])


def plan_of_tasks() -> None:
    recipe = load_recipe("quickstart_fusion").model_copy(deep=True)
    recipe.objective.__dict__["tasks"] = [NOBODY]
    describe(Stage("pretrain", recipe, []), build.build_parts(recipe))


def make_accelerator_of(trackers: list[str] | None = None) -> None:
    from vldistill.runtime import Precision

    make_accelerator(Precision("fp32" if trackers else NOBODY, ""), 1, trackers or [], Path("x"))


NUMBERS_TOO = {
    "objective.layers.vision",
    "objective.layers.text",
    "teachers.vision.layer",
    "teachers.text.layer",
    "train.validate_every",
}
"""Fields that take a number, too: another word fails as no number."""


@pytest.mark.parametrize("name", sorted(set(closed(Recipe))))
def test_a_word_without_an_entry_is_an_error(name, world):
    with pytest.raises((KeyError, ValueError, TypeError, VldistillError)) as caught:
        LOOK_UPS[SAME.get(name, name)]()
    assert NOBODY in str(caught.value) or (name in NUMBERS_TOO and caught.type is TypeError)


def test_every_look_up_is_of_a_field():
    assert LOOK_UPS.keys() | SAME.keys() == set(closed(Recipe))


def test_the_tables_hold_what_the_schema_permits():
    sections = models_in(Recipe.model_fields["objective"].annotation)
    kinds = [words_of(section.model_fields["kind"].annotation)[0] for section in sections]
    assert sorted(kinds) == sorted(METHODS)
    assert set(advl.TASKS) <= set(kinds)


def test_a_student_from_scratch_of_no_known_kind():
    from types import SimpleNamespace

    with pytest.raises(KeyError, match=NOBODY):
        new_from_scratch(SimpleNamespace(kind=NOBODY, dropout=0.0), SimpleNamespace(vocabulary=[]))
