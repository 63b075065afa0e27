"""Official checkpoints, converted to model folders. Every weight has a place under a name of ours, or is named by its layout with
the reason why it has none.

One way for all: read, rename, take the sizes from the shapes, read the vocabulary, name the classes, hold the weights against a
model of ours, write. A layout (`models/<family>/official.py`) says what is its own of that.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from vldistill.artifacts import CONVERTED, building, write_converted
from vldistill.data.records import read_text
from vldistill.data.regions.network import ImageNetwork
from vldistill.data.text import WordTokenizer, read_vocabulary
from vldistill.errors import InputError, needed
from vldistill.models.base.bert import RegionBertConfig
from vldistill.models.base.checkpoint import ModelConfig, ModelSpec, load_strict, save_weights, write_spec
from vldistill.models.base.family import family_of
from vldistill.models.base.official import BERT, Stack, current_name, heads_of, read_answers, read_official

LeftOut = tuple[str, str]
"""A pattern of our names, and why a model has no use for weights of such a name."""
CONSTANTS = "a table of constants"
FRESH = "the head of a task it was fine-tuned on: a student gets a fresh one"


@dataclass
class Account:
    """kept: our names by the file's. left_out: why, by the file's names."""

    kept: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def drop(self, name: str, why: str) -> None:
        """Notes that the weight of a name of ours is left out after all."""
        official = next(key for key, names in self.kept.items() if name in names)
        del self.kept[official]
        self.left_out[official] = why

    @property
    def by_reason(self) -> dict[str, list[str]]:
        """The file's names of what is left out."""
        reasons: dict[str, list[str]] = {}
        for name, why in self.left_out.items():
            reasons.setdefault(why, []).append(name)
        return reasons

    def to_manifest(self) -> dict[str, Any]:
        """Of the converted folder."""
        total = len(self.kept) + len(self.left_out)
        return {"weights": {"in_file": total, "kept": len(self.kept), "left_out": self.by_reason}}


def sort_out(
    official: Mapping[str, Tensor], place: Callable[[str, Tensor], dict[str, Tensor]], left_out: Sequence[LeftOut], where: str
) -> tuple[dict[str, Tensor], Account]:
    """An official file's weights under our names, and what became of each. place: of one weight, those that it becomes. left_out:
    the first pattern that finds something in a name counts. Raises InputError where two weights would have one name."""
    weights: dict[str, Tensor] = {}
    account, owners = Account(), {}
    for name, value in official.items():
        placed = place(name, value)
        why = next((why for pattern, why in left_out if any(re.search(pattern, own) for own in placed)), None)
        if why is not None:
            account.left_out[name] = why
            continue
        for own in placed:
            if own in owners:
                raise InputError(f"{owners[own]} and {name} would both be {own}", where=where, hint="is it one model's file?")
            owners[own] = name
        account.kept[name] = list(placed)
        weights |= placed
    return weights, account


def renaming(rules: Sequence[tuple[str, str]], before: Callable[[str], str] = str) -> Callable[[str, Tensor], dict[str, Tensor]]:
    """A `place` that applies patterns with their replacements, in order. before: applied to the name first."""

    def place(name: str, value: Tensor) -> dict[str, Tensor]:
        name = before(name)
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        return {name: value}

    return place


Weights = dict[str, Tensor]


class OfficialLayout(ABC):
    """How the official checkpoints of a kind are laid out.

    kind: of the model that they become. called: as a checkpoint is called in messages. renamed: pattern to replacement, in order.
    left_out: what ours has no use for. lowercase: whether the published vocabulary is without capitals. vocabulary_hint,
    file_hint: what to do where one does not fit.
    """

    kind: str
    renamed: tuple[tuple[str, str], ...]
    left_out: tuple[LeftOut, ...]
    called = ""
    lowercase = True
    vocabulary_hint = ""
    file_hint = "name the pre-trained model's own file"

    def convert(
        self,
        source: Path,
        vocabulary: Path | None,
        out: Path,
        *,
        answers: Path | None = None,
        heads: Sequence[int] | None = None,
        lowercase: bool | None = None,
        overwrite: bool = False,
    ) -> Any:
        """Writes config.json, model.safetensors and the tokenizer; returns what the folder says of itself.

        vocabulary: of its tokenizer; None where the layout brings its own. answers: see `read_answers`; for a VQA checkpoint, and
        only for one. heads: of attention, see `heads_of`. lowercase: of the vocabulary, None for the published one's. Raises
        InputError where the file cannot be read safely, a key has no place or is missing, vocabulary or answers are another
        model's, or heads or case cannot be told."""
        file = self.file(source)
        official = read_official(file)
        weights, account = sort_out(official, self.place, self.left_out, str(file))
        try:
            config = self.sizes(weights, file, heads)
        except (KeyError, IndexError, ValueError) as error:
            raise InputError(
                f"is no {self.called or self.kind} checkpoint: it lacks {error}", where=str(file), hint=self.file_hint
            ) from None
        tokenizer = self.tokenizer(vocabulary, lowercase)
        if tokenizer is not None:
            self.check_vocabulary(config, tokenizer, file, vocabulary)
        spec, weights = self.completed(config, official, weights, account, answers, file)
        weights = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
        with building(out, overwrite=overwrite, stage=CONVERTED) as folder:
            self.write(folder, spec, tokenizer, weights)
            write_converted(folder, source, **account.to_manifest())
        return spec

    def facts(self, spec: Any) -> dict[str, Any]:
        """What the model is, for people."""
        return spec.encoder.described()

    def file(self, source: Path) -> Path:
        """The file of weights that a user's path means."""
        return source

    def place(self, name: str, value: Tensor) -> Weights:
        """What an official weight becomes, by our names; a name that is not known stays as it is."""
        return renaming(self.renamed)(name, value)

    @abstractmethod
    def sizes(self, weights: Weights, file: Path, heads: Sequence[int] | None) -> Any:
        """The model's configuration, from the shapes of weights under our names. Raises KeyError, IndexError or ValueError where
        one is missing."""

    def tokenizer(self, vocabulary: Path | None, lowercase: bool | None) -> Any:
        """The checkpoint's; None where none is written beside the weights."""
        path = needed(vocabulary, "the vocabulary")
        return read_vocabulary(path, lowercase=case_of(path, self.lowercase, lowercase))

    def fits(self, config: Any, tokens: int) -> bool:
        """Whether a vocabulary of so many tokens is the checkpoint's."""
        return config.vocab_size == tokens

    def check_vocabulary(self, config: Any, tokenizer: WordTokenizer, file: Path, vocabulary: Path | None) -> None:
        if not self.fits(config, tokens := len(tokenizer.vocabulary)):
            raise InputError(
                f"has {tokens:,} tokens, the checkpoint has {config.vocab_size:,}",
                where=str(vocabulary),
                hint=self.vocabulary_hint or f"give the vocab.txt of its BERT ({'uncased' if self.lowercase else 'cased'})",
            )

    @abstractmethod
    def completed(
        self, config: Any, official: Weights, weights: Weights, account: Account, answers: Path | None, file: Path
    ) -> tuple[Any, Weights]:
        """What the model folder says of itself, and its weights, held against a model of ours. official: the file's own. Raises
        InputError where a key has no place or is missing."""

    def write(self, folder: Path, spec: Any, tokenizer: Any, weights: Weights) -> None:
        tokenizer.save(folder)
        write_spec(folder, spec)
        save_weights(folder, weights)


@dataclass(frozen=True)
class BertTables:
    """Where a checkpoint with a BERT keeps, under our names, what its sizes are read from. words to region_key: keys. beside:
    features that the last of them has beside a region's."""

    words: str
    positions: str
    types: str
    encoder: str
    region_key: str
    beside: int = 0

    def sizes(self, weights: Weights, source: Path, heads: Sequence[int] | None) -> RegionBertConfig:
        """Raises KeyError where a table is missing."""
        words, width = weights[self.words].shape
        [count] = heads_of({"encoder": Stack(BERT, width)}, heads, source).values()
        return RegionBertConfig(
            vocab_size=words,
            hidden_size=width,
            num_hidden_layers=depth_of(weights, self.encoder),
            num_attention_heads=count,
            intermediate_size=len(weights[f"{self.encoder}0.intermediate.dense.bias"]),
            max_position_embeddings=len(weights[self.positions]),
            type_vocab_size=len(weights[self.types]),
            region_size=weights[self.region_key].shape[1] - self.beside,
        )


def depth_of(weights: Weights, prefix: str) -> int:
    """Layers of a Transformer whose weights are named by the prefix and a number."""
    return len({name.removeprefix(prefix).split(".")[0] for name in weights if name.startswith(prefix)})


@dataclass(frozen=True)
class BertLayout(OfficialLayout):
    """Of a student that is one BERT; its task's head is a fresh one.

    more_words: that the vocabulary's table may have behind its BERT's. unread: beginnings of names that a student does not have.
    fitted: sizes of its own, from those of its BERT, our weights and the file. image_size: shorter side in pixels, 0 where it
    sees regions. network: by the weights, what it sees pixels by; extra: our weights that the file may lack, of a fresh
    student."""

    kind: str
    renamed: tuple[tuple[str, str], ...]
    left_out: tuple[LeftOut, ...]
    tables: BertTables
    lowercase: bool = True
    more_words: int = 0
    unread: tuple[str, ...] = ()
    fitted: Callable[[RegionBertConfig, Weights, Path], RegionBertConfig] = lambda bert, weights, source: bert
    image_size: int = 0
    network: Callable[[Weights], ImageNetwork | None] = lambda weights: None
    extra: Callable[[nn.Module, Weights, str], Weights] = lambda model, weights, where: {}

    def place(self, name: str, value: Tensor) -> Weights:
        return super().place(current_name(name), value)

    def sizes(self, weights: Weights, file: Path, heads: Sequence[int] | None) -> RegionBertConfig:
        return self.tables.sizes(weights, file, heads)

    def fits(self, config: RegionBertConfig, tokens: int) -> bool:
        return config.vocab_size in (tokens, tokens + self.more_words)

    def completed(
        self,
        config: RegionBertConfig,
        official: Weights,
        weights: Weights,
        account: Account,
        answers: Path | None,
        file: Path,
    ) -> tuple[ModelSpec, Weights]:
        config = self.fitted(config, weights, file)
        length, network = config.max_position_embeddings - 2, self.network(weights)
        spec = ModelSpec(self.kind, config, "", 1, [], self.image_size, length, official=True, image_network=network)
        student = family_of(self.kind).new(replace(spec, labels=["any"]))
        head = {name: value for name, value in student.state_dict().items() if name.startswith("classifier.")}
        weights |= self.extra(student, weights, str(file))
        body = {name: value for name, value in weights.items() if not name.startswith(self.unread)}
        load_strict(student, {**body, **head}, str(file))
        return spec, weights


def case_of(vocabulary: Path, own: bool, given: bool | None) -> bool:
    """Whether text is lower-cased. own: as the published model has it. given: as a user says. Raises InputError where the
    vocabulary is of the other kind than is expected, and nothing is given."""
    if given is not None:
        return given
    tokens = [token for token in read_text(vocabulary).splitlines() if not token.startswith("[")]
    capitals = any(token != token.lower() for token in tokens)
    if capitals == own and any(token.removeprefix("##").isalpha() for token in tokens):
        actual, wanted = ("has capitals", "uncased") if own else ("has no capitals", "cased")
        raise InputError(
            f"{actual}, the published model is {wanted}",
            where=str(vocabulary),
            hint="give its own vocab.txt, or say what this one is: --case cased, or --case uncased",
        )
    return own


@dataclass(frozen=True)
class OfficialTask:
    """base: of a classifier. images: of a record. labels: in the order of its classes; None where the file alone cannot say."""

    task: str
    images: int
    labels: tuple[str, ...] | None


HEADS = (
    (r"^(?:vqa|nlvr2|ve|snli)_classifier\.", "classifier."),
    # Where the library has it.
    (r"^mlm_score\.bias$", "mlm_score.decoder.bias"),
)
"""How heads are renamed: pattern and replacement."""
_OTHER_HEADS = re.compile(r"(?:mlm_score\.(?:transform\.(?:dense|LayerNorm)|decoder)|itm_score\.fc|rank_output)\.(?:weight|bias)")


class FusionLayout(OfficialLayout):
    """Of a fusion encoder with the heads of what it was trained on, which are pre-training (`mlm_score`, `itm_score`), retrieval
    (`rank_output`, beside `itm_score`), or a task with a classifier. tasks: by what their classifiers are called."""

    tasks: ClassVar[Mapping[str, OfficialTask]] = {}

    def task(self, official: Weights, weights: Weights) -> OfficialTask:
        """What a file was trained on. official: by its own names. weights: by ours."""
        matching = (task for prefix, task in self.tasks.items() if any(name.startswith(prefix) for name in official))
        return next(matching, OfficialTask("", 1, ()))

    def longest(self, config: Any) -> int:
        """Tokens of a text."""
        return config.max_position_embeddings

    def facts(self, spec: ModelSpec) -> dict[str, Any]:
        return super().facts(spec) | {"task": spec.task or "none", "classes": len(spec.labels)}

    def completed(
        self, config: ModelConfig, official: Weights, weights: Weights, account: Account, answers: Path | None, file: Path
    ) -> tuple[ModelSpec, Weights]:
        task = self.task(official, weights)
        labels = task_labels(task, weights, answers, file)
        size, loss = getattr(config, "image_size", 0), "bce" if task.task == "vqa" else None
        spec = ModelSpec(self.kind, config, task.task, task.images, labels, size, self.longest(config), answer_loss=loss)
        model = family_of(self.kind).model(config, images=spec.images, classes=spec.classes)
        # Heads other than the task's are kept as they are.
        load_strict(model, {name: value for name, value in weights.items() if not _OTHER_HEADS.fullmatch(name)}, str(file))
        return spec, weights


def task_labels(task: OfficialTask, weights: dict[str, Tensor], answers: Path | None, source: Path) -> list[str]:
    """The names of the head's classes. answers: see `read_answers`; of a VQA head, and only of one."""
    if task.task != "vqa":
        if answers is not None:
            raise InputError("has no VQA head, so --answers means nothing", where=str(source), hint="leave it out")
        return list(task.labels or ())
    if answers is None:
        raise InputError(
            "does not hold the names of its answers",
            where=str(source),
            hint="give --answers: the answers.json of `vldistill prepare vqa`, or a published model's config.json",
        )
    last = max((name for name in weights if re.fullmatch(r"classifier\.\d\.bias", name)), default="")
    names, classes = read_answers(answers), len(weights.get(last, ()))
    if len(names) != classes:
        raise InputError(
            f"has {len(names):,} answers, the checkpoint has {classes:,}",
            where=str(answers),
            hint="give the answers that it was trained with, in its order",
        )
    return names
