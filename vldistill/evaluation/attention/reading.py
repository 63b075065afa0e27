"""Running a trained model over some records, keeping attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from vldistill.data.artifact import DataArtifact
from vldistill.data.batch import Batch
from vldistill.data.loading import make_loader
from vldistill.data.records import Record
from vldistill.data.samplers import CleanBatches
from vldistill.errors import InputError
from vldistill.evaluation.evaluate import check_task
from vldistill.evaluation.opened import Opened, open_model
from vldistill.models.base.family import families, family_of
from vldistill.models.base.inputs import plain_dataset
from vldistill.models.base.outputs import Capture, Output


def open_one_stream(source: str, data: DataArtifact) -> Opened:
    """Raises InputError where the model is none that answers this data, or where the modalities do not meet in one attention, so
    that it cannot be divided between them."""
    opened = open_model(source)
    check_task(opened.spec, data, source)
    if not family_of(opened.spec.kind).one_stream:
        raise InputError(
            f"is a {opened.spec.kind} model, whose [CLS] does not attend to both modalities",
            where=source,
            hint=f"name one of: {', '.join(family.kind for family in families() if family.one_stream)}",
        )
    return opened


def attended(
    opened: Opened, data: DataArtifact, records: Sequence[Record], capture: Capture, batch: int
) -> Iterator[tuple[Batch, Output]]:
    """Batches in the order of the records, with what the model makes of them."""
    objects = data.objects if opened.spec.image_network else None
    dataset = plain_dataset(list(records), data.images, opened.tokenizer, opened.spec, objects)
    for given in make_loader(dataset, CleanBatches(len(records), batch)):
        moved = given.to(opened.device)
        with torch.no_grad():
            output = opened.model(moved, capture)
        yield moved, output
