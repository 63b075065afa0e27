"""A trained model in Python: `vldistill.load`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vldistill.data.images import named_images
from vldistill.data.loading import pad_text
from vldistill.data.records import CHOICES, Record
from vldistill.data.wording import split_words
from vldistill.errors import InputError
from vldistill.evaluation.opened import open_model
from vldistill.evaluation.predict import one_pair, ranked_answers
from vldistill.finite import check_outputs
from vldistill.models.base.dual_encoder import DualEncoder
from vldistill.models.base.inputs import text_layout, visual_input
from vldistill.recipe.schema.students import STUDENTS

ImagePaths = str | Path | Sequence[str | Path]
_BATCH = 32


class Prediction(NamedTuple):
    """label: the name of the answer; of a model that chooses, the choice. probability: in (0, 1], softmax over all labels (of
    tags, each label's sigmoid)."""

    label: str
    probability: float


class Model:
    """A run, a model folder or a hub name, on the GPU where there is one. labels: names of its answers, in the order of its head.
    Raises InputError where there is no such model, and where a question is none that it can answer."""

    def __init__(self, source: str | Path, *, precision: str = "fp32", max_pixels: int | None = None):
        self._images = named_images(max_pixels)
        self._opened = open_model(str(source), precision, headless=True)
        self.labels: list[str] = list(self._opened.spec.labels)

    def answer(self, images: ImagePaths, text: str | None = None, *, choices: Sequence[str] | None = None) -> Prediction:
        """The likeliest answer. images: a path, or as many as a record has (NLVR2: two). text: a question or statement; None for
        a model that reads none. choices: of a VCR model, what it chooses from, at most four texts."""
        return self.rank(images, text, choices=choices, top=1)[0]

    def rank(
        self, images: ImagePaths, text: str | None = None, *, choices: Sequence[str] | None = None, top: int = 5
    ) -> list[Prediction]:
        """The `top` likeliest answers, best first. Arguments as `answer`."""
        if not self.labels:
            raise InputError(
                "has no head, so it cannot answer",
                where=self._opened.source,
                hint="use encode_images and encode_text, or name a fine-tuned model",
            )
        record = one_pair(_paths(images), text)
        if choices is not None and len(choices) > CHOICES:
            raise InputError(
                f"chooses one of at most {CHOICES}, {len(choices)} are given", where=self._opened.source, hint="leave some out"
            )
        if choices is not None:
            record.choices = [split_words(choice) for choice in choices]
        ranked = ranked_answers(self._opened, [record], self._images, batch=1, top=top)[0]
        return [Prediction(label if choices is None else choices[int(label)], probability) for label, probability in ranked]

    @torch.inference_mode()
    def encode_images(self, images: Sequence[str | Path], *, place: int = 0) -> Tensor:
        """[I, D] vectors of I images, fp32 on the CPU, as the image tower of a dual encoder pools them (not normalised). place:
        of the image in its record, 0 or, of NLVR2's second, 1. Raises InputError for models that read images and texts
        together."""
        tower, spec = self._tower(), self._opened.spec
        visual = visual_input(spec, self._images)
        vectors = []
        for some in _chunks(_paths(images)):
            image_batch = visual.stack([visual.read(str(path.resolve()), None) for path in some]).to(device=self._opened.device)
            with self._opened.autocast():
                vectors.append(tower.encode_image(image_batch, place).float().cpu())
            check_outputs(vectors[-1], [str(path) for path in some], self._opened.source)
        return torch.cat(vectors)

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """[T, D] vectors of T texts, as `encode_images`. Of a model of retrieval, the cosine of two vectors says how well image
        and text fit."""
        tower, opened = self._tower(), self._opened
        layout = text_layout(opened.spec, opened.tokenizer)
        records = [
            Record(str(number), "caption", [], split_words(text), written=text)
            for number, text in enumerate([texts] if isinstance(texts, str) else texts)
        ]
        vectors = []
        for some in _chunks(records):
            padded = pad_text([layout(record)[0] for record in some], opened.tokenizer.pad_id).to(device=opened.device)
            with opened.autocast():
                vectors.append(tower.encode_text(padded).float().cpu())
            check_outputs(vectors[-1], [" ".join(record.text) for record in some], self._opened.source)
        return torch.cat(vectors)

    def _tower(self) -> DualEncoder:
        if STUDENTS[self._opened.spec.kind].ranks != "vectors":
            raise InputError(
                f"is a {self._opened.spec.kind} model, which has no vectors of images or texts alone",
                where=self._opened.source,
                hint="name the run of a dual encoder",
            )
        return self._opened.model


def _paths(images: ImagePaths) -> list[Path]:
    return [Path(images)] if isinstance(images, str | Path) else [Path(image) for image in images]


def _chunks(items: Sequence) -> list[Sequence]:
    if not items:
        raise InputError("there is nothing to encode", hint="give one or more")
    return [items[start : start + _BATCH] for start in range(0, len(items), _BATCH)]
