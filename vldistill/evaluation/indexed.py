"""What a dual encoder answers from an image index: a split's records, in batches that carry stored vectors where others carry
pixels; and the best images for a text, by the cosine of a model of retrieval, by the probability of an answer of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from vldistill.data.artifact import DataArtifact
from vldistill.data.batch import Batch, TextBatch
from vldistill.data.datasets import RecordDataset
from vldistill.data.images import ImageFolder
from vldistill.data.loading import pad_text
from vldistill.data.records import Record
from vldistill.data.regions.objects import ObjectIndex
from vldistill.data.text import WordTokenizer
from vldistill.data.visual import Draw
from vldistill.data.wording import split_words
from vldistill.errors import InputError
from vldistill.evaluation.image_index import ImageIndex, model_fields
from vldistill.evaluation.page import render
from vldistill.finite import check_outputs
from vldistill.models.base.checkpoint import ModelSpec
from vldistill.models.base.dual_encoder import DualEncoder
from vldistill.models.base.fusion import by_record
from vldistill.models.base.inputs import plain_dataset, text_layout
from vldistill.models.base.outputs import NOTHING, Capture, Output, Vectors
from vldistill.recipe.schema.students import STUDENTS


@dataclass(frozen=True)
class StoredBatch:
    """vectors: [B, P, D], an image's at each place that it may have in a record."""

    vectors: Tensor

    def to(self, **move: Any) -> StoredBatch:
        return replace(self, vectors=self.vectors.to(**move))


class StoredInput:
    """Reads an image's vectors by its path. sha1_of: of a path, the sha1 of its file."""

    seen = None

    def __init__(self, index: ImageIndex, sha1_of: Callable[[str], bytes]):
        self._index, self._sha1_of = index, sha1_of

    def read(self, path: str, draw: Draw) -> int:
        return self._index.place_of(self._sha1_of(path), path)

    def stack(self, items: list[int]) -> StoredBatch:
        return StoredBatch(self._index.of(items))

    def largest(self, most: int | None = None) -> list[int]:
        return [0]


class Indexed(nn.Module):
    """The text tower and head of a dual encoder, on stored vectors."""

    def __init__(self, model: DualEncoder):
        super().__init__()
        self.model = model

    @property
    def width(self) -> int:
        return self.model.width

    def encode_text(self, text: TextBatch) -> Tensor:
        return self.model.encode_text(text)

    def encode_image(self, image: StoredBatch, position: int = 0) -> Tensor:
        """[B, D]."""
        return image.vectors[:, position]

    def forward(self, batch: Batch, capture: Capture = NOTHING) -> Output:
        """Logits [B, C]; nothing is captured."""
        text = self.model.encode_text(batch.text)
        images = [
            self.encode_image(stored, place).repeat_interleave(batch.choices, 0) for place, stored in enumerate(batch.images)
        ]
        return Output(by_record(self.model.fuse(text, images), batch), [], vectors=Vectors(text, images))


def read_by(
    model: nn.Module,
    spec: ModelSpec,
    tokenizer: WordTokenizer,
    records: list[Record],
    data: DataArtifact,
    *,
    index: ImageIndex | None,
    source: str,
    objects: ObjectIndex | None = None,
) -> tuple[nn.Module, RecordDataset]:
    """The model, and records as it reads them: with their images' pixels, or with the vectors that an index has of them. objects:
    see `plain_dataset`. Raises InputError where the index is another model's, or the model reads images and texts together."""
    if index is None:
        return model, plain_dataset(records, data.images, tokenizer, spec, objects)
    if STUDENTS[spec.kind].ranks != "vectors":
        raise InputError(f"is a {spec.kind} model, which reads pixels beside each text", where=source, hint="leave out --index")
    index.check_model(model_fields(source, spec), source)
    stored = StoredInput(index, data.image_digests().__getitem__)
    return Indexed(model), RecordDataset(records, text_layout(spec, tokenizer), stored, pad_id=tokenizer.pad_id)


_BLOCK = 1 << 14
"""Images that are scored at a time."""


@dataclass(frozen=True)
class Hit:
    """An image of the index: its row there, its path, and its score."""

    row: int
    path: str
    score: float


class Searcher:
    """Scores the images of an index. answer: of a model with labels, the one whose probability ranks the images. Raises
    InputError where the model needs an answer, has none of that name, or reads several images a record."""

    def __init__(
        self,
        index: ImageIndex,
        model: DualEncoder,
        spec: ModelSpec,
        tokenizer: WordTokenizer,
        answer: str | None,
        device: torch.device,
    ):
        where = str(index.folder)
        if spec.images != 1:
            raise InputError(
                f"its model reads {spec.images} images a record, so it cannot rank single ones",
                where=where,
                hint="`vldistill evaluate --index` uses it",
            )
        if spec.labels and answer not in spec.labels:
            asked = "its model answers questions" if answer is None else f"its model does not know the answer {answer!r}"
            raise InputError(
                asked,
                where=where,
                hint=f"give --answer, one of: {', '.join(spec.labels[:8])}" + (", ..." if len(spec.labels) > 8 else ""),
            )
        if not spec.labels and answer is not None:
            raise InputError("its model compares images with texts and has no answers", where=where, hint="leave out --answer")
        self._index, self._model, self._tokenizer, self._device = index, model.to(device), tokenizer, device
        self._layout, self._class = text_layout(spec, tokenizer), spec.labels.index(answer) if spec.labels else None

    @torch.inference_mode()
    def search(self, texts: Sequence[str], top: int) -> list[list[Hit]]:
        """For each text its `top` images, best first; of equal scores the earlier row."""
        records = [Record(str(number), "caption", [], split_words(text), written=text) for number, text in enumerate(texts)]
        for record, text in zip(records, texts, strict=True):
            if not record.text:
                raise InputError(f"text {text!r} has no words", hint="give a description")
        padded = pad_text([self._layout(record)[0] for record in records], self._tokenizer.pad_id).to(device=self._device)
        vectors = self._model.encode_text(padded).float()
        check_outputs(vectors, texts)
        best = [(torch.empty(0), torch.empty(0, dtype=torch.long)) for _ in texts]
        for start in range(0, len(self._index), _BLOCK):
            stop = min(start + _BLOCK, len(self._index))
            scores = self._scores(vectors, self._index.of(slice(start, stop))[:, 0].to(self._device)).cpu()
            numbers = torch.arange(start, stop)
            best = [
                _top(torch.cat([top_scores, row]), torch.cat([top_rows, numbers]), top)
                for (top_scores, top_rows), row in zip(best, scores, strict=True)
            ]
        return [
            [
                Hit(number, self._index.rows[number]["path"], score)
                for score, number in zip(top_scores.tolist(), top_rows.tolist(), strict=True)
            ]
            for top_scores, top_rows in best
        ]

    def _scores(self, texts: Tensor, images: Tensor) -> Tensor:
        """[T, D] and [N, D] to [T, N]."""
        if self._class is None:
            return F.normalize(texts, dim=-1) @ F.normalize(images, dim=-1).T
        return torch.stack(
            [self._model.fuse(text.expand(len(images), -1), [images]).float().softmax(dim=-1)[:, self._class] for text in texts]
        )


def _top(scores: Tensor, numbers: Tensor, count: int) -> tuple[Tensor, Tensor]:
    order = scores.sort(descending=True, stable=True).indices[:count]
    return scores[order], numbers[order]


THUMBNAIL = 320
"""Pixels of a thumbnail's longer side."""


def results_page(title: str, summary: str, texts: Sequence[str], hits: Sequence[Sequence[Hit]], images: ImageFolder) -> str:
    """A section for each text, its images best first. Raises InputError where an image cannot be read."""
    sections = [
        (text, [(hit, _thumbnail(images.open(hit.path))) for hit in own_hits]) for text, own_hits in zip(texts, hits, strict=True)
    ]
    return render("index.html", title=title, summary=summary, sections=sections)


def _thumbnail(image: Image.Image) -> Image.Image:
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return image
