"""From a recipe's `data` and `image` to records, and to the datasets that a student reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vldistill.data.artifact import DataArtifact
from vldistill.data.datasets import RecordDataset
from vldistill.data.records import Record, mapped
from vldistill.data.text import WordTokenizer
from vldistill.data.visual import VisualInput
from vldistill.errors import InputError
from vldistill.models.base.checkpoint import ModelSpec
from vldistill.models.base.inputs import text_layout, visual_input
from vldistill.recipe.schema.recipe import Recipe
from vldistill.training.parts import MakeDataset


def chosen_records(recipe: Recipe, data: DataArtifact, split: str) -> Sequence[Record]:
    """Those of a split that the recipe's `data` admits; for pre-training, read from disk as they are asked for."""
    if recipe.objective.kind == "pretrain" and recipe.data.types is None:
        records = data.stream(split, limit=recipe.data.limit)
    else:
        records = data.records(split, types=recipe.data.types, part=recipe.data.part, limit=recipe.data.limit)
    # A text encoder reads the text of any data.
    return mapped(_without_images, records) if recipe.student.sees == "nothing" else records


def _without_images(record: Record) -> Record:
    return replace(record, images=[])


def is_labelled(record: Record, data: DataArtifact) -> bool:
    """Whether a record has what its task is scored by."""
    held = {"answers": record.answers, "tags": record.tags}
    return held.get(data.spec.target, record.label) is not None


def trainable(records: Sequence[Record], data: DataArtifact) -> tuple[Sequence[Record], int]:
    """Without VQA's questions of which no answer is in the vocabulary: they teach nothing, but are evaluated. Also how many were
    left out. Raises InputError where none stays."""
    if data.vocabulary is None:
        return records, 0
    kept = [record for record in records if record.answers is None or data.vocabulary.knows(record.answers)]
    if not kept:
        raise InputError(
            "no training question has an answer in the vocabulary",
            where=str(data.folder),
            hint="prepare again with a smaller --min-count",
        )
    return kept, len(records) - len(kept)


def datasets(
    recipe: Recipe, data: DataArtifact, keepable: Sequence[Record], spec: ModelSpec, tokenizer: WordTokenizer
) -> MakeDataset:
    """What makes a dataset of an artifact's records, augmented or not. keepable: all those whose images may be kept, or none."""
    visual = {augment: build_visual(recipe, data, keepable, spec, augment=augment) for augment in (True, False)}
    classes = len(data.labels) if data.spec.target == "tags" else None

    def dataset(records: Sequence[Record], *, augment: bool) -> RecordDataset:
        return RecordDataset(
            records,
            text_layout(spec, tokenizer),
            visual[augment],
            pad_id=tokenizer.pad_id,
            vocabulary=data.vocabulary,
            classes=classes,
            seed=recipe.train.seed,
        )

    return dataset


def build_visual(recipe: Recipe, data: DataArtifact, records: Sequence[Record], spec: ModelSpec, *, augment: bool) -> VisualInput:
    """How the student sees images, augmented as the recipe says; of `records`, or of too many to be kept."""
    image = recipe.image
    paths = (path for record in records for path in record.images)
    memory = recipe.data.memory if records else bool(recipe.data.memory)
    return visual_input(
        spec,
        data.images,
        paths=paths,
        augment=image.augment if augment else "none",
        shift=image.shift,
        noise=image.noise,
        memory=memory,
        objects=data.objects if spec.image_network else None,
    )
