"""What inference in fewer bits saves of the dual encoder's time, and how far its vectors and answers then stray."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vldistill.data.batch import Batch
from vldistill.evaluation.bench import BenchRow, Setting, as_rows, make_batch
from vldistill.evaluation.precision import DTYPES, Straying, quantised, straying
from vldistill.evaluation.timing import measure
from vldistill.models.vilt.model import ViltDual

ANSWERING, LOOKING = "text tower and head", "image tower"


class _Lowered:
    """A dual encoder in one precision, and its inputs. cached: fp32 image vectors."""

    def __init__(self, model: ViltDual, precision: str, batch: Batch):
        dtype = DTYPES.get(precision, torch.float32)
        self.model = quantised(model) if precision == "int8" else copy.deepcopy(model).to(dtype)
        self.text = batch.text
        self.images = [replace(image, patches=image.patches.to(dtype)) for image in batch.images]
        self.cached: list[Tensor] = []

    def look(self) -> Tensor:
        """[B, D] of the first image of each record."""
        return self.model.encode_image(self.images[0], 0)

    def answer(self) -> Tensor:
        return self.model.fuse(self.model.encode_text(self.text), self.cached)

    def encode(self) -> None:
        self.cached = [self.model.encode_image(image, place) for place, image in enumerate(self.images)]


def precision_rows(
    setting: Setting, precisions: Sequence[str], dual: ViltDual | None = None, *, images: int = 1
) -> list[BenchRow]:
    """Both parts of the dual encoder in each precision, fp32 first; the ratio is to fp32 of the same part. A note says
    how far its vectors and answers stray on the batch. dual: a trained one
    for so many images a record, else random weights."""
    model = (dual or ViltDual(setting.config, images=images, classes=3)).to(setting.device, torch.float32).eval()
    batch = make_batch(replace(setting, precision="fp32"), setting.longest, images=images)
    chosen = list(dict.fromkeys(("fp32", *precisions)))
    rows = []
    with torch.inference_mode():
        lowered = {name: _Lowered(model, name, batch) for name in chosen}
        for part in lowered.values():
            part.encode()
        strayed = {name: _strayed(lowered["fp32"], part) for name, part in lowered.items()}
        for title, call in ((ANSWERING, _Lowered.answer), (LOOKING, _Lowered.look)):
            calls = {f"{name}|{setting.longest}": lambda part=part, call=call: call(part) for name, part in lowered.items()}
            measured = as_rows("precision", setting, measure(calls, rounds=setting.rounds, device=setting.device), None, {})
            rows += [_named(row, title, strayed[row.variant][title]) for row in measured]
    return rows


def _strayed(exact: _Lowered, other: _Lowered) -> dict[str, Straying]:
    """Of both parts; the image tower has no answers of its own."""
    texts = (exact.model.encode_text(exact.text), other.model.encode_text(other.text))
    images = (exact.cached[0], other.cached[0])
    return {ANSWERING: straying(texts, (exact.answer(), other.answer())), LOOKING: straying(images, images)}


def _named(row: BenchRow, title: str, strayed: Straying) -> BenchRow:
    note = f"least cosine to fp32 {strayed.cosine:.5f}"
    note += f", same answer for {100 * strayed.agreement:.1f} %" if title == ANSWERING else ""
    return replace(row, variant=f"{title}, {row.variant}", precision=row.variant, note=note if row.variant != "fp32" else "")
