"""Which words ADVL selects and why (section 3.2.2; the middle row of Fig. 3): some of a split's records with their words' scores.

The scores are read from the run's word cache where it holds a record, and computed by the recipe's own CLIP and YAKE where not: a
cache holds what was trained on, so that it rarely knows a validation set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from vldistill.data.artifact import DataArtifact
from vldistill.data.records import Record
from vldistill.data.sequences import Sentence, sentences
from vldistill.errors import InputError
from vldistill.recipe.schema.recipe import Recipe
from vldistill.teachers.cache import pair_key, text_key
from vldistill.teachers.words import NONE, WordScores, importance, is_content, keyword_scores, words_of
from vldistill.training.caches import TeacherCaches

THUMBNAIL = 360
"""Longest side of a shown image in pixels."""
BEFORE, AFTER = "before", "after"
ATTENTION = (BEFORE, AFTER)
"""Symbols of attention, of which every word has some; importance is of content words alone."""
MEANINGS = {
    BEFORE: "attention without distillation",
    AFTER: "attention of the run",
    "S": "importance: the two scores, each over its sum",
    "S_v": "CLIP's cosine of image and word",
    "S_l": "YAKE's score as a keyword",
}
SCALE = "the scale ends at the text's largest score"
UNJUDGED = "stop word or punctuation: not judged"


@dataclass(frozen=True)
class ShadedWord:
    """A word as it is drawn. shade: in [-1, 1], None for a word that is not judged: of importance, stop words. rank: among the
    compared words, from 1; 0 for all others."""

    word: str
    value: float
    shade: float | None
    rank: int


@dataclass(frozen=True)
class ScoredText:
    """A sequence with its words' scores. scores: by symbol of MEANINGS, [W] over all parts; without S_v where no CLIP judges.
    selected: indices of the compared words, best first."""

    sentence: Sentence
    scores: dict[str, np.ndarray]
    selected: list[int]

    def shaded(self, symbol: str) -> list[list[ShadedWord]]:
        """The words of each part, shaded by one of the scores."""
        values = self.scores[symbol]
        rank = {place: number for number, place in enumerate(self.selected, start=1)}
        judged = symbol in ATTENTION
        flat = [
            ShadedWord(word, float(value), float(shade) if judged or is_content(word) else None, rank.get(place, 0))
            for place, (word, value, shade) in enumerate(zip(words_of(self.sentence), values, shades(values), strict=True))
        ]
        ends = np.cumsum([len(part) for part in self.sentence]).tolist()
        return [flat[end - len(part) : end] for part, end in zip(self.sentence, ends, strict=True)]


@dataclass(frozen=True)
class Sample:
    """image: at most THUMBNAIL pixels a side, RGB. choice: which of a record's choices is shown, if it has any. answer: the
    label's name or the annotators' answers, if it has one. stored: whether the scores come from the cache."""

    id: str
    image: Image.Image
    text: ScoredText
    choice: str | None
    answer: str | None
    stored: bool

    @property
    def facts(self) -> str:
        return "; ".join(filter(None, [self.choice, f"answer: {self.answer}" if self.answer else None]))


@dataclass(frozen=True)
class WordsView:
    """Samples under a title. total: records to draw from."""

    run: str
    split: str
    data: str
    total: int
    samples: list[Sample]

    @property
    def symbols(self) -> list[str]:
        """Of every text's scores."""
        return list(self.samples[0].text.scores)


@dataclass(frozen=True)
class WordView(WordsView):
    """judge: whose scores they are. most: words that are compared of a text."""

    judge: str
    most: int

    @property
    def title(self) -> str:
        return f"Words selected for {self.run}, split {self.split}"

    @property
    def summary(self) -> str:
        """Under the title."""
        anew = len(self.samples) - self.stored
        return (
            f"{len(self.samples):,} of {self.total:,} records of {self.data}. "
            f"Scores by {self.judge}: {self.stored:,} from the cache, {anew:,} computed anew."
        )

    @property
    def stored(self) -> int:
        return sum(sample.stored for sample in self.samples)

    @property
    def outlined(self) -> str:
        """What an outlined word is, "" where none is."""
        return f"one of the {self.most} compared" if self.most > 1 else "the one compared"


def view_words(run: Path, recipe: Recipe, data: DataArtifact, records: list[Record], split: str, samples: int) -> WordView:
    """`samples` of the records, drawn always alike, in their order. recipe: the run's. Raises InputError where the run selected
    no words."""
    check_selects_words(recipe, run)
    judge = _WordScores(recipe, data)
    scored = [judge.sample(record) for record in drawn(records, samples)]
    return WordView(str(run), split, data.folder.name, len(records), scored, judge.name, recipe.objective.words)


def drawn(records: Sequence[Record], most: int) -> list[Record]:
    """At most `most` of the records, drawn always alike, in their order."""
    chosen = np.random.default_rng(0).permutation(len(records))[:most]
    return [records[place] for place in sorted(chosen.tolist())]


def shown_sequence(record: Record) -> int:
    """Which of a record's sequences is shown: of several the right choice's, the first where that is not known."""
    return record.label or 0 if record.choices else 0


def plain_sample(record: Record, data: DataArtifact) -> Sample:
    """A record with its first image, without scores."""
    texts, place = sentences(record), shown_sequence(record)
    right = ", the right one" if record.label is not None else ""
    choice = f"choice {place + 1} of {len(texts)}{right}" if record.choices else None
    image = data.images.turned(upright=True).open(record.images[0])
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return Sample(record.id, image, ScoredText(texts[place], {}, []), choice, _answer(record, data), False)


def check_selects_words(recipe: Recipe, run: Path) -> None:
    """Raises InputError where the run's recipe is not ADVL's, or compares no words."""
    if recipe.objective.kind != "advl":
        raise InputError(
            f"was trained by `{recipe.objective.kind}`, not by `advl`, and selected no words",
            where=str(run),
            hint="train one that does: vldistill distill --recipe advl_swin_roberta",
        )
    if not recipe.objective.words:
        raise InputError(
            "was trained with objective.words=0, and selected no words",
            where=str(run),
            hint="train it again with objective.words=2",
        )


class _WordScores:
    """Scores as the run's own teachers give them."""

    def __init__(self, recipe: Recipe, data: DataArtifact):
        # Nothing is asked of the other teachers, so their weights need not be there.
        alone = recipe.objective.model_copy(update={"vision": False, "text": False})
        caches = TeacherCaches(recipe.model_copy(update={"objective": alone}))
        self._data, self._relevance, self._most = data, caches.relevance, recipe.objective.words
        self._cache = caches.parts["words"].cache if not caches.live else None
        self._digests = data.image_digests()

    @property
    def name(self) -> str:
        fields = self._relevance.fields
        judges = [fields["relevance model"].partition("@")[0]] if "relevance model" in fields else []
        return " and ".join([*judges, fields["keywords"]])

    def sample(self, record: Record) -> Sample:
        path, plain = record.images[0], plain_sample(record, self._data)
        stored = self._stored(path, plain.text.sentence)
        scores = stored or self._computed(path, plain.text.sentence)
        return replace(plain, text=self._text(plain.text.sentence, scores), stored=stored is not None)

    def _text(self, sentence: Sentence, scored: WordScores) -> ScoredText:
        scores = {"S": importance(scored.visual, scored.language), "S_v": scored.visual, "S_l": scored.language}
        if self._relevance.clip is None:
            del scores["S_v"]
        return ScoredText(sentence, scores, [int(word) for word in scored.selected if word != NONE])

    def _stored(self, path: str, sentence: Sentence) -> WordScores | None:
        if self._cache is None:
            return None
        row = int(self._cache.find([pair_key(self._digests[path], text_key(sentence))])[0])
        if row < 0:
            return None
        visual, language = self._cache.read_ragged(row, "scores").astype(np.float32).T
        return WordScores(visual, language, self._cache.read([row], "index")[0, : self._most])

    def _computed(self, path: str, sentence: Sentence) -> WordScores:
        words = words_of(sentence)
        image = self._relevance.embed_images([self._data.images.open(path)])[0]
        return self._relevance.score(words, image, self._relevance.embed_words([words])[0], keyword_scores(words), self._most)


def _answer(record: Record, data: DataArtifact) -> str | None:
    """For the eye; None where the split has none, or the answer is the choice shown."""
    if record.answers:
        given = Counter(record.answers).most_common(3)
        return ", ".join(f"{answer} ({count} of {len(record.answers)})" for answer, count in given)
    if record.label is None or record.choices:
        return None
    return data.labels[record.label]


def shades(values: np.ndarray) -> np.ndarray:
    """[W] in [-1, 1]: each value over the largest magnitude of its text, where the scale of its shades ends; zeros where all are.

    >>> shades(np.array([0.2, -0.1, 0.0])).tolist()
    [1.0, -0.5, 0.0]
    """
    end = largest(values)
    return values / end if end > 0 else np.zeros_like(values)


def largest(values: np.ndarray) -> float:
    """The largest magnitude of [W] scores, 0 without any."""
    return float(np.abs(values).max(initial=0.0))
