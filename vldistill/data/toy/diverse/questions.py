"""The second toy world's task: questions of five types about one scene, in words that captions mostly lack.

The types fall into five of the eight groups by which VQA's low-shot sets are drawn, so that the same rule draws them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vldistill.data.toy.diverse.scenes import COLOURS, SHAPES, DiverseScene, draw_scene
from vldistill.data.toy.diverse.words import word

TYPES = ("both", "colour", "shape", "colour of", "shape of")


@dataclass(frozen=True)
class DiverseQuestion:
    """type: one of TYPES: whether an object of a colour and shape, of a colour, of a shape is there; the colour of the only
    object of a shape, the shape of the only one of a colour."""

    text: str
    answer: str
    type: str


def ask(rng: np.random.Generator, count: int, known: int) -> Iterator[tuple[DiverseScene, DiverseQuestion]]:
    """`count` scenes with one question each, the types in turn; half of the yes-or-no questions are answered with yes. known:
    words in use for a concept."""
    for number in range(count):
        yield _ask(rng, TYPES[number % len(TYPES)], known, yes=number // len(TYPES) % 2 == 0)


def _ask(rng: np.random.Generator, kind: str, known: int, *, yes: bool) -> tuple[DiverseScene, DiverseQuestion]:
    while True:
        scene = draw_scene(rng)
        colour, shape = int(rng.integers(len(COLOURS))), int(rng.integers(len(SHAPES)))
        named = {"colour": word(rng, COLOURS[colour], known), "shape": word(rng, SHAPES[shape], known)}
        if kind == "both" and scene.has(colour, shape) == yes:
            return scene, DiverseQuestion(f"is there a {named['colour']} {named['shape']} ?", _told(yes), kind)
        if kind == "colour" and scene.has(colour, None) == yes:
            return scene, DiverseQuestion(f"can you see something {named['colour']} ?", _told(yes), kind)
        if kind == "shape" and scene.has(None, shape) == yes:
            return scene, DiverseQuestion(f"any {named['shape']} in the picture ?", _told(yes), kind)
        if kind == "colour of" and (scene.shapes == shape).sum() == 1:
            answer = COLOURS[scene.colours[scene.shapes == shape][0]]
            return scene, DiverseQuestion(f"what color is the {named['shape']} ?", answer, kind)
        if kind == "shape of" and (scene.colours == colour).sum() == 1:
            answer = SHAPES[scene.shapes[scene.colours == colour][0]]
            return scene, DiverseQuestion(f"which shape is the {named['colour']} object ?", answer, kind)


def _told(yes: bool) -> str:
    return "yes" if yes else "no"
