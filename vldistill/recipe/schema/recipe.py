"""A whole recipe: its sections, and what they ask of each other.

`vldistill.recipe.load` reads YAML into these; below methods and families nothing sees them.
"""

from __future__ import annotations

from pydantic import model_validator

from vldistill.recipe.schema.base import Section, is_folder_name
from vldistill.recipe.schema.data import Data, Image, Regions, Text
from vldistill.recipe.schema.objectives import LabelsObjective, Objective
from vldistill.recipe.schema.student import OVER_REGIONS, Clip, Pixels, Student
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
    student: Student
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
        own = self.student.visual == "end_to_end"
        if self.student.kind in OVER_REGIONS and self.regions is None and not own:
            raise ValueError(f"a {self.student.kind} student needs `regions`")
        if own and self.regions is not None:
            raise ValueError("a student with visual=end_to_end makes its own features: leave out `regions`")
        if self.image.augment != "none" and own != (self.image.augment == "flip"):
            raise ValueError(f"image.augment={self.image.augment} does not go with student.visual={self.student.visual}")
        if self.image.exif and (self.student.kind in OVER_REGIONS or self.student.kind == "text_encoder"):
            raise ValueError(f"image.exif turns pixels, which a {self.student.kind} student does not see by themselves")
        if self.train.batch.tokens is not None and self.student.kind not in OVER_REGIONS:
            raise ValueError(f"train.batch.tokens is for students over regions; this one is {self.student.kind}")
        if self.adversarial is not None and self.student.kind != "uniter":
            raise ValueError(f"`adversarial` is VILLA's, for a uniter student; this one is {self.student.kind}")
        self._canvases()
        if self.student.kind == "clip_dual":
            self._clip_dual()
        if self.student.kind in ("visualbert", "lxmert", "pixelbert") and self.objective.kind != "labels":
            raise ValueError(f"a {self.student.kind} student is a baseline: it is trained by objective {{kind: labels}}")
        if self.student.kind == "text_encoder" and (self.objective.kind != "pretrain" or "itm" in self.objective.tasks):
            raise ValueError("a text_encoder student sees no images: it is trained by objective {kind: pretrain, tasks: [mlm]}")
        if self.student.kind == "vision_encoder" and self.objective.kind != "labels":
            raise ValueError("a vision_encoder student reads no text: it is trained by objective {kind: labels}")
        if self.objective.kind != "pretrain" and (self.data.mix or self.data.weight != 1):
            raise ValueError("data.mix and data.weight are for objective `pretrain`")
        self.objective.check(self)
        check_together(self.optim, self.train)
        if self.student.keep_head and self.student.init is None:
            raise ValueError("student.keep_head needs student.init")
        return self

    def _canvases(self) -> None:
        kind, clip = self.student.kind, self.student.clip
        own, pixels = kind == "clip_vil", kind == "pixelbert"
        if kind == "clip_dual":
            clip = clip.model_copy(update={"model": None, "weights": None})  # which it may have, see `_clip_dual`
        if not own and (clip != Clip() or (self.image.long_side != Image().long_side and not pixels)):
            raise ValueError(f"student.clip and image.long_side are for a clip_vil student; this one is {kind}")
        if not pixels and self.student.pixels != Pixels():
            raise ValueError(f"student.pixels is for a pixelbert student; this one is {kind}")
        if (own or pixels) and self.image.augment != "none":
            raise ValueError(f"a {kind} student sees images as they are: image.augment must be none")
        if pixels and self.image.size > self.image.long_side:
            raise ValueError(f"image.size {self.image.size} is longer than image.long_side {self.image.long_side}")
        if own and self.student.init is None and clip.model is None:
            raise ValueError("a clip_vil student from scratch needs student.clip.model")

    def _clip_dual(self) -> None:
        if self.objective.kind not in ("labels", "retrieval"):
            raise ValueError("a clip_dual student is a baseline: it is trained by objective {kind: labels}, or retrieval")
        if self.student.dropout:
            raise ValueError("CLIP has no dropout: a clip_dual student needs student.dropout=0.0")
        if self.student.init is not None and self.student.clip.model is not None:
            raise ValueError("student.init brings its own CLIP: leave out student.clip, or student.init")
