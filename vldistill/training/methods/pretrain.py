"""Pre-training on captions or text alone, with DiDE's distillation (section 3.3.1) or without."""

from __future__ import annotations

from vldistill.data.artifact import DataArtifact
from vldistill.data.batch import MLM, PRETRAINING
from vldistill.errors import InputError
from vldistill.models.base.heads import HEADS
from vldistill.objectives.pretraining import Pretraining
from vldistill.recipe.schema.objectives import PretrainObjective
from vldistill.recipe.schema.recipe import Recipe
from vldistill.training.caches import Say
from vldistill.training.inputs import MakeDataset
from vldistill.training.methods.base import Method, elsewhere
from vldistill.training.methods.dide import describe_dide
from vldistill.training.parts import Parts, build_teacher
from vldistill.training.validation import Judge, by_sums


class Pretrain(Method[PretrainObjective]):
    labelled = False
    stage = "pretrain"

    def for_stage(self, stage: str, recipe: Recipe) -> Recipe:
        if stage != "pretrain":
            raise elsewhere(recipe, self.stage)
        return recipe

    def check_data(self, recipe: Recipe, data: DataArtifact) -> None:
        """Words are needed, and for matching one image a record."""
        if not data.spec.text or data.spec.target == "choice":
            raise InputError(
                f"is a `{data.task}` artifact, whose text cannot be pre-trained on",
                where=str(data.folder),
                hint="choose captions, or text alone",
            )
        seeing = [PRETRAINING[task] for task in self.chosen(recipe).tasks if task != MLM]
        if seeing and data.spec.images != 1:
            raise InputError(
                f"has {data.spec.images} images a record, {seeing[0]} needs one",
                where=str(data.folder),
                hint="set objective.tasks=[mlm]",
            )

    def heads(self, recipe: Recipe) -> tuple[str, ...]:
        return tuple(task for task in self.chosen(recipe).tasks if task in HEADS)

    def build(self, parts: Parts, recipe: Recipe, dataset: MakeDataset, say: Say | None) -> None:
        chosen, words = self.chosen(recipe), parts.tokenizer
        if words.mask_id is None and MLM in chosen.tasks:
            raise InputError(
                "the student's tokenizer has no token that stands for a hidden word",
                where=f"recipe {recipe.name}",
                hint="leave mlm out of objective.tasks, or start from another model",
            )
        parts.objective = Pretraining(
            **chosen.model_dump(exclude={"kind", "mask"}),
            depth=parts.student.layers,
            vocabulary=len(words.vocabulary),
            mask_id=-1 if words.mask_id is None else words.mask_id,
            probability=chosen.mask,
        )
        if parts.objective.needs_teacher:
            parts.teacher = build_teacher(recipe, chosen, parts, self.heads(recipe) if chosen.soft_labels else ())

    def judge(self, parts: Parts) -> Judge:
        return by_sums

    def describe(self, recipe: Recipe) -> str:
        chosen = self.chosen(recipe)
        names = PRETRAINING | {MLM: f"{PRETRAINING[MLM]} ({100 * chosen.mask:.0f} % of the words)"}
        tasks = " + ".join(names[task] for task in chosen.tasks)
        return f"{tasks}, from {describe_dide(chosen)}" if chosen.distils else tasks
