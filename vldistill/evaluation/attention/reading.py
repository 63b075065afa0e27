"""Running a trained model over some records, keeping attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from vldistill.data.artifact import DataArtifact
from vldistill.data.batch import Batch
from vldistill.data.loading import CleanBatches, make_loader
from vldistill.data.records import Record
from vldistill.errors import InputError
from vldistill.evaluation.evaluate import check_task
from vldistill.models.checkpoint import ModelSpec
from vldistill.models.outputs import Capture, Output
from vldistill.students.build import load_student
from vldistill.students.inputs import plain_dataset

ONE_STREAM = ("vilt", "oscar", "uniter", "vlbert", "clip_vil", "pixelbert")
"""Kinds of model in which text and image attend to each other in every layer."""


@dataclass(frozen=True)
class Reader:
    """A trained model in evaluation mode. source: as it was named."""

    source: str
    model: nn.Module
    spec: ModelSpec
    tokenizer: object
    device: torch.device

    @property
    def layers(self) -> int:
        return self.model.layers

    def read(
        self, data: DataArtifact, records: Sequence[Record], capture: Capture, batch: int
    ) -> Iterator[tuple[Batch, Output]]:
        """Batches in the order of the records, with what the model makes of them."""
        objects = data.objects if self.spec.image_network else None
        dataset = plain_dataset(list(records), data.images, self.tokenizer, self.spec, objects)
        for given in make_loader(dataset, CleanBatches(len(records), batch)):
            moved = given.to(self.device)
            with torch.no_grad():
                yield moved, self.model(moved, capture)


def open_reader(source: str, data: DataArtifact) -> Reader:
    """Raises InputError where the model is none that answers this data."""
    model, spec, tokenizer = load_student(source)
    check_task(spec, data, source)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Reader(source, model.to(device), spec, tokenizer, device)


def check_one_stream(reader: Reader) -> None:
    """Raises InputError where the modalities do not meet in one attention, so that it cannot be divided between them."""
    if reader.spec.kind not in ONE_STREAM:
        raise InputError(f"is a {reader.spec.kind} model, whose [CLS] does not attend to both modalities", where=reader.source,
                         hint=f"name one of: {', '.join(ONE_STREAM)}")

