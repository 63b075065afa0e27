"""ADVL: frozen unimodal teachers teach a vision-language student beside its task, after a step of image-text matching."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from vldistill.artifacts import fingerprint
from vldistill.data.artifact import DataArtifact, open_data
from vldistill.data.datasets import RecordDataset
from vldistill.data.records import Record
from vldistill.data.variants import statements_of
from vldistill.errors import InputError, needed
from vldistill.models.base.inputs import text_layout
from vldistill.models.build import Student
from vldistill.objectives.advl import Advl, Distances, Pathway, Scalars
from vldistill.objectives.base import Objective
from vldistill.objectives.matching import AdvlMatching
from vldistill.recipe.schema.objectives import AdvlObjective, LabelsObjective, Start
from vldistill.recipe.schema.recipe import Recipe
from vldistill.teachers.unimodal import UnimodalTeachers
from vldistill.training.anchor import AnchorInputs
from vldistill.training.caches import Say, TeacherCaches, WantedFeatures
from vldistill.training.inputs import MakeDataset, build_visual, chosen_records, trainable
from vldistill.training.methods.base import Method
from vldistill.training.methods.dide import dide_objective
from vldistill.training.methods.labels import labels_objective
from vldistill.training.parts import Matching, Parts, build_teacher

TASKS: dict[str, Callable[[Any, DataArtifact, Student], Objective]] = {"labels": labels_objective, "dide": dide_objective}
"""What may stand for the task loss, by the kind of `objective.task`."""


class AdvlMethod(Method[AdvlObjective]):
    cached = True

    def build(self, parts: Parts, recipe: Recipe, dataset: MakeDataset, say: Say | None) -> None:
        chosen, data, student = self.chosen(recipe), parts.data, parts.student
        pairs: list[list[Record]] = [[], []]
        if chosen.itm_fraction:
            splits = (recipe.data.train, recipe.data.val)
            pairs = [matched_pairs(part.records, data, name) for part, name in zip((parts.train, parts.val), splits, strict=True)]
        anchored = anchor_records(recipe, data, parts.train.records) if chosen.map == "anchored" else None
        caches = TeacherCaches(recipe)
        if say is not None:
            caches.ensure([(data, [*parts.train.records, *pairs[0]])] + ([anchored] if anchored else []), say)
        section = chosen.task or LabelsObjective(kind="labels", answer_loss=chosen.answer_loss)
        task = TASKS[section.kind](section, data, student)
        fusion = build_teacher(recipe, section, parts) if task.needs_teacher else None
        parts.teacher = caches.teachers(data, fusion)
        widths = {"vision": caches.vision_width, "text": caches.text_width}
        parts.objective = advl = build_advl(chosen, task, depth=student.layers, width=student.width, **widths)
        if chosen.itm_fraction:
            step_1 = AdvlMatching(
                advl, width=student.width, depth=student.layers, score=chosen.itm_score, temperature=chosen.itm_temperature
            )
            mixed, held = dataset(pairs[0], augment=True), dataset(pairs[1], augment=False)
            parts.matching = Matching(step_1, mixed, held, chosen.itm_fraction)
        if anchored:
            source, records = anchored
            visual = build_visual(recipe, source, records, parts.spec, augment=False)
            layout = text_layout(parts.spec, parts.tokenizer)
            inputs = RecordDataset(records, layout, visual, pad_id=parts.tokenizer.pad_id)
            parts.anchor = AnchorInputs(caches.teachers(source, None), inputs)

    def features(self, recipe: Recipe) -> WantedFeatures:
        """Of the training split, step 1's pairs and the anchor's inputs."""
        chosen, data = self.chosen(recipe), open_data(Path(recipe.data.path))
        train, _ = trainable(chosen_records(recipe, data, recipe.data.train), data)
        pairs = matched_pairs(train, data, recipe.data.train) if chosen.itm_fraction else []
        anchored = [anchor_records(recipe, data, train)] if chosen.map == "anchored" else []
        return [(data, [*train, *pairs]), *anchored]

    def describe(self, recipe: Recipe) -> str:
        chosen = self.chosen(recipe)
        parts = [*["vision"] * chosen.vision, *["text"] * chosen.text, *[f"{chosen.words} word(s)"] * bool(chosen.words)]
        parts += ["confidence weighting"] * chosen.confidence + ["image-text matching first"] * bool(chosen.itm_fraction)
        task = "DiDE" if chosen.task else "ground-truth labels"
        return f"{task}; ADVL: {', '.join(parts)}; {chosen.map} maps, {chosen.weights} weights"

    def parents(self, parts: Parts) -> dict[str, str]:
        fields = cast(UnimodalTeachers, parts.teacher).features.fields
        return {f"teachers.{role}": fingerprint(own) for role, own in fields.items()}


def build_advl(chosen: AdvlObjective, task: Objective, *, depth: int, width: int, vision: int | None, text: int | None) -> Advl:
    """depth, width: of the student. vision, text: widths of the teachers' features, None where there is no such teacher. Raises
    InputError where the student lacks a layer, or its features cannot be compared as they are."""
    pathways: dict[str, Pathway | None] = {
        "vision": Pathway(_layer(chosen.layers.vision, depth, "vision"), needed(vision, "its width")) if chosen.vision else None,
        "text": Pathway(_layer(chosen.layers.text, depth, "text"), needed(text, "its width")) if chosen.text else None,
        "words": Pathway(_layer(chosen.layers.text, depth, "text"), needed(text, "its width")) if chosen.words else None,
    }
    try:
        distances = Distances(width=width, map=chosen.map, **pathways)
    except ValueError as error:
        raise InputError(str(error), hint="set objective.map=learned") from None
    return Advl(task, distances, build_scalars(chosen.start, chosen.weights, vision, text), confident=chosen.confidence)


def build_scalars(start: Start, mode: str, vision: int | None, text: int | None) -> Scalars:
    """E and F start at 1 / sqrt(teacher's width) unless told: unit vectors of that width are about sqrt(width) apart in L1."""
    return Scalars(
        temperature=start.temperature,
        vision=start.vision or (vision or 1) ** -0.5,
        text=start.text or (text or 1) ** -0.5,
        mode=mode,
    )


def _layer(wanted: Any, depth: int, modality: str) -> int:
    layer = {"half": max(depth // 2, 1), "last": depth}[wanted] if isinstance(wanted, str) else int(wanted)
    if layer > depth:
        raise InputError(f"objective.layers.{modality} is {layer}, the student has {depth} layers", hint=f"choose 1 to {depth}")
    return layer


def matched_pairs(records: Sequence[Record], data: DataArtifact, split: str) -> list[Record]:
    """Step 1's matched pairs of a split. Raises InputError where there are too few to mismatch."""
    statements = statements_of(records)
    if len({record.images[0] for record in statements}) < 2:
        raise InputError(
            f"split {split!r} makes {len(statements)} matched pairs, of one image at most",
            where=str(data.folder),
            hint="set objective.itm_fraction=0",
        )
    return statements


def anchor_records(recipe: Recipe, data: DataArtifact, train: Sequence[Record]) -> tuple[DataArtifact, Sequence[Record]]:
    """What an anchored map is fitted on: the first records of the named artifact, or of the run's own training set."""
    anchor = cast(AdvlObjective, recipe.objective).anchor
    if anchor.data is None:
        return data, train[: anchor.records]
    source = open_data(Path(anchor.data))
    if source.spec.images != data.spec.images:
        raise InputError(
            f"has {source.spec.images} image(s) a record, {data.folder} has {data.spec.images}",
            where=anchor.data,
            hint="choose another objective.anchor.data",
        )
    return source, source.records(anchor.split, limit=anchor.records)
