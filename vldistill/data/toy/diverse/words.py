"""The second toy world's language: six words for each colour and shape, captions in one of them, and text without images in all.

Captions know the plain word alone. Text without images uses every word and says how they hang together, as a language model has
read what no caption says.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vldistill.data.toy.diverse.scenes import COLOURS, SHAPES, DiverseScene

SYNONYMS = {
    "red": ("red", "crimson", "scarlet", "ruby", "cherry", "vermilion"),
    "green": ("green", "emerald", "jade", "olive", "lime", "mossy"),
    "blue": ("blue", "azure", "navy", "cobalt", "sapphire", "indigo"),
    "yellow": ("yellow", "golden", "lemon", "amber", "mustard", "canary"),
    "purple": ("purple", "violet", "mauve", "lilac", "plum", "lavender"),
    "white": ("white", "ivory", "snowy", "pearl", "chalky", "milky"),
    "square": ("square", "box", "block", "tile", "cube", "crate"),
    "circle": ("circle", "disc", "ring", "ball", "dot", "coin"),
    "triangle": ("triangle", "wedge", "pyramid", "arrowhead", "cone", "delta"),
    "cross": ("cross", "plus", "rood", "saltire", "crucifix", "crossbar"),
}
"""The words of each concept; the first is the plain one, which answers are given in."""

_CAPTIONS = ("{}", "there is {}", "a picture of {}", "we see {}")
_KNOWLEDGE = (
    "{a} means the same as {b}",
    "{a} is another word for {b}",
    "what is {a} is also {b}",
    "{a} or {b} , both say the same",
)
_COLOUR_TEXTS = (
    "the {c} {s} is {b}",
    "a {c} {s} looks {b}",
    "is there a {c} {s} ? yes , something {b} is there",
    "can you see something {c} ? yes , it is {b}",
    "which shape is the {c} object ? the {b} one is a {s}",
)
_SHAPE_TEXTS = (
    "the {c} {s} is a {b}",
    "any {s} in the picture ? yes , a {b} is there",
    "what color is the {s} ? the {b} is {c}",
    "a {s} of {c} color is a {b}",
    "a {s} has the form of a {b}",
)


def word(rng: np.random.Generator, concept: str, known: int) -> str:
    """One of the first `known` words of a colour or shape."""
    return SYNONYMS[concept][rng.integers(known)]


def caption(rng: np.random.Generator, scene: DiverseScene, known: int = 1) -> str:
    """A true sentence about one to three objects."""
    chosen = rng.permutation(len(scene))[: rng.integers(1, 4)]
    phrases = [f"a {word(rng, COLOURS[scene.colours[i]], known)} {word(rng, SHAPES[scene.shapes[i]], known)}" for i in chosen]
    return _CAPTIONS[rng.integers(len(_CAPTIONS))].format(" and ".join(phrases))


def texts(rng: np.random.Generator, count: int, known: int = 6) -> Iterator[str]:
    """Sentences without an image: a third says what words share, the others are about things, each with a second word for one."""
    concepts = list(SYNONYMS)
    for _ in range(count):
        kind = rng.integers(3)
        if kind == 0:
            one, other = rng.permutation(known)[:2]
            concept = SYNONYMS[concepts[rng.integers(len(concepts))]]
            yield _KNOWLEDGE[rng.integers(len(_KNOWLEDGE))].format(a=concept[one], b=concept[other])
            continue
        colour, shape = COLOURS[rng.integers(len(COLOURS))], SHAPES[rng.integers(len(SHAPES))]
        about, templates = ((colour, _COLOUR_TEXTS), (shape, _SHAPE_TEXTS))[kind - 1]
        yield templates[rng.integers(len(templates))].format(
            c=word(rng, colour, known), s=word(rng, shape, known), b=word(rng, about, known)
        )
