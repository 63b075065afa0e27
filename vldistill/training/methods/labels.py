"""Training on ground-truth labels alone: baselines, and the teachers of other runs."""

from __future__ import annotations

from vldistill.data.artifact import DataArtifact
from vldistill.models.build import Student
from vldistill.objectives.base import HardLabels
from vldistill.recipe.schema.objectives import DideObjective, LabelsObjective
from vldistill.recipe.schema.recipe import Recipe
from vldistill.training.caches import Say
from vldistill.training.inputs import MakeDataset
from vldistill.training.methods.base import Method, nothing_to_distil
from vldistill.training.parts import Parts


class Labels(Method[LabelsObjective]):
    stage = "finetune"

    def for_stage(self, stage: str, recipe: Recipe) -> Recipe:
        if stage == "distill":
            raise nothing_to_distil(recipe)
        return super().for_stage(stage, recipe)

    def build(self, parts: Parts, recipe: Recipe, dataset: MakeDataset, say: Say | None) -> None:
        parts.objective = labels_objective(self.chosen(recipe), parts.data, parts.student)

    def describe(self, recipe: Recipe) -> str:
        return "ground-truth labels"


def labels_objective(chosen: LabelsObjective, data: DataArtifact, student: Student) -> HardLabels:
    """The objective's module, on the data's task."""
    return HardLabels(loss_of(chosen, data, student))


def loss_of(chosen: LabelsObjective | DideObjective, data: DataArtifact, student: Student) -> str:
    """The task loss, a key of TASK_LOSSES: the student's own, VQA's the recipe's."""
    target = data.spec.target
    return f"answer_{chosen.answer_loss}" if target == "answers" else student.losses.get(target, target)
