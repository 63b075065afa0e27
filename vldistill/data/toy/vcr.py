"""The toy world as VCR: questions about people in a picture, four answers and four rationales, and the official raw layout.

The wrong choices are the other outcomes of the fact that is asked for, so all four are right answers to some question. As in
VCR, the right choice mentions whom the question is about by the same tag more often than the wrong ones do: a shortcut that
models learn and that the published domain shifts (`vldistill.data.shift`) take away. Read as being about whom the question is
about, only the right choice is true, so that a shifted question still has one right choice.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from vldistill.data.lowshot import VCR_SHARES
from vldistill.data.records import CHOICES, Word
from vldistill.data.toy.vcr_topics import TOPICS, Cast, Topic, Whom
from vldistill.data.toy.world import (
    COLOURS,
    PIXELS,
    SHAPES,
    Scene,
    extent,
    generator,
    illustrated,
    outline,
    place,
    write_json,
    write_jsonl,
    write_picture,
)

QUESTIONS = (2, 3)
"""The fewest and the most questions about a picture."""
PERSONS = (1, 4)
THINGS = (3, 5)
MOVIE = 20
"""Pictures in a movie."""

_TYPES, _SHARES = list(VCR_SHARES), np.array(list(VCR_SHARES.values())) / sum(VCR_SHARES.values())
# How a choice mentions people: by the question's tag, by other people's, else by a pronoun.
_RIGHT_ASKED, _WRONG_ASKED, _WRONG_OTHERS = 0.75, 0.25, 0.5
# Openings, drawn for each choice by itself, so that its length says nothing.
_ANSWER_OPENINGS = ("", "", "I think ", "Maybe ")
_RATIONALE_OPENINGS = ("", "", "I see that ", "In the picture ")


@dataclass(frozen=True)
class Choices:
    """words: the four choices. label: the right one. outcomes: which outcome of the topic's fact each one says."""

    words: list[list[Word]]
    label: int
    outcomes: tuple[int, ...]


@dataclass(frozen=True)
class Inquiry:
    """A question with its answers and rationales. topic: its place in TOPICS."""

    question: list[Word]
    answers: Choices
    rationales: Choices
    topic: int


def ask(rng: np.random.Generator, images: int) -> Iterator[tuple[Scene, list[Inquiry]]]:
    """Scenes of 1 to 4 people and 3 to 5 things, each with 2 or 3 questions, no two of them of the same topic about the
    same people. Types are drawn by their published shares; right choices take all four positions equally often."""
    positions = [_positions(rng) for _ in range(2)]
    tally: Counter[tuple[int, int]] = Counter()
    for _ in range(images):
        scene = place(rng, _draw_kinds(rng))
        cast = Cast.of(scene)
        asked: dict[tuple[int, Whom], Inquiry] = {}
        wanted = rng.integers(QUESTIONS[0], QUESTIONS[1] + 1)
        while len(asked) < wanted:
            picked = _pick(rng, cast, _TYPES[rng.choice(len(_TYPES), p=_SHARES)], tally)
            if picked is not None and picked not in asked:
                asked[picked] = _inquire(rng, cast, *picked, *map(next, positions))
                tally[picked[0], TOPICS[picked[0]].fact(cast, picked[1])] += 1
        yield scene, list(asked.values())


def _positions(rng: np.random.Generator) -> Iterator[int]:
    """Positions of right choices: each block of four holds every one of them once."""
    while True:
        yield from rng.permutation(CHOICES).tolist()


def _draw_kinds(rng: np.random.Generator) -> np.ndarray:
    """The kinds of a scene. It has two colours or more, few of them often, since many questions ask who shares one."""
    persons, things = (rng.integers(low, high + 1) for low, high in (PERSONS, THINGS))
    palette = rng.permutation(len(COLOURS))[: rng.integers(2, len(COLOURS) + 1)]
    circle = SHAPES.index("circle")
    others = [shape for shape in range(len(SHAPES)) if shape != circle]
    shapes = np.concatenate([np.full(persons, circle), rng.choice(others, things)])
    return shapes * len(COLOURS) + rng.choice(palette, persons + things)


def _pick(rng: np.random.Generator, cast: Cast, kind: str, tally: Counter[tuple[int, int]]) -> tuple[int, Whom] | None:
    """A topic of this type and whom to ask it about, None where nobody fits. Of the outcomes at hand, the one that the topic
    has had least often is taken, so that an answer's words say little about whether it is right."""
    topics = [i for i, topic in enumerate(TOPICS) if topic.type == kind]
    weights = np.array([TOPICS[i].weight for i in topics])
    topic = topics[rng.choice(len(topics), p=weights / weights.sum())]
    subjects: dict[int, list[Whom]] = defaultdict(list)
    for subject in TOPICS[topic].subjects(cast):
        outcome = TOPICS[topic].fact(cast, subject)
        if outcome is not None:
            subjects[outcome].append(subject)
    if not subjects:
        return None
    fewest = min(tally[topic, outcome] for outcome in subjects)
    rarest = [outcome for outcome in subjects if tally[topic, outcome] == fewest]
    fitting = subjects[rarest[rng.integers(len(rarest))]]
    return topic, fitting[rng.integers(len(fitting))]


def _inquire(rng: np.random.Generator, cast: Cast, number: int, subject: Whom, answer: int, rationale: int) -> Inquiry:
    """The question of a topic; answer, rationale: the positions of the right choices."""
    topic = TOPICS[number]
    wording = topic.questions[rng.integers(len(topic.questions))]
    first, *more = subject.persons
    tags: dict[str, Word] = {"p": [first], "q": more[:1], "g": list(subject.persons), "he": cast.pronoun(first)}
    if subject.other is not None:
        tags |= {"o": [subject.other], "po": [first, subject.other]}
    answers, rationales = (
        _choose(rng, cast, topic, subject, says, openings, position)
        for says, openings, position in (
            (topic.answers, _ANSWER_OPENINGS, answer),
            (topic.rationales, _RATIONALE_OPENINGS, rationale),
        )
    )
    return Inquiry(_fill(wording, tags), answers, rationales, number)


def _choose(
    rng: np.random.Generator, cast: Cast, topic: Topic, subject: Whom, says: Sequence[str], openings: Sequence[str], position: int
) -> Choices:
    """The right outcome at `position` and three others, each with an opening and a mention drawn by itself.

    says: the words of each outcome.
    """
    truth = topic.fact(cast, subject)
    outcomes = rng.permutation([outcome for outcome in range(len(says)) if outcome != truth])[: CHOICES - 1].tolist()
    outcomes.insert(position, truth)
    choices = []
    for outcome in outcomes:
        mention = _mention(rng, cast, topic, subject, outcome, outcome == truth)
        tags = {"m": mention} if subject.other is None else {"m": mention, "o": [subject.other]}
        choices.append(_fill(openings[rng.integers(len(openings))] + says[outcome], tags))
    return Choices(choices, position, tuple(outcomes))


def _mention(rng: np.random.Generator, cast: Cast, topic: Topic, subject: Whom, outcome: int, right: bool) -> Word:
    """What stands for the people of a choice. Other people are those of whom a wrong outcome is true, where there are such."""
    draw = rng.random()
    if not right and draw < _WRONG_OTHERS:
        others = [
            Whom(persons, subject.other)
            for persons in combinations(cast.persons, len(subject.persons))
            if persons != subject.persons and subject.other not in persons
        ]
        fitting = [other for other in others if topic.fact(cast, other) == outcome] or others
        if fitting:
            return list(fitting[rng.integers(len(fitting))].persons)
        draw = rng.random() * (1 - _WRONG_OTHERS) + _WRONG_OTHERS
    if draw < (_RIGHT_ASKED if right else _WRONG_OTHERS + _WRONG_ASKED):
        return list(subject.persons)
    return "they" if len(subject.persons) > 1 else cast.pronoun(subject.persons[0])


def _fill(template: str, tags: Mapping[str, Word]) -> list[Word]:
    """The words of a template, the first with a capital."""
    words: list[Word] = []
    for token in template.split():
        word = tags[token[1:-1]] if token.startswith("{") else token
        words.append(list(word) if isinstance(word, list) else word)
    if isinstance(words[0], str):
        words[0] = words[0][0].upper() + words[0][1:]
    return words


def write(folder: Path, seed: int, splits: Mapping[str, int]) -> dict[str, int]:
    """`<split>.jsonl` and `vcr1images/<movie>/` with a picture and its objects for each scene; the test split lacks whatever
    tells the right choices. Returns the questions by split."""
    written = {}
    for split, size in splits.items():
        places, inquiries = [], []
        for number, (content, scene, asked) in enumerate(illustrated(ask(generator(seed, split, "vcr"), size))):
            movie = f"toy_{split}_{number // MOVIE:04d}"
            clip = f"{movie}/{movie}_{number % MOVIE:02d}"
            path = folder / "vcr1images" / f"{clip}.jpg"
            write_picture(path, content)
            metadata = _metadata(scene)
            write_json(path.with_suffix(".json"), metadata)
            for question_number, inquiry in enumerate(asked):
                places.append(
                    {
                        "movie": movie,
                        "objects": metadata["names"],
                        "img_fn": f"{clip}.jpg",
                        "metadata_fn": f"{clip}.json",
                        "img_id": f"{split}-{number}",
                        "question_number": question_number,
                    }
                )
                inquiries.append(inquiry)
        write_jsonl(folder / f"{split}.jsonl", _rows(split, places, inquiries))
        written[split] = len(inquiries)
    return written


def _metadata(scene: Scene) -> dict[str, Any]:
    """Boxes [N][x1, y1, x2, y2, confidence], in pixels, and polygons [N][1][M][x, y] of the objects of a scene."""
    cast = Cast.of(scene)
    polygons = [outline(scene, cell) for cell in cast.cells]
    return {
        "boxes": [[*map(float, extent(polygon)), 1.0] for polygon in polygons],
        "segms": [[polygon] for polygon in polygons],
        "names": cast.names,
        "width": PIXELS,
        "height": PIXELS,
    }


def _rows(split: str, places: Sequence[dict[str, Any]], inquiries: Sequence[Inquiry]) -> Iterator[dict[str, Any]]:
    """The lines of a split. A question is known by its index, as in VCR's rounds of matching, of which there is one here."""
    # Where choices may come from: the questions of which they are right answers.
    sources: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, inquiry in enumerate(inquiries):
        sources[inquiry.topic, inquiry.answers.outcomes[inquiry.answers.label]].append(index)
    for index, (where, inquiry) in enumerate(zip(places, inquiries, strict=True)):
        parts = {"answer": inquiry.answers, "rationale": inquiry.rationales}
        row = {
            **where,
            "interesting_scores": [0],
            "answer_likelihood": "likely",
            "question_orig": _spell(inquiry.question),
            "question": inquiry.question,
        }
        row |= {f"{part}_choices": choices.words for part, choices in parts.items()}
        row |= {"annot_id": f"{split}-{index}", "match_fold": f"{split}-0", "match_index": index}
        for part, choices in parts.items() if split != "test" else ():
            row[f"{part}_label"] = choices.label
            row[f"{part}_orig"] = _spell(choices.words[choices.label])
            # The wrong choices count as found in their order.
            row[f"{part}_match_iter"] = [0 if i == choices.label else i + (i < choices.label) for i in range(CHOICES)]
            # Spread over those questions; the question's own where there is none.
            row[f"{part}_sources"] = [
                index if i == choices.label else (found := sources[inquiry.topic, outcome] or [index])[index % len(found)]
                for i, outcome in enumerate(choices.outcomes)
            ]
        yield row


def _spell(words: Sequence[Word]) -> str:
    """A sentence as it was typed: objects counted from 1, no space before punctuation."""
    text = ""
    for word in words:
        if isinstance(word, list):
            word = " and ".join(str(index + 1) for index in word)
        text += word if not text or word in (".", ",", "?", "'s") else f" {word}"
    return text
