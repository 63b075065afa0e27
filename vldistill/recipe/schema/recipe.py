"""A whole recipe: its sections, and what they ask of each other.

`vldistill.recipe.load` reads YAML into these; below methods and families nothing sees them.
"""

from __future__ import annotations

from pydantic import model_validator

from vldistill.recipe.schema.base import Section, is_folder_name
from vldistill.recipe.schema.data import Data, Image, Regions, Text
from vldistill.recipe.schema.methods import Objective
from vldistill.recipe.schema.objectives import LabelsObjective
from vldistill.recipe.schema.students import AnyStudent
from vldistill.recipe.schema.teachers import Cache, Teacher, Teachers
from vldistill.recipe.schema.training import Adversarial, Optim, Train, check_together


class Recipe(Section):
    """A whole run."""

    name: str = ""
    """The folder under `runs/`; the file's stem by default."""
    description: str = ""
    """A line for `vldistill recipe ls`."""
    data: Data
    """What to train on."""
    image: Image = Image()
    """How images become inputs."""
    text: Text = Text()
    """How texts become inputs."""
    regions: Regions | None = None
    """Of a student that sees regions of a store."""
    student: AnyStudent
    """What is trained."""
    teacher: Teacher | None = None
    """DiDE's fusion model."""
    teachers: Teachers = Teachers()
    """ADVL's encoders."""
    objective: Objective = LabelsObjective(kind="labels")
    """What the student learns from."""
    optim: Optim = Optim()
    """Optimiser and learning-rate schedule."""
    adversarial: Adversarial | None = None
    """VILLA's training of a UNITER."""
    train: Train
    """Length, batches, precision, checkpoints."""
    cache: Cache = Cache()
    """Where teachers' features are kept."""

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
