"""Official checkpoints of students on a BERT, converted to model folders. Every key has a place, or is named by the family's
layout with the reason why it has none.

What the official checkpoints of ViLT, METER and OSCAR have in common: one encoder and the heads of what it was trained on,
which are pre-training (`mlm_score`, `itm_score`), retrieval (`rank_output`, beside `itm_score`), or a task with a classifier.

What becomes of each weight of an official file when it is converted: a place under a name of ours, or none, for a reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vldistill.artifacts import CONVERTED, building, write_converted
from vldistill.data.answers import ANSWERS_FILE
from vldistill.data.records import read_json, read_text
from vldistill.data.regions.network import ImageNetwork
from vldistill.data.text import WordTokenizer, read_vocabulary
from vldistill.errors import InputError
from vldistill.models.base.bert import RegionBertConfig
from vldistill.models.base.checkpoint import ModelSpec, load_strict, save_weights, write_spec
from vldistill.models.base.fusion import Fusion
from vldistill.models.base.official import BERT, Stack, current_name, heads_of, read_official
from vldistill.models.families import family_of

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


@dataclass(frozen=True)
class CheckpointLayout:
    """Where an official checkpoint keeps things. renamed: pattern to replacement, applied in order. left_out: what a fine-tuned
    student has no use for. lowercase: of its BERT's vocabulary. words to region_key: keys of tables that give sizes. beside:
    features that the last of them has beside a region's. more_words: that it may have behind its BERT's. unread: beginnings of
    names that a student does not have. fitted: sizes of its own, from those of its BERT, our weights and the file. image_size:
    shorter side in pixels, 0 where it sees regions. network: by the weights, what it sees pixels by; extra: our weights that the
    file may lack, of a fresh student."""

    kind: str
    renamed: tuple[tuple[str, str], ...]
    left_out: tuple[LeftOut, ...]
    lowercase: bool
    words: str
    positions: str
    types: str
    encoder: str
    region_key: str
    beside: int = 0
    more_words: int = 0
    unread: tuple[str, ...] = ()
    fitted: Callable[[RegionBertConfig, dict[str, Tensor], Path], RegionBertConfig] = lambda bert, weights, source: bert
    image_size: int = 0
    network: Callable[[dict[str, Tensor]], ImageNetwork | None] = lambda weights: None
    extra: Callable[[nn.Module, dict[str, Tensor], str], dict[str, Tensor]] = lambda model, weights, where: {}


def convert_bert(
    layout: CheckpointLayout,
    source: Path,
    vocabulary: Path,
    out: Path,
    *,
    heads: Sequence[int] | None = None,
    lowercase: bool | None = None,
    overwrite: bool = False,
) -> ModelSpec:
    """Writes config.json, model.safetensors and the tokenizer; returns what it says of itself. heads: of
    attention, see `heads_of`. lowercase: of the vocabulary, None for the layout's own. Raises InputError
    where the file cannot be read safely, a key has no place or is missing, the vocabulary is another one, or heads or case cannot
    be told."""
    weights, account = renamed(read_official(source), layout, source)
    config = sizes(weights, layout, source, heads)
    tokenizer = read_vocabulary(vocabulary, lowercase=case_of(vocabulary, layout.lowercase, lowercase))
    known = len(tokenizer.vocabulary)
    if config.vocab_size not in (known, known + layout.more_words):
        raise InputError(
            f"has {known:,} tokens, the checkpoint has {config.vocab_size:,}",
            where=str(vocabulary),
            hint=f"give the vocab.txt of its BERT ({'uncased' if layout.lowercase else 'cased'})",
        )
    config = layout.fitted(config, weights, source)
    spec = ModelSpec(
        layout.kind,
        config,
        "",
        1,
        [],
        layout.image_size,
        config.max_position_embeddings - 2,
        official=True,
        image_network=layout.network(weights),
    )
    student = family_of(layout.kind).new(replace(spec, labels=["any"]))
    head = {name: value for name, value in student.state_dict().items() if name.startswith("classifier.")}
    weights |= layout.extra(student, weights, str(source))
    body = {name: value for name, value in weights.items() if not name.startswith(layout.unread)}
    load_strict(student, {**body, **head}, str(source))
    with building(out, overwrite=overwrite, stage=CONVERTED) as folder:
        tokenizer.save(folder)
        write_spec(folder, spec)
        save_weights(folder, {name: value.float() if value.is_floating_point() else value for name, value in weights.items()})
        write_converted(folder, source, **account.to_manifest())
    return spec


def renamed(weights: dict[str, Tensor], layout: CheckpointLayout, source: Path) -> tuple[dict[str, Tensor], Account]:
    """Official weights under our names, and what became of each."""
    return sort_out(weights, renaming(layout.renamed, current_name), layout.left_out, str(source))


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


def sizes(
    weights: dict[str, Tensor], layout: CheckpointLayout, source: Path, heads: Sequence[int] | None = None
) -> RegionBertConfig:
    """Those that the shapes of weights under our names tell. heads: see `convert_bert`. Raises InputError where a
    table is missing."""
    try:
        words, width = weights[layout.words].shape
        depth = {name.removeprefix(layout.encoder).split(".")[0] for name in weights if name.startswith(layout.encoder)}
        [count] = heads_of({"encoder": Stack(BERT, width)}, heads, source).values()
        region = weights[layout.region_key].shape[1] - layout.beside
        return RegionBertConfig(
            vocab_size=words,
            hidden_size=width,
            num_hidden_layers=len(depth),
            num_attention_heads=count,
            intermediate_size=len(weights[f"{layout.encoder}0.intermediate.dense.bias"]),
            max_position_embeddings=len(weights[layout.positions]),
            type_vocab_size=len(weights[layout.types]),
            region_size=region,
        )
    except (KeyError, ValueError) as error:
        raise InputError(
            f"is no {layout.kind} checkpoint: it lacks {error}", where=str(source), hint="name the pre-trained model's own file"
        ) from None


HEADS = (
    (r"^(?:vqa|nlvr2|ve|snli)_classifier\.", "classifier."),
    # Where the library has it.
    (r"^mlm_score\.bias$", "mlm_score.decoder.bias"),
)
"""How heads are renamed: pattern and replacement."""
_DENSE = ("weight", "bias")
_OTHER_HEADS = {
    "mlm_score.": [f"{part}.{kind}" for part in ("transform.dense", "transform.LayerNorm", "decoder") for kind in _DENSE],
    "itm_score.fc.": _DENSE,
    "rank_output.": _DENSE,
}


@dataclass(frozen=True)
class OfficialTask:
    """base: of a classifier. images: of a record. labels: in the order of its classes; None where the file alone cannot say."""

    task: str
    images: int
    labels: tuple[str, ...] | None


def task_of(official: dict[str, Tensor], tasks: dict[str, OfficialTask]) -> OfficialTask:
    """tasks: by what their classifiers are called."""
    matching = (task for prefix, task in tasks.items() if any(name.startswith(prefix) for name in official))
    return next(matching, OfficialTask("", 1, ()))


def read_answers(path: Path) -> list[str]:
    """Names of a VQA head's classes, in order: from a prepared artifact (its folder or its answers.json), a published model's
    config.json (`id2label`), a table by number (ViLT's vqa_dict.json) or of numbers, or a JSON list. Raises InputError where it
    is none of them."""
    content = read_json(path / ANSWERS_FILE if path.is_dir() else path)
    if isinstance(content, dict) and isinstance(content.get("id2label"), dict):
        content = _numbered(content["id2label"], path)
    elif isinstance(content, dict) and isinstance(content.get("answers"), list):
        content = content["answers"]
    elif isinstance(content, dict) and content and all(key.isascii() and key.isdigit() for key in content):
        content = _numbered(content, path)
    elif isinstance(content, dict) and content and all(type(number) is int for number in content.values()):
        content = _numbered({str(number): name for name, number in content.items()}, path)
    if isinstance(content, list) and None in content:
        raise InputError(f"has no answer {content.index(None)} of 0 to {len(content) - 1}", where=str(path), hint=_WHOLE)
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content) or len(set(content)) != len(content):
        raise InputError(
            "does not name each answer once",
            where=str(path),
            hint="a prepared artifact's answers.json, a config.json with id2label, ViLT's vqa_dict.json, or a JSON "
            "list is expected",
        )
    return content


_WHOLE = "fetch the file again: all answers of the checkpoint are expected, in its order"


def _numbered(answers: dict[str, object], path: Path) -> list[object]:
    """Answers by their numbers, as a list. Raises InputError naming the first that is missing."""
    missing = [number for number in range(len(answers)) if str(number) not in answers]
    if missing:
        more = f" and {len(missing) - 1:,} more" if missing[1:] else ""
        raise InputError(f"has {len(answers):,} answers, but none of number {missing[0]}{more}", where=str(path), hint=_WHOLE)
    return [answers[str(number)] for number in range(len(answers))]


def task_labels(task: OfficialTask, weights: dict[str, Tensor], answers: Path | None, source: Path) -> list[str]:
    """The names of the head's classes. answers: see `read_answers`; of a VQA head, and only of one."""
    if task.task != "vqa":
        if answers is not None:
            raise InputError("has no VQA head, so --answers means nothing", where=str(source), hint="leave it out")
        return list(task.labels)
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


def write_fusion(
    kind: type[Fusion],
    spec: ModelSpec,
    weights: dict[str, Tensor],
    tokenizer: WordTokenizer,
    source: Path,
    out: Path,
    *,
    account: Account,
    overwrite: bool,
) -> None:
    """Writes the model folder. Raises InputError where a key has no place or is missing; heads other than the task's are kept as
    they are. account: what became of each weight of the file."""
    heads = {f"{prefix}{part}" for prefix, parts in _OTHER_HEADS.items() for part in parts}
    model = kind(spec.encoder, images=spec.images, classes=spec.classes)
    load_strict(model, {name: value for name, value in weights.items() if name not in heads}, str(source))
    with building(out, overwrite=overwrite, stage=CONVERTED) as folder:
        tokenizer.save(folder)
        write_spec(folder, spec)
        save_weights(folder, {name: value.float() for name, value in weights.items()})
        write_converted(folder, source, **account.to_manifest())
