"""Official checkpoints of students on a BERT, converted to model folders. Every key has a place, or is named by the family's
layout with the reason why it has none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from vldistill.artifacts import CONVERTED, building, write_converted
from vldistill.data.records import read_text
from vldistill.data.regions.network import ImageNetwork
from vldistill.data.text import read_vocabulary
from vldistill.errors import InputError
from vldistill.models.base.account import Account, LeftOut, renaming, sort_out
from vldistill.models.base.attention_heads import BERT, Stack, heads_of
from vldistill.models.base.bert import RegionBertConfig
from vldistill.models.base.checkpoint import ModelSpec, load_strict, save_weights, write_spec
from vldistill.models.base.official import current_name, read_official
from vldistill.models.families import family_of


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
