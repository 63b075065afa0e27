"""What a student learns from: one section a method, with what it asks of the rest of the recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from vldistill.errors import needed
from vldistill.recipe.schema.base import Fraction, NonNegative, Place, Positive, Section
from vldistill.recipe.schema.students import STUDENTS, fitting

if TYPE_CHECKING:
    from vldistill.recipe.schema.recipe import Recipe

AnswerLoss = Literal["bce", "softmax"]


class ObjectiveSection(Section):
    """What every objective's section can."""

    kind: str
    """The method."""

    def check(self, recipe: Recipe) -> None:
        """Raises ValueError where the rest of the recipe does not go with it."""


class LabelsObjective(ObjectiveSection):
    """Ground-truth labels alone."""

    kind: Literal["labels"]
    """The method."""
    answer_loss: AnswerLoss = "bce"
    """VQA: binary cross-entropy for each answer, as ViLT, or one softmax over all answers."""


class DideObjective(ObjectiveSection):
    """DiDE's distillation; the defaults are the paper's, the other values its ablations (Tables 6 and 7)."""

    kind: Literal["dide"]
    """The method."""
    attention: Literal["cross", "uni", "whole", "none"] = "cross"
    """Which part of the teacher's attention is distilled: between the modalities, within each, all, or none."""
    hidden_states: bool = False
    """Whether hidden states are distilled, too."""
    soft_labels: bool = True
    """Whether the teacher's predictions are distilled."""
    layers: Literal["last", "top", "bottom", "all"] = "last"
    """Whose attention and hidden states: the last layer's, those of the top or bottom half, or all."""
    kl: Literal["forward", "reverse"] = "forward"
    """KL(teacher || student), as the authors' code has it, or the reverse, as the paper prints."""
    answer_loss: AnswerLoss = "bce"
    """VQA: what the teacher was trained with."""
    attention_weight: NonNegative = 1.0
    """Of the attention's term."""
    soft_label_weight: NonNegative = 1.0
    """Of the predictions' term."""
    hidden_state_weight: NonNegative = 1.0
    """Of the hidden states' term."""
    hard_label_weight: NonNegative = 0.0
    """Of the ground-truth labels."""

    @model_validator(mode="after")
    def _something(self) -> DideObjective:
        if self.attention == "none" and not (self.hidden_states or self.soft_labels or self.hard_label_weight):
            raise ValueError("nothing to learn: attention, hidden_states, soft_labels and hard_label_weight are all off")
        return self

    def check(self, recipe: Recipe) -> None:
        if not recipe.student.fusion:
            raise ValueError(
                "objective `dide` needs a student that sees its teacher's patches: one of "
                f"{fitting('fusion')}, not {recipe.student.kind}"
            )
        needs = self.attention != "none" or self.hidden_states or self.soft_labels
        if needs and recipe.teacher is None:
            raise ValueError("objective `dide` needs a `teacher`")
        if needs:
            _check_same_family(recipe)


class StudentLayers(Section):
    """Which of the student's layers is distilled, counted from 1; half for unimodal teachers, last for CLIP's and SLIP's
    (Table 9)."""

    vision: Literal["half", "last"] | Positive = "half"
    """Whose visual tokens."""
    text: Literal["half", "last"] | Positive = "half"
    """Whose text, and whose words."""


class Start(Section):
    """Where the learned scalars start."""

    temperature: Annotated[float, Field(gt=0)] = 1.0
    """T, of the task loss."""
    vision: Annotated[float, Field(gt=0)] | None = None
    """E, of the visual distances; null for 1 / sqrt(teacher's width)."""
    text: Annotated[float, Field(gt=0)] | None = None
    """F, of the texts' and words' distances; null for 1 / sqrt(teacher's width)."""


class Anchor(Section):
    """What an anchored map is fitted on, without labels."""

    data: Place | None = None
    """A data artifact; null for the run's own training inputs."""
    split: str = "train"
    """Its split."""
    records: Positive = 1500
    """How many of its records."""


class AdvlObjective(ObjectiveSection):
    """ADVL's distillation beside the task loss; Table 1's rows are its switches."""

    kind: Literal["advl"]
    """The method."""
    vision: bool = True
    """Whether `teachers.vision` teaches."""
    text: bool = True
    """Whether `teachers.text` teaches whole texts."""
    words: Annotated[int, Field(ge=0, le=32)] = 2
    """How many selected words are compared, 0 for none."""
    confidence: bool = True
    """Whether a sample's distillation is weighted by the student's confidence (Eq. 3)."""
    itm_fraction: Fraction = 0.2
    """Share of all steps that step 1 (image-text matching) takes, 0 for one step only."""
    itm_score: Literal["probability", "logit"] = "probability"
    """What step 1's contrast is over: the matching head's probabilities, or its logits."""
    itm_temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of step 1's contrast."""
    layers: StudentLayers = StudentLayers()
    """Which of the student's layers is distilled."""
    map: Literal["identity", "learned", "anchored"] = "learned"
    """From student to teacher features: none, a linear map from scratch, or one fitted by ridge regression first (not in the
    paper)."""
    anchor: Anchor = Anchor()
    """Of an anchored map."""
    weights: Literal["learned", "fixed", "uncertainty"] = "learned"
    """E, F and T: learned, as they start, or learned with a log-variance regulariser."""
    start: Start = Start()
    """Where E, F and T start."""
    lr_multiplier: Annotated[float, Field(gt=0)] = 1.0
    """Of the rate of maps and scalars."""
    answer_loss: AnswerLoss = "bce"
    """VQA: binary cross-entropy for each answer, or one softmax over all answers."""
    task: DideObjective | None = None
    """What stands for the task loss; null for the labels."""

    @model_validator(mode="after")
    def _something(self) -> AdvlObjective:
        if not (self.vision or self.text or self.words):
            raise ValueError("nothing to distil: vision, text and words are all off")
        return self

    def check(self, recipe: Recipe) -> None:
        if self.task is not None:
            self.task.check(recipe)
        if self.vision and recipe.teachers.vision is None:
            raise ValueError("objective.vision needs `teachers.vision`")
        if (self.text or self.words) and recipe.teachers.text is None:
            raise ValueError("objective.text and objective.words need `teachers.text`")
        if self.words > recipe.cache.words and recipe.cache.mode != "live":
            raise ValueError(f"objective.words is {self.words}, the cache keeps {recipe.cache.words}: set cache.words")


class PretrainObjective(ObjectiveSection):
    """Pre-training on captions or text alone. The defaults need no teacher; DiDE's distillation (Table 5) has attention: cross,
    soft_labels: true and hard_label_weight: 0."""

    kind: Literal["pretrain"]
    """The method."""
    tasks: Annotated[list[Literal["cmc", "mlm", "itm"]], Field(min_length=1)] = ["mlm", "itm"]
    """Cross-modal contrastive learning (a dual encoder's), masked language modelling, image-text matching."""
    mask: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """mlm: share of the words that are hidden."""
    temperature: Annotated[float, Field(gt=0, le=1)] = 0.07
    """cmc: where its learned temperature starts."""
    attention: Literal["cross", "uni", "whole", "none"] = "none"
    """As of objective dide."""
    layers: Literal["last", "top", "bottom", "all"] = "last"
    """As of objective dide."""
    kl: Literal["forward", "reverse"] = "forward"
    """As of objective dide."""
    soft_labels: bool = False
    """Whether the teacher's predictions of mlm and itm are distilled."""
    attention_weight: NonNegative = 1.0
    """Of the attention's term."""
    soft_label_weight: NonNegative = 1.0
    """Of the predictions' term."""
    hard_label_weight: NonNegative = 1.0
    """Of the tasks' own labels."""

    @property
    def hidden_states(self) -> bool:
        return False

    @property
    def distils(self) -> bool:
        return self.attention != "none" or self.soft_labels

    @model_validator(mode="after")
    def _something(self) -> PretrainObjective:
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError("tasks: each may stand there once")
        if "cmc" not in self.tasks and not (self.distils or self.hard_label_weight):
            raise ValueError("nothing to learn: attention, soft_labels and hard_label_weight are all off")
        if self.soft_labels and self.tasks == ["cmc"]:
            raise ValueError("soft_labels are of mlm and itm: CMC has none (DiDE, section 3.3.1)")
        return self

    def check(self, recipe: Recipe) -> None:
        student = recipe.student
        if not student.pretrains:
            raise ValueError(f"objective `pretrain` is for one of {fitting('pretrains')}; this student is a {student.kind}")
        if "cmc" in self.tasks and "cmc" not in student.pretrains:
            raise ValueError(f"objective.tasks: cmc is for a {fitting('dual', ' or ')} student; this one is {student.kind}")
        if self.distils and not student.fusion:
            raise ValueError(f"a {student.kind} student has no fusion teacher: set objective.attention=none, soft_labels=false")
        if self.distils and recipe.teacher is None:
            raise ValueError("objective.attention and objective.soft_labels need a `teacher`")
        if self.distils:
            _check_same_family(recipe)


class RetrievalObjective(ObjectiveSection):
    """Image-text retrieval on captions.

    A dual encoder learns by cross-modal contrast (CMC) in the batch; with attention, also from a fusion teacher on the matched
    pairs, as DiDE has it. A student that scores pairs learns to rank each text above others beside the same image.
    """

    kind: Literal["retrieval"]
    """The method."""
    attention: Literal["cross", "uni", "whole", "none"] = "none"
    """As of objective dide."""
    layers: Literal["last", "top", "bottom", "all"] = "last"
    """As of objective dide."""
    kl: Literal["forward", "reverse"] = "forward"
    """As of objective dide."""
    attention_weight: NonNegative = 1.0
    """Of the attention's term."""
    temperature: Annotated[float, Field(gt=0, le=1)] = 0.07
    """Where the contrast's learned temperature starts."""
    false_texts: Positive | None = None
    """How many others, drawn from the training set, a vilt student ranks each text above; null for 15, ViLT's own."""

    @property
    def hidden_states(self) -> bool:
        return False

    @property
    def soft_labels(self) -> bool:
        return False

    def check(self, recipe: Recipe) -> None:
        kind, ranks = recipe.student.kind, recipe.student.ranks
        if not ranks:
            raise ValueError(f"objective `retrieval` is for one of {fitting('ranks')}; this student is a {kind}")
        if ranks == "pairs" and self.attention != "none":
            raise ValueError(f"objective.attention of `retrieval` is for a dual encoder; this one is {kind}")
        if not recipe.student.fusion and self.attention != "none":
            raise ValueError(f"a {kind} student has no fusion teacher: set objective.attention=none")
        if ranks != "pairs" and self.false_texts is not None:
            rankers = " or ".join(name for name, section in STUDENTS.items() if section.ranks == "pairs")
            raise ValueError(f"objective.false_texts is for a {rankers} student; the batch of a {kind} has its own")
        if self.attention != "none" and recipe.teacher is None:
            raise ValueError("objective.attention needs a `teacher`")


def _check_same_family(recipe: Recipe) -> None:
    """A student is shown what its teacher is shown. Raises ValueError where it cannot be."""
    student, teacher = recipe.student, needed(recipe.teacher, "the teacher").kind
    attention, possible = getattr(recipe.objective, "attention", "none"), STUDENTS[teacher].attentions
    if attention not in possible:
        raise ValueError(
            f"objective.attention={attention} has no meaning for {teacher.upper()}: "
            f"set objective.attention={' or '.join(possible)}"
        )
    if teacher != student.fusion:
        raise ValueError(
            f"a {student.kind} student does not see what a {teacher} teacher sees: set teacher.kind={student.fusion}"
        )
