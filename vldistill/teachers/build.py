"""From a recipe's `teachers` section to the teachers themselves, none of which is loaded before it is needed."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from vldistill.errors import InputError
from vldistill.models.base.checkpoint import resolve_model
from vldistill.recipe.schema.teachers import RelevanceModel, TextTeacher, VisionTeacher
from vldistill.teachers import unimodal
from vldistill.teachers.clip import Clip, ClipText, ClipVision
from vldistill.teachers.text import TransformersText
from vldistill.teachers.vision import TimmVision
from vldistill.teachers.words import Relevance

VISION = {"timm": TimmVision, "open_clip": ClipVision, "slip": ClipVision}
TEXT = {"transformers": TransformersText, "open_clip": ClipText, "slip": ClipText}


def build_vision(chosen: VisionTeacher) -> unimodal.VisionTeacher:
    """Raises InputError where a layer is chosen that the kind does not offer."""
    return _build(VISION[chosen.kind], chosen, "vision")


def build_text(chosen: TextTeacher) -> unimodal.TextTeacher:
    """The same for text."""
    return _build(TEXT[chosen.kind], chosen, "text")


def build_relevance(chosen: RelevanceModel | None) -> Relevance:
    """The judge of words; without a model YAKE alone judges."""
    return Relevance(_clip(chosen.kind, chosen.model, chosen.weights) if chosen else None)


def _clip(kind: str, model: str, weights: str | None) -> Clip:
    """One copy, whether it teaches vision, text, or judges words."""
    return _shared_clip(kind, str(Path(model).resolve()) if Path(model).is_dir() else model, weights)


@lru_cache(maxsize=4)
def _shared_clip(kind: str, model: str, weights: str | None) -> Clip:
    return Clip(kind, model, weights)


def _folder(model: str) -> str:
    """A run is named by its model folder."""
    return str(resolve_model(model)) if Path(model).is_dir() and not (Path(model) / "config.json").exists() else model


def _build(kind, chosen: VisionTeacher | TextTeacher, role: str):
    if kind in (TimmVision, TransformersText):
        return kind(_folder(chosen.model), chosen.weights, chosen.layer)
    if chosen.layer != "last":
        raise InputError(
            f"teachers.{role}.layer is {chosen.layer}, a {chosen.kind} teacher gives its last layer only", hint="leave it out"
        )
    return kind(_clip(chosen.kind, chosen.model, chosen.weights))
