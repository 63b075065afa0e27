"""What image-text retrieval has of its own in a training stage: its data, its objectives, its validation."""

from __future__ import annotations

from typing import Any

from accelerate import Accelerator

from vldistill.data.artifact import DataArtifact
from vldistill.data.false_texts import FalseTexts
from vldistill.data.loading import RecordDataset
from vldistill.data.pretext import CMC, PRETRAINING, RANK
from vldistill.errors import InputError
from vldistill.evaluation.retrieval import recalls
from vldistill.models.fusion import FusionModel
from vldistill.objectives.base import Objective
from vldistill.objectives.retrieval import DualRetrieval, TextRanking
from vldistill.schema import Recipe, Teachers
from vldistill.schema_retrieval import RetrievalObjective
from vldistill.students.two_towers import TwoTowers
from vldistill.training.loop import Watch
from vldistill.training.vectors import Encoding, rank_captions

FALSE_TEXTS = 15
"""Beside each caption of a fusion encoder, where the recipe does not say: ViLT's own."""


def check_captions(data: DataArtifact) -> None:
    """Raises InputError where the data has no captions."""
    if data.task != "caption":
        raise InputError(f"is a `{data.task}` artifact, which has no captions to retrieve by", where=str(data.folder),
                         hint="choose an artifact of coco or flickr30k, or of `vldistill prepare jsonl --task caption`")


def for_retrieval(stage: str, recipe: Recipe) -> Recipe:
    """The recipe as a stage runs it. Without attention `distill` has no teacher either: contrast alone, as in DiDE's Table 4."""
    if stage == "distill" and recipe.student.kind == "vilt":
        raise InputError("has no teacher to distil from", where=f"recipe {recipe.name}",
                         hint=f"train it with: vldistill finetune --recipe {recipe.name}")
    if stage == "distill" and recipe.objective.attention != "none":
        return recipe
    alone = recipe.objective.model_copy(update={"attention": "none"})
    return recipe.model_copy(update={"teacher": None, "teachers": Teachers(), "objective": alone})


def retrieval_heads(kind: str) -> tuple[str, ...]:
    """The tasks that a student of this kind needs heads for."""
    return (RANK,) if kind == "vilt" else ()


def build_retrieval(
    chosen: RetrievalObjective, student: TwoTowers | FusionModel, train: RecordDataset, val: RecordDataset
) -> tuple[Objective, RecordDataset | FalseTexts, RecordDataset | FalseTexts]:
    """The objective of the student's kind, and its data: a fusion encoder's has false texts beside each caption."""
    if isinstance(student, TwoTowers):
        return DualRetrieval(**chosen.model_dump(exclude={"kind", "false_texts"}), depth=student.layers), train, val
    count = chosen.false_texts or FALSE_TEXTS
    return TextRanking(), FalseTexts(train, count), FalseTexts(val, count)


def describe_retrieval(chosen: RetrievalObjective, kind: str) -> str:
    """For the plan and the log."""
    if kind == "vilt":
        return f"ranking each caption above {chosen.false_texts or FALSE_TEXTS} texts of other images"
    attention = f" + attention ({chosen.attention}, {chosen.layers} layer)" if chosen.attention != "none" else ""
    return PRETRAINING[CMC] + attention


def validated_by_recall(
    student: TwoTowers, captions: RecordDataset, accelerator: Accelerator, *, batch: int, workers: int, watch: Watch
) -> dict[str, Any]:
    """Recalls of a dual encoder over a whole split, whose images and texts all processes share out. watch: of the batches."""
    how = Encoding(batch, accelerator.device, workers, accelerator.process_index, accelerator.num_processes,
                   lambda values: accelerator.reduce(values, reduction="sum"), accelerator.autocast, watch=watch)
    return recalls(rank_captions(student, captions, how).ranks)
