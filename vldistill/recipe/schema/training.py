"""What a recipe says of training itself: optimiser and schedule, batches, length, adversarial passes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from vldistill.recipe.schema.base import Fraction, NonNegative, Positive, Section


class Optim(Section):
    """Optimiser and learning-rate schedule, counted in optimiser steps; ADVL's two steps each have a whole one."""

    kind: Literal["adamw", "sgd"] = "adamw"
    """The optimiser."""
    lr: Annotated[float, Field(gt=0)] = 1e-4
    """Learning rate at its highest."""
    lr_scale: Literal["none", "per_sample"] = "none"
    """per_sample multiplies `lr` by the pairs of an optimiser step, as VL-BERT's rates are meant."""
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = [0.9, 0.98]
    """AdamW's."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """AdamW's."""
    momentum: Fraction | None = None
    """SGD's."""
    weight_decay: NonNegative = 0.01
    """Decoupled, as AdamW has it."""
    decay: Literal["weights", "all"] = "weights"
    """Of which parameters: all but biases and norms, or all."""
    warmup: NonNegative = 0.1
    """A fraction of all steps below 1, else steps."""
    schedule: Literal["linear", "steps"] = "linear"
    """After the warm-up: down to 0, or times `factor` at each of `milestones`."""
    milestones: list[Annotated[float, Field(gt=0)]] = []
    """Of schedule steps: fractions of the run below 1, else epochs or steps, whichever `train` counts in."""
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Of schedule steps."""
    head_lr_multiplier: Annotated[float, Field(gt=0)] = 1.0
    """Of the task head's rate."""
    cross_lr_multiplier: Annotated[float, Field(gt=0)] = 1.0
    """Of the rate of METER's parts behind its two encoders."""
    clip: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of all gradients together; null leaves them."""

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
    """VILLA's adversarial training of a UNITER student."""

    steps: Positive = 3
    """Perturbed passes a batch."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Length of a perturbation's step."""
    kl: NonNegative = 1.5
    """Weight of the divergence from the clean prediction."""
    text: bool = True
    """Whether word embeddings are perturbed."""
    image: bool = False
    """Whether region features are perturbed."""

    @model_validator(mode="after")
    def _something(self) -> Adversarial:
        if not (self.text or self.image):
            raise ValueError("nothing to perturb: text and image are both off")
        return self


class BatchSize(Section):
    """Of a device and a forward pass, in pairs (32 by default) or in tokens."""

    pairs: Positive | None = None
    """Pairs of text and image; a VCR question with its four choices is one."""
    tokens: Positive | None = None
    """As many pairs as have so many tokens together: text and regions of all sequences (VCR's four choices each), every one as
    long as the longest."""
    accumulate: Positive = 1
    """Batches that make one optimiser step."""

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
    """How long, in what precision, how often to validate. Exactly one of `epochs` and `steps`."""

    epochs: Positive | None = None
    """Passes over the training records."""
    steps: Positive | None = None
    """Optimiser steps."""
    batch: BatchSize = BatchSize()
    """How much a device takes at a time."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of forward and backward passes; auto is bf16 where the GPU has it, fp16 on older ones, fp32 on a CPU."""
    validate_every: Positive | Literal["epoch"] = "epoch"
    """Optimiser steps, or epoch."""
    eval_pairs: Positive | None = None
    """Of a validation batch; null for the training batch's, or 16 where that counts tokens."""
    log_every: Positive = 10
    """Optimiser steps between two lines of the log."""
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    """Of weights, order, augmentation and dropout."""
    checkpoint_minutes: NonNegative = 10.0
    """Between two checkpoints, 0 for none by the clock."""
    checkpoint_every: Positive | None = None
    """Optimiser steps between two checkpoints; null for none by steps."""
    gradient_checkpointing: bool = False
    """Computes layers once more in the backward pass, for less memory and the same result."""
    fsdp: bool = False
    """Shares the student's weights, gradients and moments out over the processes, for a student too large for one device."""
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = []
    """Where the curves go beside metrics.jsonl; all work offline."""

    @model_validator(mode="after")
    def _length(self) -> Train:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of `epochs` and `steps`, and null for the other")
        if self.fsdp and self.precision == "fp16":
            raise ValueError("fsdp needs precision bf16 or fp32")
        return self

    @property
    def length(self) -> tuple[str, int]:
        """What the run is counted in, and how many."""
        return ("steps", self.steps) if self.steps is not None else ("epochs", self.epochs or 0)


def check_together(optim: Optim, train: Train) -> None:
    """Raises ValueError where one of the two makes no sense beside the other."""
    unit, length = train.length
    if optim.milestones and optim.milestones[-1] >= max(length, 1):
        raise ValueError(f"optim.milestones: {optim.milestones[-1]:g} lies beyond the run of {length} {unit}")
    if optim.lr_scale == "per_sample" and train.batch.tokens is not None:
        raise ValueError("optim.lr_scale per_sample needs train.batch.pairs: with `tokens` a step's pairs vary")
