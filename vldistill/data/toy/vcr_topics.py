"""What the toy VCR asks: a table of topics, each with a fact that the picture decides and words for every outcome of it.

Circles are people, squares books and triangles kites, under the names of VCR's classes. A large circle is "he", a small one
"she". Objects are numbered people first, then the things, both in reading order, so that a tag can be resolved without boxes.

A fact has at least four outcomes, just one of which holds of whom it is asked about: that one is the right answer, and its
rationale states the fact. Most topics hang on one colour, which small models learn from few examples; the others need a
neighbouring cell, a place in the grid or the bond of two objects (whether they share a colour and stand side by side).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from vldistill.data.toy.world import CELLS, COLOURS, EMPTY, GRID, SHAPES, Scene

NAMES = {"square": "book", "circle": "person", "triangle": "kite"}
"""VCR's class of each shape."""

_PERSON = SHAPES.index("circle")
_NOTHING = len(SHAPES)  # follows the shapes where a neighbouring cell is read
_APART = GRID  # follows the rows where a group's row is read


@dataclass(frozen=True)
class Whom:
    """Whom a question is about: the indices of one person or more, ascending, and of another object where it names one."""

    persons: tuple[int, ...]
    other: int | None = None


@dataclass(frozen=True)
class Cast:
    """The objects of a scene in the order in which tags count them. All are [N]; `shapes`, `colours` and `sizes` are indices
    (size 1 is the larger)."""

    cells: tuple[int, ...]
    shapes: tuple[int, ...]
    colours: tuple[int, ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, scene: Scene) -> Cast:
        """The cast of a scene without a covered cell."""
        shapes, colours = np.divmod(scene.kinds, len(COLOURS))
        cells = [cell for cell in range(CELLS) if scene.kinds[cell] != EMPTY]
        cells.sort(key=lambda cell: shapes[cell] != _PERSON)
        return cls(tuple(cells), *(tuple(int(values[cell]) for cell in cells) for values in (shapes, colours, scene.sizes)))

    @property
    def names(self) -> list[str]:
        """The class of each object."""
        return [NAMES[SHAPES[shape]] for shape in self.shapes]

    @property
    def persons(self) -> range:
        """The indices of the people."""
        return range(self.shapes.count(_PERSON))

    def pronoun(self, person: int) -> str:
        """The pronoun of a person, "he" or "she"."""
        return "he" if self.sizes[person] else "she"

    def shape_at(self, cell: int) -> int:
        """The shape in a cell, or _NOTHING."""
        return self.shapes[self.cells.index(cell)] if cell in self.cells else _NOTHING


# --- whom questions are about -----------------------------------------------------------------------------------------


def _one(cast: Cast) -> Iterator[Whom]:
    return (Whom((person,)) for person in cast.persons)


def _pair(cast: Cast) -> Iterator[Whom]:
    return map(Whom, combinations(cast.persons, 2))


def _group(cast: Cast) -> Iterator[Whom]:
    """Two or three people."""
    return (Whom(persons) for size in (2, 3) for persons in combinations(cast.persons, size))


def _one_and_thing(cast: Cast) -> Iterator[Whom]:
    things = range(len(cast.persons), len(cast.cells))
    return (Whom((person,), thing) for person in cast.persons for thing in things)


def _one_and_any(cast: Cast) -> Iterator[Whom]:
    """A person and another object, which may be a person too."""
    return (Whom((person,), other) for person in cast.persons for other in range(len(cast.cells)) if other != person)


def _pair_and_any(cast: Cast) -> Iterator[Whom]:
    return (Whom(pair, other) for pair in combinations(cast.persons, 2) for other in range(len(cast.cells)) if other not in pair)


# --- what the picture decides: the index of an outcome, None where the question cannot be asked --------------------------


def _colour(cast: Cast, subject: Whom) -> int | None:
    """The colour that all of the people have."""
    colours = {cast.colours[person] for person in subject.persons}
    return colours.pop() if len(colours) == 1 else None


def _tint(cast: Cast, subject: Whom) -> int:
    """The colour of the other object."""
    return cast.colours[subject.other]


def _place(cast: Cast, subject: Whom) -> int:
    """The person's cell."""
    return cast.cells[subject.persons[0]]


def _row(cast: Cast, subject: Whom) -> int:
    """The row that all of the people are in, or _APART."""
    rows = {cast.cells[person] // GRID for person in subject.persons}
    return rows.pop() if len(rows) == 1 else _APART


def _beside(cast: Cast, subject: Whom) -> int:
    """The shape in the next cell to the right."""
    cell = _place(cast, subject)
    return cast.shape_at(cell + 1) if cell % GRID < GRID - 1 else _NOTHING


def _below(cast: Cast, subject: Whom) -> int:
    """The shape in the next cell below."""
    return cast.shape_at(_place(cast, subject) + GRID)


def _above(cast: Cast, subject: Whom) -> int:
    """The shape in the next cell above."""
    return cast.shape_at(_place(cast, subject) - GRID)


def _bond(cast: Cast, subject: Whom) -> int:
    """Of two people, or of a person and the other object: 0 same colour, side by side; 1 same colour, apart; 2 different
    colours, side by side; 3 different colours, apart. Cells above each other are side by side too, diagonal ones are not."""
    one, two = subject.persons if subject.other is None else (*subject.persons, subject.other)
    (row, column), (other_row, other_column) = (divmod(cast.cells[i], GRID) for i in (one, two))
    apart = abs(row - other_row) + abs(column - other_column) > 1
    return 2 * (cast.colours[one] != cast.colours[two]) + apart


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Topic:
    """One row of the table.

    type: VCR's type of the questions. weight: the topic's share among those of its type. subjects: whom it can be asked
    about. fact: the outcome that holds of a subject, None where the question makes no sense of it. questions: wordings.
    answers, rationales: by outcome.

    Words are separated by spaces. In questions, {p} and {q} are the tags of the first and the second person, {g} is the tag
    of all of them, {o} that of the other object, {po} one tag of both, and {he} the person's pronoun; in answers and
    rationales, {m} mentions the people, by their tag or a pronoun, and {o} is there too.
    """

    type: str
    weight: int
    subjects: Callable[[Cast], Iterator[Whom]]
    fact: Callable[[Cast, Whom], int | None]
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    rationales: tuple[str, ...]


_MOODS = ("angry", "calm", "sad", "happy")  # of red, green, blue and yellow people
_ROWS = ("at the top", "at half height", "at the bottom")
_COLUMNS = ("on the left", "in the center", "on the right")
_ORDINALS = ("one", "two", "three")

_IS_COLOUR = tuple(f"{{m}} is {colour} ." for colour in COLOURS)
_ARE_COLOUR = tuple(f"{{m}} are {colour} ." for colour in COLOURS)
_WOULD_BE_COLOUR = tuple(f"{{m}} would be {colour} like {{o}} ." for colour in COLOURS)
_SEES_COLOUR = tuple(f"{{m}} can see that {{o}} is {colour} ." for colour in COLOURS)


def _has(where: str) -> tuple[str, ...]:
    """What somebody has in a neighbouring cell, in the order of SHAPES, nothing last."""
    return tuple(f"{{m}} has {thing} {where} ." for thing in ("a book", "a person", "a kite", "no object"))


_PAIR_BOND = (
    "{m} have the same color and stand side by side .",
    "{m} have the same color but stand far apart .",
    "{m} have different colors but stand side by side .",
    "{m} have different colors and stand far apart .",
)
_THING_BOND = (
    "{m} has the color of {o} and stands beside it .",
    "{m} has the color of {o} but stands apart .",
    "{m} lacks the color of {o} but stands beside it .",
    "{m} lacks the color of {o} and stands apart .",
)

TOPICS = (
    Topic(
        "explanation",
        50,
        _one,
        _colour,
        ("Why is {p} here ?", "Why has {p} come here ?", "How come {p} is here ?"),
        (
            "{m} wants to put out a fire .",
            "{m} wants to rest under a tree .",
            "{m} wants to swim in the sea .",
            "{m} wants to lie in the sun .",
        ),
        _IS_COLOUR,
    ),
    Topic(
        "explanation",
        20,
        _one_and_any,
        _tint,
        ("Why is {p} pointing at {o} ?", "Why is {p} looking at {o} ?"),
        ("{m} wants to warm up .", "{m} wants to calm down .", "{m} wants to cool off .", "{m} wants to wake up ."),
        _SEES_COLOUR,
    ),
    Topic(
        "explanation",
        20,
        _pair,
        _bond,
        ("Why are {g} here ?", "Why are {g} in the same picture ?"),
        ("{m} live together .", "{m} lost each other .", "{m} work together .", "{m} came by chance ."),
        _PAIR_BOND,
    ),
    Topic(
        "explanation",
        10,
        _one_and_thing,
        _bond,
        ("Why are {po} in the same picture ?", "How come {po} are both here ?"),
        ("{m} carries {o} everywhere .", "{m} has lost {o} .", "{m} has just found {o} .", "{m} never noticed {o} ."),
        _THING_BOND,
    ),
    Topic(
        "activity",
        50,
        _one,
        _colour,
        ("What is {p} doing ?", "What is {p} doing right now ?", "What is {p} busy with ?"),
        ("{m} is cooking a meal .", "{m} is cutting the grass .", "{m} is washing the dishes .", "{m} is baking a cake ."),
        _IS_COLOUR,
    ),
    Topic(
        "activity",
        25,
        _one,
        _beside,
        ("What is {p} looking at ?",),
        (
            "{m} is looking at a book .",
            "{m} is looking at a person .",
            "{m} is looking at a kite .",
            "{m} is looking at no object .",
        ),
        _has("on the right"),
    ),
    Topic(
        "activity",
        25,
        _pair,
        _bond,
        ("What are {g} doing ?", "What are {g} doing right now ?"),
        (
            "{m} are dancing together .",
            "{m} are waving at each other .",
            "{m} are working together .",
            "{m} are waiting in silence .",
        ),
        _PAIR_BOND,
    ),
    Topic(
        "temporal",
        35,
        _one,
        _below,
        ("What will {p} do next ?", "What will {p} do later ?", "What will {p} do after this ?"),
        ("{m} will open a book .", "{m} will meet a person .", "{m} will fly a kite .", "{m} will take a nap ."),
        _has("underneath"),
    ),
    Topic(
        "temporal",
        35,
        _one,
        _above,
        ("What did {p} do before this ?", "What did {p} do earlier ?"),
        ("{m} read a book .", "{m} met a person .", "{m} flew a kite .", "{m} took a nap ."),
        _has("overhead"),
    ),
    Topic(
        "temporal",
        30,
        _pair,
        _bond,
        ("What will {g} do next ?", "What will {g} do after this ?"),
        ("{m} will go home together .", "{m} will find each other .", "{m} will say goodbye .", "{m} will never meet again ."),
        _PAIR_BOND,
    ),
    Topic(
        "mental",
        70,
        _one,
        _colour,
        ("What is {p} feeling ?", "How is {p} feeling ?"),
        tuple(f"{{m}} is {mood} ." for mood in _MOODS),
        _IS_COLOUR,
    ),
    Topic(
        "mental",
        30,
        _group,
        _colour,
        ("What are {g} feeling ?", "How are {g} feeling ?"),
        tuple(f"{{m}} are {mood} ." for mood in _MOODS),
        _ARE_COLOUR,
    ),
    Topic(
        "role",
        40,
        _one,
        _colour,
        ("What is the occupation of {p} ?", "What is {p} 's occupation ?"),
        ("{m} is a firefighter .", "{m} is a gardener .", "{m} is a sailor .", "{m} is a baker ."),
        _IS_COLOUR,
    ),
    Topic(
        "role",
        30,
        _pair,
        _bond,
        ("What is the relation between {g} ?", "Are {g} married or strangers ?"),
        ("{m} are married .", "{m} are cousins .", "{m} are colleagues .", "{m} are strangers ."),
        _PAIR_BOND,
    ),
    Topic(
        "role",
        30,
        _pair,
        _bond,
        ("What is the relation between {p} and {q} ?",),
        ("{m} are married .", "{m} are cousins .", "{m} are colleagues .", "{m} are strangers ."),
        _PAIR_BOND,
    ),
    Topic(
        "scene",
        70,
        _one,
        _place,
        ("Where is {p} ?", "Where is {p} standing ?"),
        tuple(f"{{m}} is {row} {column} ." for row in _ROWS for column in _COLUMNS),
        tuple(f"{{m}} is in row {row} and column {column} ." for row in _ORDINALS for column in _ORDINALS),
    ),
    Topic(
        "scene",
        30,
        _group,
        _row,
        ("Where are {g} ?", "Where are {g} standing ?"),
        tuple(f"{{m}} are {row} ." for row in (*_ROWS, "at different heights")),
        ("{m} share row one .", "{m} share row two .", "{m} share row three .", "{m} share no row ."),
    ),
    Topic(
        "hypothetical",
        75,
        _one_and_any,
        _tint,
        ("If {p} had the color of {o} , how would {p} feel ?", "How would {p} feel if {he} had the color of {o} ?"),
        tuple(f"{{m}} would be {mood} ." for mood in _MOODS),
        _WOULD_BE_COLOUR,
    ),
    Topic(
        "hypothetical",
        25,
        _pair_and_any,
        _tint,
        ("How would {g} feel if they had the color of {o} ?",),
        tuple(f"{{m}} would be {mood} ." for mood in _MOODS),
        _WOULD_BE_COLOUR,
    ),
)
