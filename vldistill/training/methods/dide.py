"""DiDE: a fusion teacher's predictions and cross-modal attention teach a student (sections 3.2 and 3.3)."""

from __future__ import annotations

from vldistill.data.artifact import DataArtifact
from vldistill.errors import InputError
from vldistill.models.build import Student
from vldistill.objectives.dide import DiDE
from vldistill.recipe.schema.objectives import DideObjective, PretrainObjective
from vldistill.recipe.schema.recipe import Recipe
from vldistill.training.caches import Say
from vldistill.training.inputs import MakeDataset
from vldistill.training.methods.base import Method
from vldistill.training.methods.labels import loss_of
from vldistill.training.parts import Parts, build_teacher


class Dide(Method[DideObjective]):
    def for_stage(self, stage: str, recipe: Recipe) -> Recipe:
        if stage == "distill" and recipe.cache.mode == "require" and recipe.teacher is not None:
            raise InputError(
                f"cache.mode is `require`, but a {recipe.teacher.kind} teacher has nothing to cache and runs live",
                where=f"recipe {recipe.name}",
                hint="set cache.mode=auto",
            )
        return super().for_stage(stage, recipe)

    def build(self, parts: Parts, recipe: Recipe, dataset: MakeDataset, say: Say | None) -> None:
        parts.objective = dide_objective(self.chosen(recipe), parts.data, parts.student)
        if parts.objective.needs_teacher:
            parts.teacher = build_teacher(recipe, self.chosen(recipe), parts)

    def describe(self, recipe: Recipe) -> str:
        return describe_dide(self.chosen(recipe))


def dide_objective(chosen: DideObjective, data: DataArtifact, student: Student) -> DiDE:
    """The objective's module, on the data's task."""
    return DiDE(loss=loss_of(chosen, data, student), depth=student.layers, **chosen.model_dump(exclude={"kind", "answer_loss"}))


def describe_dide(chosen: DideObjective | PretrainObjective) -> str:
    """What the student takes from its teacher."""
    parts = [f"attention ({chosen.attention}, {chosen.layers} layer)"] if chosen.attention != "none" else []
    parts += ["soft labels"] * chosen.soft_labels + ["hidden states"] * chosen.hidden_states
    parts += [f"ground-truth labels x {chosen.hard_label_weight:g}"] * bool(chosen.hard_label_weight)
    return " + ".join(parts)
