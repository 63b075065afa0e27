"""A recipe's unimodal teachers and their caches: which features a run needs, what is missing of them, and where they are read."""

from __future__ import annotations

from collections.abc import Callable

from vldistill.data.artifact import DataArtifact
from vldistill.data.records import Record
from vldistill.schema import Recipe
from vldistill.teachers.build import build_relevance, build_text, build_vision
from vldistill.teachers.fusion import FusionTeacher
from vldistill.teachers.unimodal import LiveFeatures, UnimodalTeachers

Say = Callable[[str], None]
Wanted = list[tuple[DataArtifact, list[Record]]]


class TeacherCaches:
    """The teachers that a recipe's objective asks for."""

    def __init__(self, recipe: Recipe):
        chosen, teachers = recipe.objective, recipe.teachers
        self._recipe, self._chosen = recipe, chosen
        self.vision = build_vision(teachers.vision) if chosen.vision else None
        self.text = build_text(teachers.text) if chosen.text or chosen.words else None
        self.relevance = build_relevance(teachers.relevance) if chosen.words else None

    @property
    def vision_width(self) -> int | None:
        return self.vision.width if self.vision else None

    @property
    def text_width(self) -> int | None:
        return self.text.width if self.text else None

    def ensure(self, wanted: Wanted, say: Say) -> None:
        """Builds what is missing."""

    def teachers(self, data: DataArtifact, fusion: FusionTeacher | None) -> UnimodalTeachers:
        """The teachers of an artifact's records, live or read from their caches as `cache.mode` says."""
        chosen = self._chosen
        features = LiveFeatures(self.vision, self.text, self.relevance, data.images)
        return UnimodalTeachers(features, chosen.vision, chosen.text, chosen.words, fusion)
