"""Training on smoothed labels."""

from __future__ import annotations

from vldistill.data.batch import Batch
from vldistill.models.base.outputs import Output
from vldistill.objectives.base import Objective, Terms
from vldistill.objectives.smoothed import smoothed_cross_entropy
from vldistill.recipe.schema.recipe import Recipe
from vldistill.recipe.schema.smoothed import SmoothedObjective
from vldistill.training.caches import Say
from vldistill.training.methods.base import Method
from vldistill.training.inputs import MakeDataset
from vldistill.training.parts import Parts


class SmoothedLabels(Objective):
    """The loss alone. share: see `smoothed_cross_entropy`."""

    def __init__(self, share: float):
        super().__init__()
        self.share = share

    def forward(self, student: Output, teacher: None, batch: Batch) -> Terms:
        return {"smoothed": smoothed_cross_entropy(student.logits, batch.target, self.share)}


class Smoothed(Method[SmoothedObjective]):
    stage = "finetune"

    def for_stage(self, stage: str, recipe: Recipe) -> Recipe:
        return recipe

    def build(self, parts: Parts, recipe: Recipe, dataset: MakeDataset, say: Say | None) -> None:
        parts.objective = SmoothedLabels(self.chosen(recipe).share)

    def describe(self, recipe: Recipe) -> str:
        return f"labels smoothed by {self.chosen(recipe).share:g}"
