"""What the toy VCR asks: topics (`vcr_topics.yaml`), each with a fact that the picture decides and words for every outcome of it.

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

from vldistill.data.toy.world import CELLS, COLOURS, EMPTY, GRID, SHAPES, Scene, read_words

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
    """One entry of the table.

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
    questions: list[str]
    answers: list[str]
    rationales: list[str]


_SUBJECTS = {
    "one": _one,
    "pair": _pair,
    "group": _group,
    "one_and_thing": _one_and_thing,
    "one_and_any": _one_and_any,
    "pair_and_any": _pair_and_any,
}
_FACTS = {
    "colour": _colour,
    "tint": _tint,
    "place": _place,
    "row": _row,
    "beside": _beside,
    "below": _below,
    "above": _above,
    "bond": _bond,
}


TOPICS = tuple(
    Topic(**{**row, "subjects": _SUBJECTS[row["subjects"]], "fact": _FACTS[row["fact"]]}) for row in read_words("vcr_topics.yaml")
)
