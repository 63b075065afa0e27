"""Students by kind: from scratch, from a fusion checkpoint, or continued from a student of the same kind."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from vldistill.data.text import WordTokenizer, load_tokenizer
from vldistill.errors import InputError
from vldistill.models.checkpoint import Checkpoint, ModelSpec, fit_encoder, fusion_encoder_weights, load_strict, read_checkpoint
from vldistill.models.fusion import FusionModel
from vldistill.models.vilt import EncoderConfig
from vldistill.students.dual_encoder import DualEncoder

STUDENTS: dict[str, type[FusionModel] | type[DualEncoder]] = {"vilt": FusionModel, "dual_encoder": DualEncoder}

# The parts of each student that are a ViLT encoder or a half of one.
_TOWERS = {"vilt": ("vilt",), "dual_encoder": ("text_encoder", "image_encoder")}

Student = FusionModel | DualEncoder


def new_student(spec: ModelSpec) -> Student:
    """A student with fresh weights."""
    return STUDENTS[spec.kind](spec.encoder, images=spec.images, classes=spec.classes)


def load_student(source: str) -> tuple[Student, ModelSpec, WordTokenizer]:
    """Reads a trained model, head and all, in evaluation mode. `source`: a run, a model folder or a hub name."""
    checkpoint = read_checkpoint(source)
    if not checkpoint.spec.labels:
        raise InputError("has no head, so it cannot answer", where=str(checkpoint.folder), hint="name a fine-tuned model")
    model = new_student(checkpoint.spec)
    load_strict(model, checkpoint.weights, str(checkpoint.folder))
    return model.eval(), checkpoint.spec, load_tokenizer(checkpoint.folder)


def init_student(
    source: str, *, kind: str, task: str, images: int, labels: list[str], image_size: int, max_length: int, dropout: float,
    keep_head: bool,
) -> tuple[Student, ModelSpec, WordTokenizer]:
    """A student that starts from `source`: every tower from a fusion encoder, or everything from a student of its own kind.

    The head is fresh, unless `keep_head` and the labels are the same. Raises InputError where something does not fit.
    """
    checkpoint = read_checkpoint(source)
    where, found = str(checkpoint.folder), checkpoint.spec
    if found.kind != kind and found.kind != "vilt":
        raise InputError(f"is a {found.kind} model, from which a {kind} student cannot start", where=where,
                         hint="name a fusion model")
    if max_length > found.encoder.max_position_embeddings:
        raise InputError(f"has {found.encoder.max_position_embeddings} text positions, text.max_length is {max_length}",
                         where=where, hint=f"set text.max_length={found.encoder.max_position_embeddings}")
    rows = max(found.encoder.modality_type_vocab_size, images + 1)
    encoder = replace(found.encoder, hidden_dropout_prob=dropout, modality_type_vocab_size=rows)
    spec = ModelSpec(kind, encoder, task, images, labels, image_size, max_length)
    model = new_student(spec)
    if found.kind == kind:
        _continue(model, checkpoint, labels, keep_head)
    else:
        _from_fusion(model, kind, checkpoint)
    return model, spec, load_tokenizer(checkpoint.folder)


def scratch_config(*, layers: int, width: int, heads: int, feedforward: int, patch: int, image_size: int, dropout: float,
                   vocabulary: int, max_length: int, images: int) -> EncoderConfig:
    """The encoder's sizes for a student from scratch."""
    return EncoderConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=feedforward, hidden_dropout_prob=dropout, image_size=image_size, patch_size=patch,
        max_position_embeddings=max_length, modality_type_vocab_size=images + 1,
    )


def _from_fusion(model: nn.Module, kind: str, checkpoint: Checkpoint) -> None:
    weights = fusion_encoder_weights(checkpoint)
    for name in _TOWERS[kind]:
        tower = getattr(model, name)
        load_strict(tower, fit_encoder(weights, tower), str(checkpoint.folder))


def _continue(model: nn.Module, checkpoint: Checkpoint, labels: list[str], keep_head: bool) -> None:
    where = str(checkpoint.folder)
    if keep_head and checkpoint.spec.labels != labels:
        raise InputError("has other labels than the data, so its head cannot be kept", where=where,
                         hint="set student.keep_head=false")
    towers = _TOWERS[checkpoint.spec.kind]
    if checkpoint.spec.kind == "vilt":
        encoders = {"vilt": fusion_encoder_weights(checkpoint)}
    else:
        encoders = {tower: _below(checkpoint.weights, f"{tower}.") for tower in towers}
    places = (*(f"{tower}." for tower in towers), "fusion.", "classifier.")
    # Without a place here, but listed as unexpected by the strict loading below; a fusion encoder lists its own.
    weights = {n: v for n, v in checkpoint.weights.items() if checkpoint.spec.kind != "vilt" and not n.startswith(places)}
    for tower, values in encoders.items():
        weights |= fit_encoder(values, getattr(model, tower), prefix=f"{tower}.")
    if checkpoint.spec.kind == "dual_encoder":
        weights |= {f"fusion.{name}": value for name, value in _below(checkpoint.weights, "fusion.").items()}
    head = _below(checkpoint.weights, "classifier.") if keep_head else model.classifier.state_dict()
    load_strict(model, {**weights, **{f"classifier.{name}": value for name, value in head.items()}}, where)


def _below(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
