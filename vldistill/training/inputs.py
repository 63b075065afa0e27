"""From a recipe's `data`, `image` and `train.batch` to records, to the datasets that a student reads, and to their batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vldistill.data.artifact import DataArtifact
from vldistill.data.datasets import RecordDataset
from vldistill.data.records import Record, mapped
from vldistill.data.samplers import EpochBatches, TokenBatches
from vldistill.data.text import WordTokenizer
from vldistill.data.visual import VisualInput
from vldistill.errors import InputError, needed
from vldistill.models.base.checkpoint import ModelSpec
from vldistill.models.base.inputs import text_layout, visual_input
from vldistill.recipe.schema.recipe import Recipe

MakeDataset = Callable[..., RecordDataset]
"""Called with an artifact's records and whether they are augmented."""


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


Batches = EpochBatches | TokenBatches
EVAL_PAIRS = 16
"""Of a validation batch where the training batch counts tokens."""


@dataclass(frozen=True)
class StepPairs:
    """Pairs of an optimiser step over all processes: their mean over an epoch, the least and the most."""

    mean: float
    least: int
    most: int

    def __str__(self) -> str:
        return f"{self.mean:g}" if self.least == self.most else f"{self.mean:.1f} ({self.least} to {self.most})"


def make_batches(recipe: Recipe, dataset: Any, *, rows: int = 1, rank: int = 0, world: int = 1) -> Batches:
    """rows: passes of the student that a record's sequences make. Raises InputError where a record alone has more tokens than a
    batch may have, as the official sampler does."""
    batch, place = recipe.train.batch, {"seed": recipe.train.seed, "rank": rank, "world": world}
    if batch.tokens is None:
        return EpochBatches(len(dataset), needed(batch.pairs, "train.batch.pairs"), **place)
    lengths = dataset.lengths()
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    if (most := lengths[longest] * rows) > batch.tokens:
        raise InputError(
            f"record {dataset.records[longest].id} alone has {most} tokens, train.batch.tokens is {batch.tokens}",
            where=f"recipe {recipe.name}",
            hint=f"set train.batch.tokens={most}",
        )
    return TokenBatches(lengths, batch.tokens, passes=rows, **place)


def step_pairs(batches: Batches, accumulate: int) -> StepPairs:
    """Of the batches' present epoch."""
    if isinstance(batches, EpochBatches):
        pairs = min(batches.batch * batches.world, batches.count) * accumulate
        return StepPairs(pairs, pairs, pairs)
    sizes, together = [len(batch) for batch in batches.dealt()], batches.world * accumulate
    steps = [sum(sizes[start : start + together]) for start in range(0, len(sizes), together)]
    # What is left over is completed by the next epoch.
    whole = steps[: len(sizes) // together] or [round(sum(sizes) * together / len(sizes))]
    return StepPairs(sum(whole) / len(whole), min(whole), max(whole))


def eval_pairs(recipe: Recipe) -> int:
    """Pairs of a validation batch."""
    return recipe.train.eval_pairs or recipe.train.batch.pairs or EVAL_PAIRS


def describe_batch(recipe: Recipe, phases: list[StepPairs], world: int) -> str:
    """What makes a step's pairs, of the task, and of step 1 before it where that differs."""
    batch, task = recipe.train.batch, phases[-1]
    of_one = f"{batch.pairs}" if batch.tokens is None else f"batches of at most {batch.tokens:,} tokens"
    if batch.pairs is not None and task.mean < batch.pairs * batch.accumulate * world:
        return f"{task} pairs = all {task.mean / batch.accumulate:g} there are x {batch.accumulate} accumulated"
    line = f"{task} pairs = {of_one} x {batch.accumulate} accumulated x {world} process(es)"
    return line if batch.tokens is None or len(phases) == 1 else f"{line}; while matching {phases[0]}"
