"""What a training asks of a method, with the answers of one that learns from a task's labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from pkgutil import resolve_name
from typing import Generic, TypeVar, cast

from vldistill.data.artifact import DataArtifact
from vldistill.data.sources.table import labelled
from vldistill.errors import InputError
from vldistill.recipe.schema.objectives import LabelsObjective, ObjectiveSection
from vldistill.recipe.schema.recipe import Recipe
from vldistill.recipe.schema.teachers import Teachers
from vldistill.training.caches import Say, WantedFeatures
from vldistill.training.inputs import MakeDataset
from vldistill.training.methods.table import METHODS
from vldistill.training.parts import Parts
from vldistill.training.validation import Judge, by_answers

Chosen = TypeVar("Chosen", bound=ObjectiveSection)


class Method(ABC, Generic[Chosen]):
    """How a kind of objective is trained; `Chosen` is its section of a recipe. labelled: whether its records need labels. stage:
    the command that trains it. cached: whether its teachers' features are kept on disk."""

    labelled = True
    stage = "distill"
    cached = False

    def chosen(self, recipe: Recipe) -> Chosen:
        """What a recipe of this method says of it."""
        return cast(Chosen, recipe.objective)

    def for_stage(self, stage: str, recipe: Recipe) -> Recipe:
        """The recipe as a stage runs it: `finetune` drops teacher and distillation, and is every recipe's baseline. Raises
        InputError where the stage is not one of the method's."""
        if stage == "pretrain":
            raise elsewhere(recipe, self.stage)
        return without_teacher(recipe) if stage == "finetune" else recipe

    def check_data(self, recipe: Recipe, data: DataArtifact) -> None:
        """Raises InputError where the data lacks what the recipe's objective needs."""
        if data.spec.target == "none":
            raise InputError(
                f"is a `{data.task}` artifact, which has no labels to fine-tune on",
                where=str(data.folder),
                hint=f"choose an artifact of {', '.join(labelled())}",
            )

    def heads(self, recipe: Recipe) -> tuple[str, ...] | None:
        """The student's own tasks that it needs heads for, None for those of the labels."""
        return None

    @abstractmethod
    def build(self, parts: Parts, recipe: Recipe, dataset: MakeDataset, say: Say | None) -> None:
        """Puts objective, teachers and data of its own into the parts; a missing cache is built, unless `say` is None (a dry
        run)."""

    def features(self, recipe: Recipe) -> WantedFeatures:
        """The records whose teachers' features are kept, of a method that is `cached`."""
        return []

    def judge(self, parts: Parts) -> Judge:
        """How its validation is judged."""
        return by_answers

    @abstractmethod
    def describe(self, recipe: Recipe) -> str:
        """What the student learns from, for the plan and the log."""

    def parents(self, parts: Parts) -> dict[str, str]:
        """Fingerprints of what the run was made from, beside those of every method."""
        return {}


@cache
def method_of(kind: str) -> Method:
    """Raises KeyError for a kind that is not in the table."""
    return resolve_name(f"vldistill.{METHODS[kind][1]}")()


def elsewhere(recipe: Recipe, stage: str) -> InputError:
    """For a stage that does not train such a recipe."""
    return InputError(
        f"has objective `{recipe.objective.kind}`",
        where=f"recipe {recipe.name}",
        hint=f"train it with: vldistill {stage} --recipe {recipe.name}",
    )


def without_teacher(recipe: Recipe) -> Recipe:
    """The baseline of a recipe that distils: the same from labels alone."""
    labels = LabelsObjective(kind="labels", answer_loss=getattr(recipe.objective, "answer_loss", "bce"))
    return recipe.model_copy(update={"teacher": None, "teachers": Teachers(), "objective": labels})


def nothing_to_distil(recipe: Recipe) -> InputError:
    """For `distill` of a recipe without a teacher."""
    return InputError(
        "has no teacher to distil from",
        where=f"recipe {recipe.name}",
        hint=f"train it with: vldistill finetune --recipe {recipe.name}",
    )
