"""Models by kind: read whole, or started as a recipe asks; and those that can rank images and texts, any dual encoder of one
image and a ViLT with a head for it."""

from __future__ import annotations

from typing import Any

from vldistill.data.batch import RANK
from vldistill.data.text import WordTokenizer, load_tokenizer
from vldistill.errors import InputError
from vldistill.models.base.checkpoint import Checkpoint, ModelSpec, fusion_encoder_weights, load_strict, read_checkpoint
from vldistill.models.base.dual_encoder import DualEncoder
from vldistill.models.base.family import Made, StudentRequest, family_of
from vldistill.models.base.fusion import Fusion
from vldistill.models.base.heads import HEADS, head_weights
from vldistill.recipe.schema.students import STUDENTS

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


def load_dual_encoder(source: str) -> tuple[DualEncoder, ModelSpec, WordTokenizer]:
    """Reads a dual encoder, with its head if it has one. Raises InputError for other models, which read images and texts
    together."""
    checkpoint = read_checkpoint(source)
    if STUDENTS[checkpoint.spec.kind].ranks != "vectors":
        raise InputError(
            f"is a {checkpoint.spec.kind} model, which has no vectors of images alone",
            where=source,
            hint="name the run of a dual encoder",
        )
    return model_of(checkpoint)


def load_retriever(source: str) -> tuple[Student, ModelSpec, WordTokenizer]:
    """Reads a model in evaluation mode, whatever it was trained for: a dual encoder compares its vectors, a ViLT scores pairs by
    its rank head, or by what its head for image-text matching says. `source`: a run, a model folder or a hub name.

    Raises InputError where the model can do neither.
    """
    checkpoint = read_checkpoint(source)
    spec, where = checkpoint.spec, str(checkpoint.folder)
    if spec.images != 1:
        raise InputError(f"takes {spec.images} images a record, so it cannot rank them", where=where, hint=_HINT)
    family = family_of(spec.kind)
    if family.section.ranks == "vectors":
        return model_of(checkpoint)
    if family.section.ranks != "pairs":
        raise InputError(f"is a {spec.kind} model, which cannot rank images and texts", where=where, hint=_HINT)
    model = family.model(spec.encoder, images=1, classes=0, pretraining=(RANK,))
    load_strict(model, _ranking_weights(model, checkpoint), where)
    return model.eval(), spec, load_tokenizer(checkpoint.folder)


_HINT = "name a run of objective `retrieval`, or a dual encoder pre-trained with cmc"


def _ranking_weights(model: Fusion, checkpoint: Checkpoint) -> dict:
    (tower,) = model.towers
    encoder = fusion_encoder_weights(checkpoint, tower)
    heads = head_weights(checkpoint.weights, encoder[getattr(model, tower).words])
    head = {name: value for name, value in heads.items() if name.startswith(f"{HEADS[RANK]}.")}
    if not head:
        raise InputError(f"has neither {HEADS[RANK]} nor itm_score, so it cannot rank", where=str(checkpoint.folder), hint=_HINT)
    return {f"{tower}.{name}": value for name, value in encoder.items()} | head
