"""From a recipe's `train.batch` to batches, and how many pairs an optimiser step then has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vldistill.data.samplers import EpochBatches, TokenBatches
from vldistill.errors import InputError, needed
from vldistill.recipe.schema.recipe import Recipe

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
