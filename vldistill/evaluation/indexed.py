"""A dual encoder that answers from an image index: its batches carry stored vectors where others carry pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from vldistill.data.artifact import DataArtifact
from vldistill.data.batch import Batch, TextBatch
from vldistill.data.datasets import RecordDataset
from vldistill.data.records import Record
from vldistill.data.text import WordTokenizer
from vldistill.data.visual import Draw
from vldistill.errors import InputError
from vldistill.evaluation.image_index import ImageIndex, model_fields
from vldistill.models.base.checkpoint import ModelSpec
from vldistill.models.base.dual_encoder import DualEncoder
from vldistill.models.base.fusion import by_record
from vldistill.models.base.inputs import text_layout
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


def stored_dataset(
    index: ImageIndex,
    model: nn.Module,
    records: list[Record],
    data: DataArtifact,
    tokenizer: WordTokenizer,
    spec: ModelSpec,
    source: str,
) -> RecordDataset:
    """Records with the stored vectors of their images. Raises InputError where the index is another model's, or the model reads
    images and texts together."""
    if STUDENTS[spec.kind].ranks != "vectors":
        raise InputError(f"is a {spec.kind} model, which reads pixels beside each text", where=source, hint="leave out --index")
    index.check_model(model_fields(source, spec), source)
    stored = StoredInput(index, data.image_digests().__getitem__)
    return RecordDataset(records, text_layout(spec, tokenizer), stored, pad_id=tokenizer.pad_id)
