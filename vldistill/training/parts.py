"""What a run is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vldistill.data.artifact import DataArtifact
from vldistill.data.datasets import RecordDataset
from vldistill.data.text import WordTokenizer
from vldistill.models.base.checkpoint import ModelSpec
from vldistill.models.build import Student
from vldistill.objectives.base import Objective
from vldistill.teachers.fusion import FusionTeacher
from vldistill.teachers.unimodal import UnimodalTeachers
from vldistill.training.anchor import AnchorInputs

MakeDataset = Callable[..., RecordDataset]
"""Called with an artifact's records and whether they are augmented; see `vldistill.training.inputs.datasets`."""


@dataclass
class Matching:
    """Step 1 of ADVL: its objective, matched pairs to train and validate on, and its share of all steps."""

    objective: Objective
    train: RecordDataset
    val: RecordDataset
    fraction: float


@dataclass
class Parts:
    """Everything that a run is made of. train, val: a `RecordDataset`, or what stands for one (`MixedDataset`, `FalseTexts`).
    teacher: called with a batch, or None. dropped: training records without a usable target. matching: step 1 of ADVL, anchor:
    what its maps are fitted on before; if there are any."""

    data: DataArtifact
    train: Any
    val: Any
    student: Student
    spec: ModelSpec
    tokenizer: WordTokenizer
    objective: Objective
    teacher: FusionTeacher | UnimodalTeachers | None
    dropped: int
    matching: Matching | None = None
    anchor: AnchorInputs | None = None
