"""Which words [CLS] attends to, before and after distillation, beside what ADVL selected (ADVL, Fig. 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vldistill.data.artifact import DataArtifact
from vldistill.data.records import Record
from vldistill.data.sequences import sentences
from vldistill.evaluation.attention.importance import by_word, token_attention
from vldistill.evaluation.attention.reading import attended, open_one_stream
from vldistill.evaluation.words import (
    AFTER,
    BEFORE,
    Sample,
    ScoredText,
    drawn,
    plain_sample,
    shown_sequence,
    view_words,
)
from vldistill.models.base.outputs import Capture
from vldistill.recipe.schema.recipe import Recipe

_BATCH = 16


@dataclass(frozen=True)
class TokenView:
    """What is shown; see `WordView`. layer: whose attention it is, the model's last. selects: whether the run selected words."""

    run: str
    split: str
    data: str
    layer: int
    total: int
    selects: bool
    samples: list[Sample]

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

    @property
    def symbols(self) -> list[str]:
        return list(self.samples[0].text.scores)


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
    return TokenView(str(run), split, data.folder.name, layer, len(records), selects, scored)


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
