"""What a recipe asks of a student, and what the rest of the package asks of a kind of model, with the answers that most kinds
give."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from vldistill.data.sequences import PlainLayout, TextLayout
from vldistill.data.text import WordTokenizer, load_tokenizer
from vldistill.devices import out_of_memory
from vldistill.errors import InputError, first_line
from vldistill.models.base.checkpoint import (
    MOST_REGIONS,
    Checkpoint,
    Config,
    ModelSpec,
    fit_encoder,
    fusion_encoder_weights,
    load_strict,
    read_checkpoint,
)
from vldistill.models.base.dual_encoder import DualEncoder
from vldistill.models.base.fusion import Fusion
from vldistill.models.base.heads import HEADS, head_weights
from vldistill.models.families import FAMILIES, class_of
from vldistill.recipe.schema.student import Student


@dataclass(frozen=True)
class StudentRequest:
    """What a student shall be. section: its kind's own part of a recipe, see `Student`. images: per record. image_size,
    long_side: shorter side in pixels, and the longer one of those that see a canvas. max_length: text tokens with specials.
    regions, region_size, most_regions: the store of one that sees them, features of a region, and how many of an image.
    pretraining: tasks that it needs heads for."""

    section: Any
    task: str
    images: int
    labels: list[str]
    image_size: int
    max_length: int
    long_side: int = 0
    regions: str | None = None
    region_size: int = 0
    most_regions: int = MOST_REGIONS
    pretraining: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return self.section.kind

    @property
    def dropout(self) -> float:
        return self.section.dropout


Made = tuple[nn.Module, ModelSpec, WordTokenizer]
"""A student, what it says of itself, and its tokenizer."""
HEAD, FUSION = "classifier.", "fusion."
"""Beginnings of the names of a task's head, and of what fuses two towers."""
PRETRAINED_HEADS = tuple(f"{head}." for head in HEADS.values())


class Family(ABC):
    """A kind of model: its classes, how it reads text and images, and what it starts from.

    section: what a recipe says of it, see there for `sees`. square: see `ImageTransform`, of one that sees the square in the
    middle. one_image: whether its records have one image. one_stream: whether text and image attend to each other in every layer.
    crosses: whether attention of words over the image can be told. library_prefix: what the names of its weights begin with, but
    not in its file, which a library reads; unsaved: what such a library would not look for there. start: for who named a model
    that cannot start it.
    """

    section: ClassVar[type[Student]]
    model: ClassVar[type[Any]]
    config: ClassVar[type[Config]]
    text_layout: ClassVar[type[TextLayout]] = PlainLayout
    square: ClassVar[str] = ""
    one_image: ClassVar[bool] = False
    one_stream: ClassVar[bool] = False
    crosses: ClassVar[bool] = False
    library_prefix: ClassVar[str] = ""
    unsaved: ClassVar[str | None] = None
    start: ClassVar[str] = ""

    @property
    def kind(self) -> str:
        return self.section.name()

    @property
    def sees(self) -> str:
        return self.section.sees

    # --- sizes ---

    def spec(self, request: StudentRequest, encoder: Config) -> ModelSpec:
        """What a student of these sizes says of itself."""
        size = 0 if self.sees in ("regions", "nothing") else request.image_size
        return ModelSpec(
            self.kind,
            encoder,
            request.task,
            request.images,
            request.labels,
            size,
            request.max_length,
            regions=request.regions,
            most_regions=request.most_regions,
            pretraining=request.pretraining,
        )

    @abstractmethod
    def scratch(self, request: StudentRequest, tokenizer: WordTokenizer) -> Config:
        """The sizes of one from scratch."""

    def fitted(self, initial: Config, request: StudentRequest, tokenizer: WordTokenizer, where: str) -> Config:
        """The sizes of one that starts from a model of sizes `initial`, its own kind's or a dual encoder's fusion model's. Raises
        InputError where they do not fit."""
        return replace(initial, hidden_dropout_prob=request.dropout)

    def fitted_spec(self, encoder: Config, request: StudentRequest, initial: ModelSpec, where: str) -> ModelSpec:
        """What one says of itself that starts from a model which says `initial`."""
        return replace(self.spec(request, encoder), official=initial.official)

    # --- starts ---

    def new(self, spec: ModelSpec) -> Any:
        """A model with fresh weights. Raises InputError where this machine cannot hold one of its sizes."""
        needed, there = _bytes(spec.encoder), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        hint = "look at student.sizes, or at the model's config.json"
        if needed > there:
            raise InputError(
                f"a {self.kind} model of these sizes takes about {needed / 1e9:,.0f} GB, this machine has "
                f"{there / 1e9:,.0f} GB of memory",
                hint=hint,
            )
        try:
            return self.model.from_spec(spec)
        except (RuntimeError, MemoryError, OverflowError, ZeroDivisionError) as error:
            if out_of_memory(error) is not None:
                raise  # others have taken what there was
            raise InputError(f"a {self.kind} model of these sizes cannot be built: {first_line(error)}", hint=hint) from error

    def from_scratch(self, request: StudentRequest, tokenizer: WordTokenizer) -> Made:
        """A student with fresh weights for a tokenizer's vocabulary."""
        spec = self.spec(request, self.scratch(request, tokenizer))
        model = self.new(spec)
        model.load_state_dict(self.fresh(model, request), strict=False)
        return model, spec, tokenizer

    def fresh(self, model: nn.Module, request: StudentRequest) -> dict[str, Tensor]:
        """Weights that one from scratch does not draw."""
        return {}

    def with_own_start(self, request: StudentRequest) -> Made | None:
        """A student that needs neither `student.init` nor sizes, since the request names what it starts from."""
        return None

    def from_library(self, source: str, request: StudentRequest) -> Made | None:
        """A student that starts from a folder of a library's own; None where `source` is none."""
        return None

    def from_model(self, source: str, request: StudentRequest, *, keep_head: bool) -> Made:
        """A student that starts from a model of its own kind, or a dual encoder from its fusion model. The head is fresh, unless
        `keep_head` and the labels are the same. Raises InputError where something does not fit."""
        if (made := self.from_library(source, request)) is not None:
            return made
        checkpoint = read_checkpoint(source)
        where, initial = str(checkpoint.folder), checkpoint.spec
        if initial.kind not in (self.kind, self.section.dual and self.section.fusion):
            converted = f"name a {self.kind} model, as `vldistill convert {self.kind}` makes it"
            raise InputError(
                f"is a {initial.kind} model, from which a {self.kind} student cannot start",
                where=where,
                hint=self.start or converted,
            )
        check_length(request, initial.encoder.max_position_embeddings, where)
        tokenizer = load_tokenizer(checkpoint.folder)
        spec = self.fitted_spec(self.fitted(initial.encoder, request, tokenizer, where), request, initial, where)
        model = self.new(spec)
        self.fill(model, checkpoint, request, tokenizer, keep_head)
        return model, spec, tokenizer

    def fill(
        self, model: Any, checkpoint: Checkpoint, request: StudentRequest, tokenizer: WordTokenizer, keep_head: bool
    ) -> None:
        """Fills a fresh model from the one that it starts from. Raises InputError where that does not fit."""
        where = str(checkpoint.folder)
        if keep_head and checkpoint.spec.labels != request.labels:
            raise InputError(
                "has other labels than the data, so its head cannot be kept", where=where, hint="set student.keep_head=false"
            )
        load_strict(model, self.continued(model, checkpoint, request, keep_head), where)

    @abstractmethod
    def continued(self, model: Any, checkpoint: Checkpoint, request: StudentRequest, keep_head: bool) -> dict[str, Tensor]:
        """All weights of a model that starts from another of its kind."""

    def completed(self, model: Any, checkpoint: Checkpoint) -> dict[str, Tensor]:
        """All weights of a model that is read as it is."""
        return checkpoint.weights


class PlainFamily(Family):
    """An encoder with a task's head, and no heads of pre-training."""

    def names(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint's weights under the student's names."""
        return weights

    def grown(self, body: dict[str, Tensor], model: Any, task: str) -> dict[str, Tensor]:
        """Those behind no head, with the rows that tables of `model` have beside them. task: that they were trained on, "" after
        pre-training."""
        return body

    def continued(self, model: Any, checkpoint: Checkpoint, request: StudentRequest, keep_head: bool) -> dict[str, Tensor]:
        weights = self.names(checkpoint.weights)
        body = {name: value for name, value in weights.items() if not name.startswith(HEAD)}
        return {**self.grown(body, model, checkpoint.spec.task), **head_of(model, checkpoint, keep_head)}


class FusionFamily(Family):
    """An encoder over text and image with DiDE's heads on it, see `Fusion`; it can teach."""

    crosses = True

    def continued(self, model: Fusion, checkpoint: Checkpoint, request: StudentRequest, keep_head: bool) -> dict[str, Tensor]:
        (name,) = model.towers
        encoder = fusion_encoder_weights(checkpoint, name)
        body = fit_encoder(encoder, getattr(model, name), prefix=f"{name}.")
        return {
            **body,
            **heads_of(model, checkpoint, encoder[getattr(model, name).words]),
            **head_of(model, checkpoint, keep_head),
        }


class DualFamily(Family):
    """Two towers that come from fusion models, see `DualEncoder`."""

    def fill(
        self, model: DualEncoder, checkpoint: Checkpoint, request: StudentRequest, tokenizer: WordTokenizer, keep_head: bool
    ) -> None:
        if checkpoint.spec.kind == self.kind:
            super().fill(model, checkpoint, request, tokenizer, keep_head)
        else:
            self._take_over(model, checkpoint, tokenizer)

    def _take_over(self, model: DualEncoder, checkpoint: Checkpoint, tokenizer: WordTokenizer) -> None:
        weights = fusion_encoder_weights(checkpoint, *family_of(self.section.fusion).model.towers)
        for name in model.towers:
            tower = getattr(model, name)
            new = model.new_weights(name, weights, tokenizer)
            load_strict(tower, fit_encoder(weights, tower) | new, str(checkpoint.folder))
        if model.mlm_score is not None:  # the head for matching stands on a fusion of its own, and starts afresh
            heads, prefix = heads_of(model, checkpoint, weights[model.text_encoder.words]), f"{HEADS['mlm']}."
            load_strict(model.mlm_score, below(heads, prefix), str(checkpoint.folder))

    def continued(
        self, model: DualEncoder, checkpoint: Checkpoint, request: StudentRequest, keep_head: bool
    ) -> dict[str, Tensor]:
        encoders = {tower: below(checkpoint.weights, f"{tower}.") for tower in model.towers}
        places = (*(f"{tower}." for tower in model.towers), FUSION, HEAD, *PRETRAINED_HEADS)
        # Without a place here, but listed as unexpected by the strict loading.
        weights = {name: value for name, value in checkpoint.weights.items() if not name.startswith(places)}
        for tower, values in encoders.items():
            weights |= fit_encoder(values, getattr(model, tower), prefix=f"{tower}.")
        weights |= {name: value for name, value in checkpoint.weights.items() if name.startswith(FUSION)}
        weights |= drawn_fusion(model, checkpoint)
        words = encoders["text_encoder"][model.text_encoder.words]
        return {**weights, **heads_of(model, checkpoint, words), **head_of(model, checkpoint, keep_head)}

    def completed(self, model: DualEncoder, checkpoint: Checkpoint) -> dict[str, Tensor]:
        return checkpoint.weights | drawn_fusion(model, checkpoint)


def drawn_fusion(model: DualEncoder, checkpoint: Checkpoint) -> dict[str, Tensor]:
    """The fusion MLP as it is drawn, where a checkpoint of towers alone has none: converted ones, which no head reads."""
    if checkpoint.spec.labels or checkpoint.spec.pretraining or any(name.startswith(FUSION) for name in checkpoint.weights):
        return {}
    return {name: value for name, value in model.state_dict().items() if name.startswith(FUSION)}


def heads_of(model: nn.Module, checkpoint: Checkpoint, words: Tensor) -> dict[str, Tensor]:
    """What the model has of heads of pre-training: the checkpoint's, where it has them too. words: [V, D] its embeddings."""
    own = {name: value for name, value in model.state_dict().items() if name.startswith(PRETRAINED_HEADS)}
    if not own:
        return {}
    stored = head_weights(checkpoint.weights, words)
    return {name: stored.get(name, value) for name, value in own.items()}


def head_of(model: nn.Module, checkpoint: Checkpoint, keep: bool) -> dict[str, Tensor]:
    """The task's head: the checkpoint's, or as it is drawn."""
    source = checkpoint.weights if keep else model.state_dict()
    return {name: value for name, value in source.items() if name.startswith(HEAD)}


def check_length(request: StudentRequest, most: int, where: str) -> None:
    """Raises InputError where a model has fewer text positions than are asked for."""
    if request.max_length > most:
        raise InputError(
            f"has {most} text positions, text.max_length is {request.max_length}", where=where, hint=f"set text.max_length={most}"
        )


def common_sizes(request: StudentRequest, tokenizer: WordTokenizer) -> dict[str, Any]:
    """What every Transformer from scratch has."""
    sizes = request.section.sizes
    return {
        "vocab_size": len(tokenizer.vocabulary),
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.feedforward,
        "hidden_dropout_prob": request.dropout,
    }


def below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those whose names begin so, without it."""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _bytes(config: Config) -> int:
    """Of a Transformer's weights in fp32, about."""
    width, vocabulary = config.hidden_size, getattr(config, "vocab_size", 0)
    layer = 4 * width * width + 2 * width * getattr(config, "intermediate_size", 4 * width)
    return 4 * (getattr(config, "num_hidden_layers", 12) * layer + (vocabulary + config.max_position_embeddings) * width)


def family_of(kind: str) -> Family:
    """Raises KeyError for a kind that is not in the table."""
    return class_of(kind, "family")()


def families() -> list[Family]:
    """All of them."""
    return [family_of(kind) for kind in FAMILIES]
