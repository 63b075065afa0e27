"""From a recipe to the parts of a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vldistill.data.artifact import open_data, stage_images
from vldistill.data.datasets import MixedDataset, RecordDataset
from vldistill.data.text import WordTokenizer
from vldistill.errors import InputError
from vldistill.models.base.checkpoint import ModelSpec
from vldistill.models.base.recompute import set_recompute
from vldistill.objectives.base import Objective
from vldistill.recipe.schema.recipe import Recipe
from vldistill.store.staging import staged_store
from vldistill.store.uses import REGIONS
from vldistill.training.caches import Say
from vldistill.training.inputs import chosen_records, datasets, is_labelled, trainable
from vldistill.training.methods.table import method_of
from vldistill.training.parts import Parts
from vldistill.training.student import build_student


def build_parts(recipe: Recipe, say: Say | None = None) -> Parts:
    """Opens the data, builds student, teacher and objective, and what is missing of the teachers' caches and of copies on the
    node's own disk, telling `say` about it; without it (a dry run) nothing is built. Raises InputError where an input is missing
    or does not fit."""
    data, method = open_data(Path(recipe.data.path)), method_of(recipe.objective.kind)
    if say is not None:
        data = stage_images(data, say)
    method.check_data(recipe, data)
    train = chosen_records(recipe, data, recipe.data.train)
    train, dropped = trainable(train, data) if method.labelled else (train, 0)
    val = chosen_records(recipe, data, recipe.data.val)
    for split, records in ((recipe.data.train, train), (recipe.data.val, val)):
        if method.labelled and not is_labelled(records[0], data):
            raise InputError(f"split {split!r} has no labels", where=str(data.folder), hint="choose a labelled split")
    student, spec, tokenizer = build_student(recipe, data, method.heads(recipe))
    if recipe.train.gradient_checkpointing and not set_recompute(student):
        raise InputError(
            f"train.gradient_checkpointing: a {recipe.student.kind} student computes no layer twice",
            where=f"recipe {recipe.name}",
            hint="leave it out",
        )
    if data.spec.target == "answers" and method.labelled:
        spec = replace(spec, answer_loss=getattr(recipe.objective, "answer_loss", None))
    if recipe.image.exif:
        spec = replace(spec, upright=True)

    held = all(isinstance(records, list) for records in (train, val))
    seen = (
        replace(spec, regions=str(staged_store(Path(spec.regions), REGIONS, say))) if spec.regions and say is not None else spec
    )
    dataset = datasets(recipe, data, [*train, *val] if held else [], seen, tokenizer)
    mixed = dataset(train, augment=True)
    if recipe.data.mix:
        mixed = MixedDataset([(mixed, recipe.data.weight), *_mixed_in(recipe, spec, tokenizer, say)])
    parts = Parts(data, mixed, dataset(val, augment=False), student, spec, tokenizer, Objective(), None, dropped)
    method.build(parts, recipe, dataset, say)
    return parts


def _mixed_in(recipe: Recipe, spec: ModelSpec, tokenizer: WordTokenizer, say: Say | None) -> list[tuple[RecordDataset, float]]:
    """The artifacts of `data.mix`, with their weights."""
    mixed = []
    for part in recipe.data.mix:
        data = open_data(Path(part.path))
        method_of(recipe.objective.kind).check_data(recipe, data)
        data = stage_images(data, say) if say is not None else data
        records = chosen_records(recipe, data, part.train)
        keepable = records if isinstance(records, list) else []
        mixed.append((datasets(recipe, data, keepable, spec, tokenizer)(records, augment=True), part.weight))
    return mixed
