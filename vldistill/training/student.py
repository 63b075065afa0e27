"""The student of a recipe, from what it starts from or from scratch."""

from __future__ import annotations

from pathlib import Path

from vldistill.data.artifact import DataArtifact, open_data
from vldistill.data.regions.store import RegionStore
from vldistill.data.sequences import sentences, text_of
from vldistill.data.text import WordTokenizer, train_tokenizer
from vldistill.errors import InputError
from vldistill.models.base.checkpoint import MOST_REGIONS, ModelSpec
from vldistill.models.base.request import StudentRequest
from vldistill.models.build import Student, init_student, new_from_scratch
from vldistill.models.families import family_of
from vldistill.recipe.schema.recipe import Recipe


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
