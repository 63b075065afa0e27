"""From a recipe to ADVL's parts: which student layers and teacher features are compared, and step 1's own objective and data."""

from __future__ import annotations

from dataclasses import dataclass

from vldistill.data.artifact import DataArtifact
from vldistill.data.loading import RecordDataset
from vldistill.data.records import Record
from vldistill.data.variants import statements_of
from vldistill.errors import InputError
from vldistill.objectives.advl import Advl, Distances, Pathway
from vldistill.objectives.base import Objective
from vldistill.objectives.matching import AdvlMatching
from vldistill.objectives.scalars import Mode, Scalars
from vldistill.schema import AdvlObjective, Start


@dataclass
class Matching:
    """Step 1: its objective, and matched pairs to train and validate on."""

    objective: AdvlMatching
    train: RecordDataset
    val: RecordDataset


def build_advl(chosen: AdvlObjective, task: Objective, *, depth: int, width: int, vision: int | None, text: int | None) -> Advl:
    """depth, width: of the student. vision, text: widths of the teachers' features, None where there is no such teacher. Raises
    InputError where the student lacks a layer, or its features cannot be compared as they are."""
    pathways: dict[str, Pathway | None] = {
        "vision": Pathway(_layer(chosen.layers.vision, depth, "vision"), vision) if chosen.vision else None,
        "text": Pathway(_layer(chosen.layers.text, depth, "text"), text) if chosen.text else None,
        "words": Pathway(_layer(chosen.layers.text, depth, "text"), text) if chosen.words else None,
    }
    try:
        distances = Distances(width=width, map=chosen.map, **pathways)
    except ValueError as error:
        raise InputError(str(error), hint="set objective.map=learned") from None
    return Advl(task, distances, build_scalars(chosen.start, chosen.weights, vision, text), confident=chosen.confidence)


def build_scalars(start: Start, mode: Mode, vision: int | None, text: int | None) -> Scalars:
    """E and F start at 1 / sqrt(teacher's width) unless told: unit vectors of that width are about sqrt(width) apart in L1."""
    return Scalars(temperature=start.temperature, vision=start.vision or (vision or 1) ** -0.5,
                   text=start.text or (text or 1) ** -0.5, mode=mode)


def _layer(wanted: str | int, depth: int, modality: str) -> int:
    layer = {"half": max(depth // 2, 1), "last": depth}.get(wanted, wanted)
    if layer > depth:
        raise InputError(f"objective.layers.{modality} is {layer}, the student has {depth} layers", hint=f"choose 1 to {depth}")
    return layer


def matched_pairs(records: list[Record], data: DataArtifact, split: str) -> list[Record]:
    """Step 1's matched pairs of a split. Raises InputError where there are too few to mismatch."""
    found = statements_of(records)
    if len({record.images[0] for record in found}) < 2:
        raise InputError(f"split {split!r} makes {len(found)} matched pairs, of one image at most", where=str(data.folder),
                         hint="set objective.itm_fraction=0")
    return found
