"""A whole recipe: its sections, and what they ask of each other.

`vldistill.recipe.load` reads YAML into these; below methods and families nothing sees them.
"""

from __future__ import annotations

from pydantic import model_validator

from vldistill.recipe.schema.base import Section, is_folder_name
from vldistill.recipe.schema.data import Data, Image, Regions, Text
from vldistill.recipe.schema.objectives import LabelsObjective, Objective
from vldistill.recipe.schema.students import AnyStudent
from vldistill.recipe.schema.teachers import Cache, Teacher, Teachers
from vldistill.recipe.schema.training import Adversarial, Optim, Train, check_together


class Recipe(Section):
    """A whole run: `name` is the folder under `runs/`, the file's stem by default."""

    name: str = ""
    description: str = ""
    data: Data
    image: Image = Image()
    text: Text = Text()
    regions: Regions | None = None
    student: AnyStudent
    teacher: Teacher | None = None
    teachers: Teachers = Teachers()
    objective: Objective = LabelsObjective(kind="labels")
    optim: Optim = Optim()
    adversarial: Adversarial | None = None
    train: Train
    cache: Cache = Cache()

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.name and not is_folder_name(self.name):
            raise ValueError(f"name {self.name!r} is not the name of a folder: use letters, digits, '-', '_', '.'")
        self.student.check(self)
        if self.objective.kind != "pretrain" and (self.data.mix or self.data.weight != 1):
            raise ValueError("data.mix and data.weight are for objective `pretrain`")
        self.objective.check(self)
        check_together(self.optim, self.train)
        return self
