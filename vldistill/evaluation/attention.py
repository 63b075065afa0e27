"""How much attention goes to each modality and to each word in models whose modalities meet in one attention (ADVL, appendix
and Figs. 3 and 8, after Cao et al., 2020): whole maps of the captured layers, a batch at a time, summed by head or by word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vldistill.data.artifact import DataArtifact
from vldistill.data.batch import Batch
from vldistill.data.loading import make_loader
from vldistill.data.records import Record
from vldistill.data.samplers import CleanBatches
from vldistill.data.sequences import sentences
from vldistill.errors import InputError
from vldistill.evaluation.evaluate import check_task
from vldistill.evaluation.opened import Opened, open_model
from vldistill.evaluation.words import (
    AFTER,
    BEFORE,
    Sample,
    ScoredText,
    WordsView,
    drawn,
    plain_sample,
    shown_sequence,
    view_words,
)
from vldistill.models.base.family import families, family_of
from vldistill.models.base.inputs import plain_dataset
from vldistill.models.base.outputs import Capture, Output, PairStates
from vldistill.objectives.attention import attention_log_probs, joined
from vldistill.recipe.schema.recipe import Recipe


def open_one_stream(source: str, data: DataArtifact) -> Opened:
    """Raises InputError where the model is none that answers this data, or where the modalities do not meet in one attention, so
    that it cannot be divided between them."""
    opened = open_model(source)
    check_task(opened.spec, data, source)
    if not family_of(opened.spec.kind).one_stream:
        raise InputError(
            f"is a {opened.spec.kind} model, whose [CLS] does not attend to both modalities",
            where=source,
            hint=f"name one of: {', '.join(family.kind for family in families() if family.one_stream)}",
        )
    return opened


def attended(
    opened: Opened, data: DataArtifact, records: Sequence[Record], capture: Capture, batch: int
) -> Iterator[tuple[Batch, Output]]:
    """Batches in the order of the records, with what the model makes of them."""
    objects = data.objects if opened.spec.image_network else None
    dataset = plain_dataset(list(records), data.images, opened.tokenizer, opened.spec, objects)
    for given in make_loader(dataset, CleanBatches(len(records), batch)):
        moved = given.to(opened.device)
        with torch.no_grad():
            output = opened.model(moved, capture)
        yield moved, output


def whole_attention(view: PairStates, layer: int, *, first_only: bool = True) -> Tensor:
    """The attention of one layer over text and image together, [S, H, Q, T + V]: of the first token, [CLS], alone (Q = 1), or of
    all tokens of both modalities (Q = T + V)."""
    kept = view.qk[layer]
    query = kept.text_query[:, :, :1] if first_only else joined(kept.text_query, kept.image_query)
    valid = torch.cat([view.text_mask, view.image_mask], dim=1)
    return attention_log_probs(query, joined(kept.text_key, kept.image_key), valid).exp()


def modality_mass(view: PairStates, layer: int, *, first_only: bool = True) -> Tensor:
    """[S, H, 2]: the attention on visual and that on text tokens, in [0, 1], of [CLS], or the mean over all real tokens. What is
    neither (an image's own CLS, an end token) counts for none."""
    attention = whole_attention(view, layer, first_only=first_only)
    length = view.text_mask.shape[1]
    vision = attention[..., length:].masked_fill(~view.visual[:, None, None, :], 0.0).sum(dim=-1)
    text = attention[..., :length].masked_fill(~view.text_mask[:, None, None, :], 0.0).sum(dim=-1)
    mass = torch.stack([vision, text], dim=-1)  # [S, H, Q, 2]
    if first_only:
        return mass[:, :, 0]
    asking = torch.cat([view.text_mask, view.image_mask], dim=1)[:, None, :, None]
    return (mass * asking).sum(dim=2) / asking.sum(dim=2)


def token_attention(view: PairStates, layer: int) -> Tensor:
    """[S, T]: what each text token gets of the attention of [CLS], summed over heads; zero at padding."""
    attention = whole_attention(view, layer)[:, :, 0, : view.text_mask.shape[1]].sum(dim=1)
    return attention.masked_fill(~view.text_mask, 0.0)


def text_to_image(view: PairStates, layer: int) -> Tensor:
    """[S, T, V]: the attention of each text token over the image alone, as DiDE compares it (section 3.2), mean over heads."""
    kept = view.qk[layer]
    return attention_log_probs(kept.text_query, kept.image_key, view.image_mask).exp().mean(dim=1)


def by_word(values: Tensor, words: Tensor, count: int, *, mean: bool) -> Tensor:
    """[T, ...] of tokens to [W, ...] of `count` words, summed or averaged over a word's tokens; zero for words without one.

    words: [T] the index of each token's word, -1 at specials and padding.
    """
    totals = values.new_zeros(count, *values.shape[1:])
    kept = words >= 0
    totals.index_add_(0, words[kept], values[kept])
    if not mean:
        return totals
    tokens = torch.bincount(words[kept], minlength=count).clamp(min=1)
    return totals / tokens.view(-1, *[1] * (values.dim() - 1))


_BATCH = 16


@dataclass(frozen=True)
class TokenView(WordsView):
    """layer: whose attention it is, the model's last. selects: whether the run selected words."""

    layer: int
    selects: bool

    @property
    def title(self) -> str:
        return f"Words that {self.run} attends to, split {self.split}"

    @property
    def summary(self) -> str:
        return (
            f"{len(self.samples):,} of {self.total:,} records of {self.data}. Attention of [CLS] in layer {self.layer}, "
            "summed over heads and over a word's tokens (ADVL, Fig. 3)."
        )

    @property
    def outlined(self) -> str:
        return "one of the words that were compared" if self.selects else ""


def view_tokens(
    run: Path, before: str | None, recipe: Recipe, data: DataArtifact, records: list[Record], split: str, samples: int
) -> TokenView:
    """`samples` of the records with their words' attention; of a run that selected words with their importance too. before: a run
    without distillation, or None."""
    plain, selects = _samples(run, recipe, data, records, split, samples)
    chosen = drawn(records, samples)
    after, layer = word_attention(str(run), data, chosen)
    earlier = word_attention(before, data, chosen)[0] if before is not None else None
    scored = []
    for place, sample in enumerate(plain):
        scores = {} if earlier is None else {BEFORE: earlier[place]}
        if selects:
            scores["S"] = sample.text.scores["S"]
        text = ScoredText(sample.text.sentence, {**scores, AFTER: after[place]}, sample.text.selected)
        scored.append(replace(sample, text=text))
    return TokenView(str(run), split, data.folder.name, len(records), scored, layer, selects)


def _samples(
    run: Path, recipe: Recipe, data: DataArtifact, records: list[Record], split: str, samples: int
) -> tuple[list[Sample], bool]:
    """With the words' importance where the run selected words, else without scores."""
    if recipe.objective.kind == "advl" and recipe.objective.words:
        return view_words(run, recipe, data, records, split, samples).samples, True
    return [plain_sample(record, data) for record in drawn(records, samples)], False


def word_attention(source: str, data: DataArtifact, records: Sequence[Record]) -> tuple[list[np.ndarray], int]:
    """Of each record [W], the attention on the words of the sequence that is shown, and the layer."""
    opened = open_one_stream(source, data)
    layer, by_record = opened.model.layers, []
    for batch, output in attended(opened, data, records, Capture(qk=(layer,)), _BATCH):
        attention = token_attention(output.views[0], layer).cpu()
        words = batch.text.words.cpu()
        for number, record in enumerate(records[len(by_record) : len(by_record) + len(batch)]):
            place = shown_sequence(record)
            row, count = number * batch.choices + place, sum(len(part) for part in sentences(record)[place])
            by_record.append(by_word(attention[row], words[row], count, mean=False).numpy())
    return by_record, layer


BATCH = 16


@dataclass(frozen=True)
class ModalityImportance:
    """run: whose. vision, text: [L, H] means in [0, 1], layers from the first."""

    run: str
    vision: np.ndarray
    text: np.ndarray

    @property
    def averages(self) -> dict[str, float]:
        """Over heads and layers, and by how much text outweighs vision."""
        vision, text = float(self.vision.mean()), float(self.text.mean())
        return {"vision": vision, "text": text, "gap": text - vision}

    def to_json(self) -> dict[str, Any]:
        return {
            "run": self.run,
            **{name: np.round(values, 6).tolist() for name, values in (("vision", self.vision), ("text", self.text))},
        }


@dataclass(frozen=True)
class ModalityView:
    """before: of a run without distillation, if one was named. records: how many were read. first_only: of [CLS], or of all
    tokens."""

    split: str
    data: str
    records: int
    first_only: bool
    before: ModalityImportance | None
    after: ModalityImportance

    @property
    def models(self) -> list[tuple[str, ModalityImportance]]:
        return [("before", self.before)] * (self.before is not None) + [("after", self.after)]

    @property
    def summary(self) -> str:
        whose = "[CLS]" if self.first_only else "all tokens"
        return (
            f"Attention of {whose} on visual and on text tokens, mean over {self.records:,} records of {self.data}, "
            f"{self.split} (ADVL, Fig. 8)."
        )

    def to_json(self) -> dict[str, Any]:
        """What `report` reads: `averages` by "before" and "after"."""
        results = dict(self.models)
        return {
            "split": self.split,
            "data": self.data,
            "records": self.records,
            "queries": "cls" if self.first_only else "all",
            "averages": {
                name: {key: round(value, 6) for key, value in measured.averages.items()} for name, measured in results.items()
            },
            **{name: measured.to_json() for name, measured in results.items()},
        }


def view_modality(
    run: str, before: str | None, data: DataArtifact, records: Sequence[Record], split: str, *, first_only: bool
) -> ModalityView:
    """Reads the records with both models. Raises InputError where one of them does not attend to both modalities at once."""
    measured = {
        name: modality_importance(source, data, records, first_only=first_only)
        for name, source in (("before", before), ("after", run))
        if source is not None
    }
    return ModalityView(split, data.folder.name, len(records), first_only, measured.get("before"), measured["after"])


def modality_importance(source: str, data: DataArtifact, records: Sequence[Record], *, first_only: bool) -> ModalityImportance:
    """Of one model. All sequences of a record count, and each of its images."""
    opened = open_one_stream(source, data)
    layers, total, count = range(1, opened.model.layers + 1), 0, 0
    for _, output in attended(opened, data, records, Capture(qk=tuple(layers)), BATCH):
        for view in output.views:
            mass = torch.stack([modality_mass(view, layer, first_only=first_only) for layer in layers])  # [L, S, H, 2]
            total, count = total + mass.double().sum(dim=1), count + mass.shape[1]
    mean = (total / count).cpu().numpy()
    return ModalityImportance(source, mean[..., 0], mean[..., 1])
