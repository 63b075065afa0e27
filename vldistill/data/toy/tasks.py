"""What the toy world is asked: sentences about scenes and their labels, balanced so that no single modality answers.

- `exist` questions come in twin scenes with the same questions and opposite answers;
- `pairmore` statements come with their mirror image, in which every label flips;
- `ve3` hypotheses come in three scenes that are recolourings (or reshapings) of each other, so that each hypothesis is
  entailed once, undecided once (it hangs on the covered cell) and contradicted once.
So each sentence, taken alone, has every label equally often, and so has each image (or pair of images): exactly, not
on average. Captions, counts and "what colour" questions are not balanced; they need no control.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vldistill.data.toy.world import (
    COLOUR_FILTERS,
    COLOURS,
    FILTERS,
    KIND_FILTERS,
    KINDS,
    SHAPE_FILTERS,
    SHAPES,
    Filter,
    Scene,
    draw_kinds,
    place,
)

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
EXIST_PER_LABEL = 2
COUNTS = 2
MOST_ONLY = 4
STATEMENT_FILTERS = 2

ENTAILMENT, NEUTRAL, CONTRADICTION = "entailment", "neutral", "contradiction"
_CATEGORIES = {"colour": COLOUR_FILTERS, "shape": SHAPE_FILTERS, "both": KIND_FILTERS}
# Three visible objects of one kind are too rare to ask for.
_HYPOTHESES = (("colour", 2), ("colour", 3), ("shape", 2), ("shape", 3), ("both", 2))


@dataclass(frozen=True)
class Question:
    """A VQA question, with the dataset's names for its type and for its answer's type."""

    text: str
    answer: str
    question_type: str
    answer_type: str


@dataclass(frozen=True)
class ToyStatement:
    """A sentence about an image or a pair of them. `label`: "True"/"False" of a pair, or one of SNLI-VE's three."""

    text: str
    label: str
    subject: Filter


def ask(rng: np.random.Generator, scenes: int) -> Iterator[tuple[Scene, list[Question]]]:
    """VQA: scenes of 4 to 7 objects, each with 4 exist questions (2 yes), 2 counts and up to 4 about the only object of a
    shape or colour. The open questions are what makes the others learnable in minutes: their answers say more.

    Two scenes that follow each other share their exist questions, with opposite answers. `scenes` is even.
    """
    for _ in range(scenes // 2):
        kinds = draw_kinds(rng, 4, 7)
        while len(present := np.unique(kinds)) < EXIST_PER_LABEL:
            kinds = rng.integers(KINDS, size=len(kinds))
        absent = np.setdiff1d(np.arange(KINDS), present)
        yes = rng.permutation(present)[:EXIST_PER_LABEL]
        no = rng.permutation(absent)[:EXIST_PER_LABEL]
        exchange = np.arange(KINDS)
        exchange[yes], exchange[no] = no, yes
        asked = np.concatenate([yes, no])
        for twin in (kinds, exchange[kinds]):
            scene = place(rng, twin)
            questions = [
                Question(f"is there a {KIND_FILTERS[kind].singular}?", "yes" if kind in twin else "no", "is there a", "yes/no")
                for kind in rng.permutation(asked)
            ]
            yield scene, [*questions, *_counts(rng, scene), *_only(rng, scene)]


def _counts(rng: np.random.Generator, scene: Scene) -> list[Question]:
    """COUNTS different counts."""
    questions: dict[Question, None] = {}
    while len(questions) < COUNTS:
        questions[_count(rng, scene)] = None
    return list(questions)


def _count(rng: np.random.Generator, scene: Scene) -> Question:
    """A count; its answer is drawn before its filter, since most filters pick out nothing or one."""
    counts = scene.counts()
    answer = rng.choice(np.unique(counts))
    subject = FILTERS[rng.choice(np.flatnonzero(counts == answer))]
    return Question(f"how many {subject.plural} are there?", str(answer), "how many", "number")


def _only(rng: np.random.Generator, scene: Scene) -> list[Question]:
    """The colour of the only object of a shape, or the shape of the only one of a colour, if there is such."""
    kinds = scene.visible()
    shapes, colours = kinds // len(COLOURS), kinds % len(COLOURS)
    questions = []
    for s, shape in enumerate(SHAPES):
        if (shapes == s).sum() == 1:
            colour = COLOURS[colours[shapes == s][0]]
            questions.append(Question(f"what color is the {shape}?", colour, "what color is the", "other"))
    for c, colour in enumerate(COLOURS):
        if (colours == c).sum() == 1:
            shape = SHAPES[shapes[colours == c][0]]
            questions.append(Question(f"what shape is the {colour} object?", shape, "what shape is the", "other"))
    return [questions[place] for place in rng.permutation(len(questions))[:MOST_ONLY]]


def compare(rng: np.random.Generator, pairs: int) -> Iterator[tuple[Scene, Scene, list[ToyStatement]]]:
    """NLVR2: pairs of scenes of 3 to 7 objects, each with 4 statements: 2 filters, each with a true and a false one.

    The mirrored pair takes the same sentences with the opposite labels (`opposite`); filters are drawn among those whose
    counts differ, so that every statement is true or false of both orders. Neither the sentence nor the images tell anything
    alone. Together with the sentence one image tells much, since mostly none stands against one: looking up the commonest label
    is right for nine in ten. Where that is made harder, the teacher and the students of its attention learn less, too.
    """
    for _ in range(pairs):
        while True:
            left, right = (place(rng, draw_kinds(rng, 3, 7)) for _ in range(2))
            more = left.counts() - right.counts()
            differing = np.flatnonzero(more)
            if len(differing) >= STATEMENT_FILTERS:
                break
        statements = []
        for f in rng.permutation(differing)[:STATEMENT_FILTERS]:
            for truth in (True, False):
                about_left = bool(rng.integers(2))
                word = "more" if about_left == ((more[f] > 0) == truth) else "fewer"
                this, that = ("left", "right") if about_left else ("right", "left")
                text = f"the {this} image has {word} {FILTERS[f].plural} than the {that} one"
                statements.append(ToyStatement(text, str(truth), FILTERS[f]))
        yield left, right, [statements[i] for i in rng.permutation(len(statements))]


def opposite(statement: ToyStatement) -> ToyStatement:
    """The same sentence about the mirrored pair."""
    return ToyStatement(statement.text, "False" if statement.label == "True" else "True", statement.subject)


def entail(rng: np.random.Generator, scenes: int) -> Iterator[tuple[Scene, list[ToyStatement]]]:
    """SNLI-VE: scenes of 5 to 8 visible objects and one covered cell, each with one hypothesis of each label.

    A hypothesis "there are at least k F" is entailed by k visible F, undecided with k - 1 (the covered cell may hold
    one) and contradicted by fewer. Three scenes that follow each other share their three hypotheses, with the labels
    turned round. `scenes` is a multiple of 3.
    """
    share = np.array([len(_CATEGORIES[category]) for category, _ in _HYPOTHESES])
    for _ in range(scenes // 3):
        category, least = _HYPOTHESES[rng.choice(len(_HYPOTHESES), p=share / share.sum())]
        filters = _CATEGORIES[category]
        while True:
            kinds = draw_kinds(rng, 5, 8)
            counts = [sum(map(f.matches, kinds.tolist())) for f in filters]
            labelled = {
                label: [i for i, n in enumerate(counts) if _verdict(n, least) == label]
                for label in (ENTAILMENT, NEUTRAL, CONTRADICTION)
            }
            if all(labelled.values()):
                break
        trio = [int(rng.choice(candidates)) for candidates in labelled.values()]
        turn = _turn(category, trio)
        for shift in range(3):
            statements = [
                ToyStatement(f"there are at least {NUMBERS[least]} {filters[f].plural}", label, filters[f])
                for f, label in zip(trio[shift:] + trio[:shift], labelled, strict=True)
            ]
            yield place(rng, kinds, cover=True), [statements[i] for i in rng.permutation(3)]
            kinds = turn[kinds]


def _verdict(count: int, least: int) -> str:
    if count >= least:
        return ENTAILMENT
    return NEUTRAL if count == least - 1 else CONTRADICTION


def _turn(category: str, trio: list[int]) -> np.ndarray:
    """[KINDS] what each kind becomes when each filter of `trio` becomes the next one, and the last the first."""
    size = len(_CATEGORIES[category])
    renamed = np.arange(size)
    renamed[trio] = trio[1:] + trio[:1]
    shape, colour = np.divmod(np.arange(KINDS), len(COLOURS))
    if category == "colour":
        return shape * len(COLOURS) + renamed[colour]
    if category == "shape":
        return renamed[shape] * len(COLOURS) + colour
    return renamed


def describe(rng: np.random.Generator, scenes: int) -> Iterator[tuple[Scene, list[str]]]:
    """COCO: scenes of 2 to 6 objects with five captions each."""
    for _ in range(scenes):
        scene = place(rng, draw_kinds(rng, 2, 6))
        yield scene, [caption(rng, scene) for _ in range(5)]


def caption(rng: np.random.Generator, scene: Scene, groups: int = 3) -> str:
    """A true sentence that names up to `groups` kinds in view with their exact numbers, in random order."""
    kinds, counts = np.unique(scene.visible(), return_counts=True)
    chosen = rng.permutation(len(kinds))[: rng.integers(1, groups + 1)]
    phrases = [_amount(int(counts[i]), KIND_FILTERS[kinds[i]]) for i in chosen]
    text = phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
    verb = "is" if counts[chosen[0]] == 1 else "are"
    return ("{}", "there {verb} {}", "an image of {}", "the image shows {}")[rng.integers(4)].format(text, verb=verb)


def _amount(number: int, subject: Filter) -> str:
    return f"a {subject.singular}" if number == 1 else f"{NUMBERS[number]} {subject.plural}"
