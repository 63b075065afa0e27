"""From a recipe to the parts of a run: its data, its student, and what its method adds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vldistill.data.artifact import DataArtifact, open_data, stage_images
from vldistill.data.datasets import MixedDataset, RecordDataset
from vldistill.data.regions.store import RegionStore
from vldistill.data.sequences import sentences
from vldistill.data.text import WordTokenizer, train_tokenizer
from vldistill.data.wording import text_of
from vldistill.errors import InputError
from vldistill.models.base.checkpoint import MOST_REGIONS, ModelSpec
from vldistill.models.base.family import StudentRequest, family_of
from vldistill.models.base.recompute import set_recompute
from vldistill.models.build import Student, init_student, new_from_scratch
from vldistill.objectives.base import Objective
from vldistill.recipe.schema.recipe import Recipe
from vldistill.store.staging import staged_store
from vldistill.store.uses import REGIONS
from vldistill.training.caches import Say
from vldistill.training.inputs import chosen_records, datasets, is_labelled, trainable
from vldistill.training.methods.base import method_of
from vldistill.training.parts import Parts


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


def build_student(
    recipe: Recipe, data: DataArtifact, pretraining: tuple[str, ...] | None
) -> tuple[Student, ModelSpec, WordTokenizer]:
    """The student of the recipe with its tokenizer, from `student.init` or from scratch. pretraining: tasks without labels that
    it has heads for; None for a head of the data's labels."""
    student, family = recipe.student, family_of(recipe.student.kind)
    if family.one_image and data.spec.images != 1:
        raise InputError(
            f"has {data.spec.images} images a record, a {student.kind} student sees one",
            where=str(data.folder),
            hint="choose a vilt or dual_encoder student",
        )
    if recipe.adversarial is not None and recipe.adversarial.image and data.spec.images != 1:
        raise InputError(
            f"has {data.spec.images} images a record, adversarial.image perturbs those of one",
            where=str(data.folder),
            hint="set adversarial.image=false, as VILLA does on NLVR2",
        )
    regions = recipe.regions
    request = StudentRequest(
        student,
        data.task,
        data.spec.images,
        data.labels if pretraining is None else [],
        image_size=recipe.image.size,
        max_length=recipe.text.max_length,
        long_side=recipe.image.long_side,
        regions=str(Path(regions.path).resolve()) if regions else None,
        region_size=RegionStore(Path(regions.path)).width if regions else 0,
        most_regions=regions.most if regions else MOST_REGIONS,
        pretraining=pretraining or (),
    )
    if student.init is not None:
        return init_student(student.init, request, keep_head=student.keep_head)
    if (made := family.with_own_start(request)) is not None:
        return made
    sources = [open_data(Path(path)) for path in recipe.text.vocabulary_from] or [data]
    # Sorted and unique, so that the vocabulary does not depend on the order of the files.
    texts = sorted(
        {
            part
            for source in sources
            for record in source.records(recipe.data.train if source is data else "train")
            for sentence in sentences(record)
            for part in sentence
        },
        key=lambda part: (tuple(part), text_of(part)),
    )
    tokenizer = train_tokenizer(texts, recipe.text.vocabulary_size)
    return new_from_scratch(request, tokenizer)
