"""The second toy world: scenes whose look has a style, from plain to wild, six words for each colour and shape, and its data
sets, written as JSONL of a user's own.

A scene has 3 to 6 objects, each in a cell of its own of a 3x3 grid of 12x12 pixels. style in [0, 1] scales everything that means
nothing: rotation, place and size of an object, its shade, the background and the pixels' noise. Paired data is plain and images
without texts are wild, as a caption set is narrow and the images of a vision encoder are not. Captions know the plain word
alone. Text without images uses every word and says how they hang together, as a language model has read what no caption says.

The task asks questions of five types in words that captions mostly lack. The types fall into five of the eight groups by which
VQA's low-shot sets are drawn, so that the same rule draws them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vldistill.data.toy.world import CELL, CELLS, GRID, PIXELS, batches, encode, generator, read_words, write_jsonl, write_picture

TYPES = ("both", "colour", "shape", "colour of", "shape of")
_WORDS = read_words("diverse_words.yaml")
SYNONYMS: dict[str, list[str]] = _WORDS["synonyms"]
"""The words of each concept; the first is the plain one, which answers are given in."""
COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
SHAPES = ("square", "circle", "triangle", "cross")
FEWEST, MOST = 3, 6
_RGB = np.array([(222, 48, 48), (44, 168, 68), (66, 104, 240), (240, 214, 52), (158, 66, 196), (236, 236, 236)], np.float64)
_BACKGROUND = 20.0
_FINE = 4  # sub-samples along a pixel's side, for smooth edges
_TURN, _MOVE, _GROW, _SHADE, _BACKDROP, _NOISE = np.pi, 1.6, 0.22, 34.0, 44.0, 22.0
"""At style 1: the largest turn (radians), shift (pixels), change of size (a share), change of a colour channel, of the background
(0-255), and the standard deviation of the pixels' noise."""
_RADIUS = 4.2
_INSIDE = {
    "square": lambda x, y: (abs(x) <= 0.86) & (abs(y) <= 0.86),
    "circle": lambda x, y: x * x + y * y <= 1,
    "triangle": lambda x, y: (y <= 0.7) & (2 * abs(x) <= (y + 1.1) * 1.1),
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) <= 0.3) & (np.maximum(abs(x), abs(y)) <= 1.1),
}
"""Of points in units of the radius, y downwards."""
PLAIN, TASK, WILD = 0.0, 0.2, 1.0
"""Styles of the captioned images, of the task's and of those without text. The task's is mild: its student answers 99 % in plain
words about plain images, 81 % in other words, 76 % of plain words at 0.4, and 55 % with both, where little can be told apart."""
TASK_WORDS = 3
"""Words for a concept that the task's questions use, of six."""
DIVERSE_SIZES: dict[str, dict[str, int]] = {
    "diverse_captions": {"train": 30_000, "val": 500},
    "diverse_images": {"train": 20_000, "val": 500},
    "diverse_texts": {"train": 50_000, "val": 1_000},
    "diverse_vqa": {"train": 6_000, "val": 500, "test": 1_500},
}
"""Lines of each split."""
JSONL_TASKS = {"diverse_captions": "caption", "diverse_images": None, "diverse_texts": "text", "diverse_vqa": None}
"""The task that each is prepared for; None where its lines say so."""


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
    told = "yes" if yes else "no"
    while True:
        scene = draw_scene(rng)
        colour, shape = int(rng.integers(len(COLOURS))), int(rng.integers(len(SHAPES)))
        named = {"colour": word(rng, COLOURS[colour], known), "shape": word(rng, SHAPES[shape], known)}
        if kind == "both" and scene.has(colour, shape) == yes:
            return scene, DiverseQuestion(f"is there a {named['colour']} {named['shape']} ?", told, kind)
        if kind == "colour" and scene.has(colour, None) == yes:
            return scene, DiverseQuestion(f"can you see something {named['colour']} ?", told, kind)
        if kind == "shape" and scene.has(None, shape) == yes:
            return scene, DiverseQuestion(f"any {named['shape']} in the picture ?", told, kind)
        if kind == "colour of" and (scene.shapes == shape).sum() == 1:
            answer = COLOURS[scene.colours[scene.shapes == shape][0]]
            return scene, DiverseQuestion(f"what color is the {named['shape']} ?", answer, kind)
        if kind == "shape of" and (scene.colours == colour).sum() == 1:
            answer = SHAPES[scene.shapes[scene.colours == colour][0]]
            return scene, DiverseQuestion(f"which shape is the {named['colour']} object ?", answer, kind)


def _drawn(rng: np.random.Generator, sentences: str) -> str:
    return _WORDS[sentences][rng.integers(len(_WORDS[sentences]))]


def word(rng: np.random.Generator, concept: str, known: int) -> str:
    """One of the first `known` words of a colour or shape."""
    return SYNONYMS[concept][rng.integers(known)]


def caption(rng: np.random.Generator, scene: DiverseScene, known: int = 1) -> str:
    """A true sentence about one to three objects."""
    chosen = rng.permutation(len(scene))[: rng.integers(1, 4)]
    phrases = [f"a {word(rng, COLOURS[scene.colours[i]], known)} {word(rng, SHAPES[scene.shapes[i]], known)}" for i in chosen]
    return _drawn(rng, "captions").format(" and ".join(phrases))


def texts(rng: np.random.Generator, count: int, known: int = 6) -> Iterator[str]:
    """Sentences without an image: a third says what words share, the others are about things, each with a second word for one."""
    concepts = list(SYNONYMS)
    for _ in range(count):
        kind = rng.integers(3)
        if kind == 0:
            one, other = rng.permutation(known)[:2]
            concept = SYNONYMS[concepts[rng.integers(len(concepts))]]
            yield _drawn(rng, "knowledge").format(a=concept[one], b=concept[other])
            continue
        colour, shape = COLOURS[rng.integers(len(COLOURS))], SHAPES[rng.integers(len(SHAPES))]
        about, templates = ((colour, "colour_texts"), (shape, "shape_texts"))[kind - 1]
        yield _drawn(rng, templates).format(c=word(rng, colour, known), s=word(rng, shape, known), b=word(rng, about, known))


@dataclass(frozen=True)
class DiverseScene:
    """colours, shapes: [N] indices of its objects; cells: [N] where each stands, in reading order of the grid."""

    colours: np.ndarray
    shapes: np.ndarray
    cells: np.ndarray

    def __len__(self) -> int:
        return len(self.colours)

    def has(self, colour: int | None, shape: int | None) -> bool:
        """Whether an object of this colour and shape is there; None leaves one open."""
        fits = np.ones(len(self), bool)
        if colour is not None:
            fits &= self.colours == colour
        if shape is not None:
            fits &= self.shapes == shape
        return bool(fits.any())


def draw_scene(rng: np.random.Generator) -> DiverseScene:
    """Objects drawn each by itself."""
    count = int(rng.integers(FEWEST, MOST + 1))
    return DiverseScene(
        rng.integers(len(COLOURS), size=count), rng.integers(len(SHAPES), size=count), rng.permutation(CELLS)[:count]
    )


def render(rng: np.random.Generator, scenes: Sequence[DiverseScene], style: float) -> np.ndarray:
    """[N, 36, 36, 3] uint8 pictures."""
    backdrop = _BACKGROUND + style * _BACKDROP * rng.random((len(scenes), 1, 1, 3))
    canvas = np.broadcast_to(backdrop, (len(scenes), PIXELS, PIXELS, 3)).copy()
    row = np.repeat(np.arange(len(scenes)), [len(scene) for scene in scenes])
    colours = np.concatenate([scene.colours for scene in scenes])
    shapes = np.concatenate([scene.shapes for scene in scenes])
    top, left = CELL * np.stack(np.divmod(np.concatenate([scene.cells for scene in scenes]), GRID))

    def either_way(*shape: int) -> np.ndarray:
        return style * (2 * rng.random((len(row), *shape)) - 1)

    covered = _coverage(
        shapes, turn=_TURN * either_way(), move=_MOVE * either_way(2), radius=_RADIUS * (1 + _GROW * either_way())
    )
    shade = np.clip(_RGB[colours] + _SHADE * either_way(3), 0, 255)
    for place, scene in enumerate(row):
        window = canvas[scene, top[place] : top[place] + CELL, left[place] : left[place] + CELL]
        window += covered[place][..., None] * (shade[place] - window)
    canvas += style * _NOISE * rng.standard_normal(canvas.shape, dtype=np.float32)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def _coverage(shapes: np.ndarray, *, turn: np.ndarray, move: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """[N, 12, 12] share of each pixel that an object covers. move: [N, 2] down and right."""
    places = ((np.arange(CELL * _FINE) + 0.5) / _FINE - CELL / 2).astype(np.float32)
    inside = np.empty((len(shapes), CELL * _FINE, CELL * _FINE), bool)
    for place, (shape, (down, right)) in enumerate(zip(shapes, move.astype(np.float32), strict=True)):
        # Object by object, since the points of many would leave the processor's cache.
        y, x = (places - down)[:, None], (places - right)[None, :]
        cosine, sine = np.float32(np.cos(turn[place]) / radius[place]), np.float32(np.sin(turn[place]) / radius[place])
        inside[place] = _INSIDE[SHAPES[shape]](cosine * x + sine * y, cosine * y - sine * x)
    return inside.reshape(-1, CELL, _FINE, CELL, _FINE).mean(axis=(2, 4), dtype=np.float32)


def _captions(seed: int, split: str, size: int) -> Iterator[tuple[DiverseScene | None, dict[str, Any]]]:
    rng = generator(seed, split, "diverse captions")
    for _ in range(size):
        scene = draw_scene(rng)
        yield scene, {"text": caption(rng, scene)}


def _images(seed: int, split: str, size: int) -> Iterator[tuple[DiverseScene | None, dict[str, Any]]]:
    rng = generator(seed, split, "diverse images")
    for _ in range(size):
        scene = draw_scene(rng)
        yield scene, {"tags": tags(scene)}


def _texts(seed: int, split: str, size: int) -> Iterator[tuple[DiverseScene | None, dict[str, Any]]]:
    for text in texts(generator(seed, split, "diverse texts"), size):
        yield None, {"text": text}


def _questions(seed: int, split: str, size: int) -> Iterator[tuple[DiverseScene | None, dict[str, Any]]]:
    for scene, question in ask(generator(seed, split, "diverse vqa"), size, TASK_WORDS):
        yield scene, {"text": question.text, "answer": question.answer, "type": question.type}


def tags(scene: DiverseScene) -> list[str]:
    """What is there: colours, shapes, and pairs of them."""
    pairs = {f"{COLOURS[c]} {SHAPES[s]}" for c, s in zip(scene.colours, scene.shapes, strict=True)}
    return sorted({COLOURS[c] for c in scene.colours} | {SHAPES[s] for s in scene.shapes} | pairs)


Draw = Callable[[int, str, int], Iterable[tuple[DiverseScene | None, dict[str, Any]]]]


def _write(folder: Path, seed: int, splits: Mapping[str, int], *, draw: Draw, style: float) -> dict[str, int]:
    for split, size in splits.items():
        looks = generator(seed, split, f"diverse look {draw.__name__}")
        rows = _rows(folder, split, draw(seed, split, size), style, looks)
        write_jsonl(folder / f"{split}.jsonl", rows)
    return dict(splits)


def _rows(
    folder: Path,
    split: str,
    drawn: Iterable[tuple[DiverseScene | None, dict[str, Any]]],
    style: float,
    looks: np.random.Generator,
) -> Iterator[dict[str, Any]]:
    """The lines, whose images are written on the way."""
    number = 0
    for batch in batches(drawn):
        scenes = [scene for scene, _ in batch if scene is not None]
        pictures = iter(render(looks, scenes, style)) if scenes else iter(())
        for scene, row in batch:
            number += 1
            if scene is None:
                yield row
                continue
            path = Path(split) / f"{number // 1000:03d}" / f"{number:06d}.jpg"
            write_picture(folder / path, encode(next(pictures), "JPEG"))
            yield {"image": path.as_posix(), **row}


DIVERSE_WRITERS: dict[str, Callable[[Path, int, Mapping[str, int]], dict[str, int]]] = {
    "diverse_captions": partial(_write, draw=_captions, style=PLAIN),
    "diverse_images": partial(_write, draw=_images, style=WILD),
    "diverse_texts": partial(_write, draw=_texts, style=PLAIN),
    "diverse_vqa": partial(_write, draw=_questions, style=TASK),
}
