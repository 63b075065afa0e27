"""What a run is made of, and its fusion teacher, held against the student that it teaches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vldistill.data.artifact import DataArtifact
from vldistill.data.datasets import RecordDataset
from vldistill.data.text import WordTokenizer
from vldistill.errors import InputError, needed
from vldistill.models.base.checkpoint import ModelSpec
from vldistill.models.build import Student
from vldistill.objectives.base import Objective
from vldistill.recipe.schema.recipe import Recipe
from vldistill.teachers.fusion import FusionTeacher, build_fusion_teacher
from vldistill.teachers.unimodal import UnimodalTeachers
from vldistill.training.anchor import AnchorInputs


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


def build_teacher(
    recipe: Recipe,
    chosen: Any,
    parts: Parts,
    pretraining: tuple[str, ...] | None = None,
) -> FusionTeacher:
    """The recipe's fusion teacher. chosen: what it is to teach, a section with the fields of DiDE. pretraining: tasks without
    labels whose heads it needs; None: it answers the data's labels.

    Raises InputError where it cannot share the student's batches: another tokenizer, patch or image size; or, for attention
    and hidden states, another number of layers or heads; or where its answers come from another kind of loss than the
    objective reads them by."""
    data, spec, labelled, named = parts.data, parts.spec, pretraining is None, needed(recipe.teacher, "the teacher")
    teacher = build_fusion_teacher(
        named.kind,
        named.model,
        labels=data.labels if labelled else [],
        images=data.spec.images,
        pretraining=pretraining or (),
    )
    if teacher.tokenizer.vocabulary != parts.tokenizer.vocabulary:
        raise InputError(
            "teacher and student have different tokenizers",
            where=named.model,
            hint="start the student from the encoder that the teacher was fine-tuned from",
        )
    own, other = spec.encoder, teacher.spec.encoder
    pairs = {name: (value, other.visual_signature().get(name)) for name, value in own.visual_signature().items()}
    pairs["image.size"] = (spec.image_size, teacher.spec.image_size)
    if chosen.attention != "none" or chosen.hidden_states:
        pairs |= {"layers": (own.num_hidden_layers, other.num_hidden_layers)}
    if chosen.attention != "none":
        pairs |= {"heads": (own.num_attention_heads, other.num_attention_heads)}
    if chosen.hidden_states:
        pairs |= {"width": (own.hidden_size, other.hidden_size)}
    for name, (mine, theirs) in pairs.items():
        if mine != theirs:
            raise InputError(
                f"teacher and student differ in {name}: {theirs} and {mine}",
                where=named.model,
                hint="they must agree to share image patches and attention maps",
            )
    learned = teacher.spec.answer_loss
    read = getattr(chosen, "answer_loss", None)
    if labelled and data.spec.target == "answers" and chosen.soft_labels and learned not in (None, read):
        raise InputError(
            f"the teacher's answers were trained with {learned}, objective.answer_loss is {read}",
            where=named.model,
            hint=f"set objective.answer_loss={learned}",
        )
    if spec.max_length > other.max_position_embeddings:
        raise InputError(
            f"the teacher reads {other.max_position_embeddings} tokens, text.max_length is {spec.max_length}",
            where=named.model,
            hint=f"set text.max_length={other.max_position_embeddings}",
        )
    return teacher
