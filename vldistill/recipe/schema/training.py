"""What a recipe says of training itself: optimiser and schedule, batches, length, adversarial passes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from vldistill.recipe.schema.base import Fraction, NonNegative, Positive, Section


class Optim(Section):
    """Optimiser and learning-rate schedule, counted in optimiser steps; ADVL's two steps each have a whole one.

    lr_scale: "per_sample" multiplies lr by the pairs of an optimiser step, as VL-BERT's rates are meant. betas, eps: AdamW's.
    momentum: SGD's. decay: of which parameters, all but biases and norms, or "all". warmup: a fraction of all steps below 1, else
    steps. schedule: then down to 0 ("linear"), or times `factor` at each of `milestones` ("steps"): fractions of the run below 1,
    else epochs or steps, whichever `train` counts in. head_lr_multiplier, cross_lr_multiplier: of the task head, and of METER's
    parts behind its two encoders. clip: largest gradient norm.
    """

    kind: Literal["adamw", "sgd"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 1e-4
    lr_scale: Literal["none", "per_sample"] = "none"
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = [0.9, 0.98]
    eps: Annotated[float, Field(gt=0)] = 1e-8
    momentum: Fraction | None = None
    weight_decay: NonNegative = 0.01
    decay: Literal["weights", "all"] = "weights"
    warmup: NonNegative = 0.1
    schedule: Literal["linear", "steps"] = "linear"
    milestones: list[Annotated[float, Field(gt=0)]] = []
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    head_lr_multiplier: Annotated[float, Field(gt=0)] = 1.0
    cross_lr_multiplier: Annotated[float, Field(gt=0)] = 1.0
    clip: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _of_its_kind(self) -> Optim:
        # By value, not by what was written: a resolved recipe has every field written out.
        usual = Optim.model_fields
        if self.kind == "adamw" and self.momentum is not None:
            raise ValueError("momentum is SGD's: set kind=sgd, or leave it out")
        if self.kind == "sgd" and (self.betas != usual["betas"].default or self.eps != usual["eps"].default):
            raise ValueError("betas and eps are AdamW's: leave them out for kind sgd")
        if self.schedule == "linear" and (self.milestones or self.factor != usual["factor"].default):
            raise ValueError("milestones and factor need schedule=steps")
        if self.schedule == "steps" and not self.milestones:
            raise ValueError("schedule `steps` needs milestones")
        return self

    @model_validator(mode="after")
    def _rising(self) -> Optim:
        if any(later <= earlier for earlier, later in zip(self.milestones, self.milestones[1:], strict=False)):
            raise ValueError("milestones must rise")
        if self.milestones and self.milestones[0] < 1 <= self.milestones[-1]:
            raise ValueError("milestones are fractions below 1, or epochs or steps from 1, not both")
        return self


class Adversarial(Section):
    """VILLA's adversarial training of a UNITER student. steps: perturbed passes a batch. lr: length of a perturbation's step. kl:
    weight of the divergence from the clean prediction. text, image: what is perturbed: word embeddings, region features."""

    steps: Positive = 3
    lr: Annotated[float, Field(gt=0)] = 1e-3
    kl: NonNegative = 1.5
    text: bool = True
    image: bool = False

    @model_validator(mode="after")
    def _something(self) -> Adversarial:
        if not (self.text or self.image):
            raise ValueError("nothing to perturb: text and image are both off")
        return self


class BatchSize(Section):
    """Of a device and a forward pass: as many pairs (32 by default), or as many as have so many tokens together: text and regions
    of all sequences (VCR's four choices each), every one as long as the longest. `accumulate` of them make one optimiser step."""

    pairs: Positive | None = None
    tokens: Positive | None = None
    accumulate: Positive = 1

    @model_validator(mode="before")
    @classmethod
    def _usual(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("pairs") is None and values.get("tokens") is None:
            return {**values, "pairs": 32}
        return values

    @model_validator(mode="after")
    def _one(self) -> BatchSize:
        if self.pairs is not None and self.tokens is not None:
            raise ValueError("give one of `pairs` and `tokens`, and null for the other")
        return self


class Train(Section):
    """How long, in what precision, how often to validate. Exactly one of `epochs` and `steps` (optimiser steps).
    checkpoint_minutes: between two checkpoints, 0 for none by the clock; checkpoint_every: optimiser steps between two.
    gradient_checkpointing: compute layers once more in the backward pass, for less memory and the same result. fsdp: share the
    student's weights, gradients and moments out over the processes, for a student too large for one device."""

    epochs: Positive | None = None
    steps: Positive | None = None
    batch: BatchSize = BatchSize()
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    validate_every: Positive | Literal["epoch"] = "epoch"  # optimiser steps
    eval_pairs: Positive | None = None  # validation batch; when null the training batch's, or 16 where that counts tokens
    log_every: Positive = 10
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    checkpoint_minutes: NonNegative = 10.0
    checkpoint_every: Positive | None = None
    gradient_checkpointing: bool = False
    fsdp: bool = False
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = []

    @model_validator(mode="after")
    def _length(self) -> Train:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of `epochs` and `steps`, and null for the other")
        if self.fsdp and self.precision == "fp16":
            raise ValueError("fsdp needs precision bf16 or fp32")
        return self


def check_together(optim: Optim, train: Train) -> None:
    """Raises ValueError where one of the two makes no sense beside the other."""
    length, unit = (train.steps, "steps") if train.epochs is None else (train.epochs, "epochs")
    if optim.milestones and optim.milestones[-1] >= max(length, 1):
        raise ValueError(f"optim.milestones: {optim.milestones[-1]:g} lies beyond the run of {length} {unit}")
    if optim.lr_scale == "per_sample" and train.batch.tokens is not None:
        raise ValueError("optim.lr_scale per_sample needs train.batch.pairs: with `tokens` a step's pairs vary")
