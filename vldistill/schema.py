"""What a recipe may say: one class per section, each field with its default and what it means.

`vldistill.recipe` reads YAML into these; below the `build_*` factories nothing sees them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
NonNegative = Annotated[float, Field(ge=0)]


class Data(Section):
    """What to train on: an artifact of `vldistill prepare`."""

    path: str
    train: str = "train"
    val: str = "val"
    types: list[str] | None = None  # only records of these types
    part: Literal["answers", "rationales", "both"] = "both"  # VCR: Q->A, QA->R
    limit: Positive | None = None  # the first N records a split
    workers: Annotated[int, Field(ge=0)] = 0
    memory: bool | None = None  # keep decoded images; null decides by size


class Image(Section):
    """ViLT's preprocessing. size: shorter side in pixels."""

    size: Positive = 384
    augment: Literal["none", "randaugment", "jitter"] = "none"
    shift: Annotated[int, Field(ge=0)] = 1  # jitter: pixels
    noise: NonNegative = 0.08  # jitter: standard deviation on the 0-1 pixel range


class Text(Section):
    """max_length counts the special tokens. The vocabulary fields serve a student from scratch only."""

    max_length: Annotated[int, Field(ge=3)] = 40
    vocabulary_size: Positive = 8000
    vocabulary_from: list[str] = []  # data artifacts whose training text is read; this recipe's own when empty


class Sizes(Section):
    """Sizes of an encoder from scratch (ViLT-B/32 by default). image_size: pixels that the position table spans."""

    layers: Positive = 12
    width: Positive = 768
    heads: Positive = 12
    feedforward: Positive = 3072
    patch: Positive = 32
    image_size: Positive = 384

    @model_validator(mode="after")
    def _divisible(self) -> Sizes:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.image_size % self.patch:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch {self.patch}")
        return self


class Student(Section):
    """kind: "vilt" (fusion) or "dual_encoder". init: a run, a model folder or a hub name; null starts from scratch with
    `sizes`. keep_head: take the head along too (same labels only)."""

    kind: Literal["vilt", "dual_encoder"]
    init: str | None = None
    sizes: Sizes = Sizes()
    dropout: Fraction = 0.1
    keep_head: bool = False


class Teacher(Section):
    """A fine-tuned fusion model: a run, a model folder or a hub name."""

    kind: Literal["vilt"] = "vilt"
    model: str


AnswerLoss = Literal["bce", "softmax"]


class LabelsObjective(Section):
    """Ground-truth labels alone. answer_loss concerns VQA: binary cross-entropy for each answer, as ViLT, or one softmax
    over all answers."""

    kind: Literal["labels"]
    answer_loss: AnswerLoss = "bce"


class DideObjective(Section):
    """DiDE's distillation; the defaults are the paper's, the other values its ablations (Tables 6 and 7)."""

    kind: Literal["dide"]
    attention: Literal["cross", "uni", "whole", "none"] = "cross"
    hidden_states: bool = False
    soft_labels: bool = True
    layers: Literal["last", "top", "bottom", "all"] = "last"
    kl: Literal["forward", "reverse"] = "forward"  # forward: KL(teacher || student)
    answer_loss: AnswerLoss = "bce"  # VQA: what the teacher was trained with
    attention_weight: NonNegative = 1.0
    soft_label_weight: NonNegative = 1.0
    hidden_state_weight: NonNegative = 1.0
    hard_label_weight: NonNegative = 0.0

    @model_validator(mode="after")
    def _something(self) -> DideObjective:
        if self.attention == "none" and not (self.hidden_states or self.soft_labels or self.hard_label_weight):
            raise ValueError("nothing to learn: attention, hidden_states, soft_labels and hard_label_weight are all off")
        return self


Objective = Annotated[LabelsObjective | DideObjective, Field(discriminator="kind")]


class Optim(Section):
    """AdamW with linear warm-up and decay, counted in optimiser steps. warmup: a fraction of all steps below 1, else
    steps. clip: largest gradient norm."""

    lr: Annotated[float, Field(gt=0)] = 1e-4
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = [0.9, 0.98]
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: NonNegative = 0.01
    warmup: NonNegative = 0.1
    head_lr_multiplier: Annotated[float, Field(gt=0)] = 1.0
    clip: Annotated[float, Field(gt=0)] | None = None


class BatchSize(Section):
    """pairs per device and forward pass; `accumulate` of them make one optimiser step."""

    pairs: Positive = 32
    accumulate: Positive = 1


class Train(Section):
    """How long, in what precision, how often to validate. Exactly one of `epochs` and `steps` (optimiser steps)."""

    epochs: Positive | None = None
    steps: Positive | None = None
    batch: BatchSize = BatchSize()
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    validate_every: Positive | Literal["epoch"] = "epoch"  # optimiser steps
    eval_pairs: Positive | None = None  # validation batch; the training batch when null
    log_every: Positive = 10
    seed: Annotated[int, Field(ge=0)] = 0
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = []

    @model_validator(mode="after")
    def _length(self) -> Train:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of `epochs` and `steps`")
        return self


class Cache(Section):
    """Teacher features on disk: build what is missing, require them, or run the teacher live."""

    mode: Literal["auto", "require", "live"] = "auto"


class Pretrain(Section):
    """DiDE's pre-training distillation tasks."""

    tasks: Annotated[list[Literal["cmc", "itm", "mlm"]], Field(min_length=1)]
    steps: Positive


class Recipe(Section):
    """A whole run: `name` is the folder under `runs/`, the file's stem by default."""

    name: str = ""
    description: str = ""
    data: Data
    image: Image = Image()
    text: Text = Text()
    student: Student
    teacher: Teacher | None = None
    objective: Objective = LabelsObjective(kind="labels")
    optim: Optim = Optim()
    train: Train
    cache: Cache = Cache()
    pretrain: Pretrain | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if self.objective.kind == "dide":
            needs = self.objective.attention != "none" or self.objective.hidden_states or self.objective.soft_labels
            if needs and self.teacher is None:
                raise ValueError("objective `dide` needs a `teacher`")
        if self.student.keep_head and self.student.init is None:
            raise ValueError("student.keep_head needs student.init")
        return self
