"""Image-text retrieval: a dual encoder's contrast, with a fusion teacher's attention or without (DiDE, Table 4), or a fusion
encoder's ranking."""

from __future__ import annotations

from typing import Any

from vldistill.data.artifact import DataArtifact
from vldistill.data.batch import CMC, PRETRAINING, RANK
from vldistill.data.datasets import FalseTexts
from vldistill.errors import InputError
from vldistill.metrics.retrieval import recalls
from vldistill.objectives.retrieval import DualRetrieval, TextRanking
from vldistill.recipe.schema.objectives import RetrievalObjective
from vldistill.recipe.schema.recipe import Recipe
from vldistill.recipe.schema.students import STUDENTS
from vldistill.recipe.schema.teachers import Teachers
from vldistill.runtime import reduced
from vldistill.training.caches import Say
from vldistill.training.inputs import MakeDataset
from vldistill.training.methods.base import Method, elsewhere, nothing_to_distil
from vldistill.training.parts import Parts, build_teacher
from vldistill.training.validation import Judge, Validation, by_sums
from vldistill.training.vectors import Encoding, rank_captions

FALSE_TEXTS = 15
"""Beside each caption of a fusion encoder, where the recipe does not say: ViLT's own."""


class Retrieval(Method[RetrievalObjective]):
    labelled = False
    stage = "finetune"

    def for_stage(self, stage: str, recipe: Recipe) -> Recipe:
        """Without attention `distill` has no teacher either: contrast alone, as in DiDE's Table 4."""
        if stage == "pretrain":
            raise elsewhere(recipe, self.stage)
        if stage == "distill" and recipe.student.ranks == "pairs":
            raise nothing_to_distil(recipe)
        if stage == "distill" and self.chosen(recipe).attention != "none":
            return recipe
        alone = self.chosen(recipe).model_copy(update={"attention": "none"})
        return recipe.model_copy(update={"teacher": None, "teachers": Teachers(), "objective": alone})

    def check_data(self, recipe: Recipe, data: DataArtifact) -> None:
        if data.task != "caption":
            raise InputError(
                f"is a `{data.task}` artifact, which has no captions to retrieve by",
                where=str(data.folder),
                hint="choose an artifact of coco or flickr30k, or of `vldistill prepare jsonl --task caption`",
            )

    def heads(self, recipe: Recipe) -> tuple[str, ...]:
        return (RANK,) if recipe.student.ranks == "pairs" else ()

    def build(self, parts: Parts, recipe: Recipe, dataset: MakeDataset, say: Say | None) -> None:
        """A fusion encoder's data have false texts beside each caption."""
        chosen = self.chosen(recipe)
        if recipe.student.ranks == "vectors":
            parts.objective = DualRetrieval(**chosen.model_dump(exclude={"kind", "false_texts"}), depth=parts.student.layers)
        else:
            count = chosen.false_texts or FALSE_TEXTS
            parts.objective = TextRanking()
            parts.train, parts.val = FalseTexts(parts.train, count), FalseTexts(parts.val, count)
        if parts.objective.needs_teacher:
            parts.teacher = build_teacher(recipe, chosen, parts, ())

    def judge(self, parts: Parts) -> Judge:
        return by_recall if STUDENTS[parts.spec.kind].ranks == "vectors" else by_sums

    def describe(self, recipe: Recipe) -> str:
        chosen = self.chosen(recipe)
        if recipe.student.ranks == "pairs":
            return f"ranking each caption above {chosen.false_texts or FALSE_TEXTS} texts of other images"
        attention = f" + attention ({chosen.attention}, {chosen.layers} layer)" if chosen.attention != "none" else ""
        return PRETRAINING[CMC] + attention


def by_recall(asked: Validation) -> dict[str, Any]:
    """Recalls of a dual encoder over a whole split, whose images and texts all processes share out."""
    accelerator = asked.accelerator
    how = Encoding(
        asked.pairs,
        accelerator.device,
        asked.workers,
        accelerator.process_index,
        accelerator.num_processes,
        lambda values: reduced(accelerator, values, "sum"),
        lambda: accelerator.autocast(),
        watch=asked.watch,
    )
    return recalls(rank_captions(asked.student, asked.dataset, how).ranks)
