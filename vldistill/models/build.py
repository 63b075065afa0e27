"""Models by kind: read whole, or started as a recipe asks."""

from __future__ import annotations

from typing import Any

from vldistill.data.text import WordTokenizer, load_tokenizer
from vldistill.errors import InputError
from vldistill.models.base.checkpoint import Checkpoint, ModelSpec, load_strict, read_checkpoint
from vldistill.models.base.dual_encoder import TwoTowers
from vldistill.models.base.family import Made
from vldistill.models.base.request import StudentRequest
from vldistill.models.families import family_of, section_of

Student = Any
"""A module of the kind that its ModelSpec names: see `Family.model`."""


def new_student(spec: ModelSpec) -> Student:
    """A model with fresh weights, see `Family.new`."""
    return family_of(spec.kind).new(spec)


def init_student(source: str, request: StudentRequest, *, keep_head: bool) -> Made:
    """A student that starts from another model, see `Family.from_model`."""
    return family_of(request.kind).from_model(source, request, keep_head=keep_head)


def new_from_scratch(request: StudentRequest, tokenizer: WordTokenizer) -> Made:
    """A student with fresh weights for a tokenizer's vocabulary."""
    return family_of(request.kind).from_scratch(request, tokenizer)


def load_student(source: str) -> Made:
    """Reads a trained model, head and all, in evaluation mode. `source`: a run, a model folder or a hub name. Raises InputError
    where it has no head to answer by."""
    checkpoint = read_checkpoint(source)
    if not checkpoint.spec.labels:
        raise InputError("has no head, so it cannot answer", where=str(checkpoint.folder), hint="name a fine-tuned model")
    return model_of(checkpoint)


def model_of(checkpoint: Checkpoint) -> Made:
    """The model that a folder holds, with its head if it has one, in evaluation mode."""
    model = new_student(checkpoint.spec)
    load_strict(model, family_of(checkpoint.spec.kind).completed(model, checkpoint), str(checkpoint.folder))
    return model.eval(), checkpoint.spec, load_tokenizer(checkpoint.folder)


def load_dual_encoder(source: str) -> tuple[TwoTowers, ModelSpec, WordTokenizer]:
    """Reads a dual encoder, with its head if it has one. Raises InputError for other models, which read images and texts
    together."""
    checkpoint = read_checkpoint(source)
    if section_of(checkpoint.spec.kind).ranks != "vectors":
        raise InputError(
            f"is a {checkpoint.spec.kind} model, which has no vectors of images alone",
            where=source,
            hint="name the run of a dual encoder",
        )
    return model_of(checkpoint)
