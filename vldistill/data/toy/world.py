"""The toy world: scenes of coloured shapes on a 3x3 grid, the noun phrases that pick objects out, their pictures and outlines,
and how files of them are written.

A scene has nine cells of 12x12 pixels; a cell is empty or holds one object, one of 12 kinds (3 shapes x 4 colours), in one of 2
sizes and 9 offsets inside its cell, which mean nothing. One cell may be covered by a grey hatch. A filter is a noun phrase: a
colour ("red objects"), a shape ("circles") or both ("red circles"), 19 in all.

Pictures are looked up in a bank of sprites computed in integers, and every draw comes from one generator seeded by (seed, split,
task): the same seed gives the same pixels on any machine. JPEGs are stored at quality 95 without chroma subsampling and PNGs
uncompressed (at 36x36 pixels a file fills one disk block either way, and its bytes then do not depend on the zlib at hand).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from vldistill.errors import Problems
from vldistill.recipe.strict_yaml import parse_yaml

SHAPES = ("square", "circle", "triangle")
COLOURS = ("red", "green", "blue", "yellow")
KINDS = len(SHAPES) * len(COLOURS)
"""A kind is `shape index * len(COLOURS) + colour index`."""
EMPTY = -1
GRID, CELL = 3, 12
CELLS, PIXELS = GRID * GRID, GRID * CELL
SIZES, JITTERS = 2, 9
_RGB = {"red": (222, 48, 48), "green": (52, 178, 76), "blue": (66, 104, 240), "yellow": (240, 214, 52)}
_BACKGROUND = (18, 18, 22)
_HATCH = ((150, 150, 150), (84, 84, 84))
_FINE = 16  # sub-samples along a pixel's side, for smooth edges
_RADIUS = (58, 76)  # of the two sizes, in 1/_FINE pixel; with an offset of one pixel the larger one still fits its cell
Point = tuple[int, int]
ID_BLOCK = 1_000_000
"""Image numbers of a split begin at a multiple of it, so that no two splits share one."""
_BATCH = 256
T = TypeVar("T")


@dataclass(frozen=True)
class Filter:
    """A noun phrase and what it picks out. `shape` or `colour` is None where the phrase leaves it open."""

    shape: int | None
    colour: int | None

    @property
    def singular(self) -> str:
        """`red object`, `circle`, `red circle`."""
        noun = "object" if self.shape is None else SHAPES[self.shape]
        return noun if self.colour is None else f"{COLOURS[self.colour]} {noun}"

    @property
    def plural(self) -> str:
        """`red objects`, `circles`, `red circles`."""
        return self.singular + "s"

    def matches(self, kind: int) -> bool:
        """Whether an object of this kind is picked out."""
        shape, colour = divmod(kind, len(COLOURS))
        return self.shape in (None, shape) and self.colour in (None, colour)


COLOUR_FILTERS = tuple(Filter(None, c) for c in range(len(COLOURS)))
SHAPE_FILTERS = tuple(Filter(s, None) for s in range(len(SHAPES)))
KIND_FILTERS = tuple(Filter(s, c) for s in range(len(SHAPES)) for c in range(len(COLOURS)))  # position = kind
FILTERS = COLOUR_FILTERS + SHAPE_FILTERS + KIND_FILTERS
_MATCHES = np.array([[f.matches(kind) for kind in range(KINDS)] for f in FILTERS], dtype=np.int64)


@dataclass(frozen=True)
class Scene:
    """Nine cells in reading order. `kinds`, `sizes`, `jitters`: [9] integers (`kinds` is EMPTY where nothing stands,
    the other two mean nothing there); `covered`: the hatched cell, or None."""

    kinds: np.ndarray
    sizes: np.ndarray
    jitters: np.ndarray
    covered: int | None = None

    def visible(self) -> np.ndarray:
        """The kinds of the objects that can be seen, in reading order."""
        mask = self.kinds != EMPTY
        if self.covered is not None:
            mask[self.covered] = False
        return self.kinds[mask]

    def counts(self) -> np.ndarray:
        """[19] visible objects that each of FILTERS picks out."""
        return _MATCHES @ np.bincount(self.visible(), minlength=KINDS)


def generator(seed: int, split: str, task: str) -> np.random.Generator:
    """The only source of chance of one split of one task. PCG64 is named, since numpy may change its default."""
    key = [seed, *f"{split}/{task}".encode()]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def place(rng: np.random.Generator, kinds: Sequence[int] | np.ndarray, *, cover: bool = False) -> Scene:
    """Puts objects of these kinds into cells drawn at random, with random sizes and offsets.

    `cover` leaves one cell drawn at random for the hatch, so that `kinds` are exactly the visible objects; something
    may stand under it or not, which nobody can tell.
    """
    cells = rng.permutation(CELLS)
    grid = np.full(CELLS, EMPTY)
    grid[cells[: len(kinds)]] = kinds
    covered = int(cells[-1]) if cover else None
    if covered is not None and rng.integers(2):
        grid[covered] = rng.integers(KINDS)
    return Scene(grid, rng.integers(SIZES, size=CELLS), rng.integers(JITTERS, size=CELLS), covered)


def draw_kinds(rng: np.random.Generator, low: int, high: int) -> np.ndarray:
    """The kinds of `low` to `high` objects, each drawn by itself."""
    return rng.integers(KINDS, size=rng.integers(low, high + 1))


def _inside(shape: str, x: np.ndarray, y: np.ndarray, radius: int) -> np.ndarray:
    """Whether points lie in a shape around (0, 0), y downwards; a triangle stands on its base."""
    if shape == "square":
        side = radius * 9 // 10
        return (abs(x) <= side) & (abs(y) <= side)
    if shape == "circle":
        return x * x + y * y <= radius * radius
    return (y <= radius) & (2 * abs(x) <= y + radius)


@cache
def _sprites() -> np.ndarray:
    """[KINDS + 2, SIZES, JITTERS, 12, 12, 3] uint8: the kinds, then an empty cell, then the hatch."""
    bank = np.empty((KINDS + 2, SIZES, JITTERS, CELL, CELL, 3), dtype=np.uint8)
    bank[KINDS] = _BACKGROUND
    row, column = np.mgrid[:CELL, :CELL]
    bank[KINDS + 1] = np.where(((row + column) % 4 < 2)[..., None], *np.array(_HATCH))
    # Odd positions are the centres of sub-samples in units of half of one.
    y, x = np.mgrid[1 : 2 * CELL * _FINE : 2, 1 : 2 * CELL * _FINE : 2] - CELL * _FINE
    background = np.array(_BACKGROUND)
    for size, radius in enumerate(_RADIUS):
        for jitter in range(JITTERS):
            down, right = (2 * _FINE * (step - 1) for step in divmod(jitter, 3))
            for s, shape in enumerate(SHAPES):
                inside = _inside(shape, x - right, y - down, 2 * radius)
                covered = inside.reshape(CELL, _FINE, CELL, _FINE).sum(axis=(1, 3))[..., None]
                for c, colour in enumerate(COLOURS):
                    blend = covered * np.array(_RGB[colour]) + (_FINE * _FINE - covered) * background
                    bank[s * len(COLOURS) + c, size, jitter] = blend // (_FINE * _FINE)
    return bank


def render(scenes: Sequence[Scene]) -> np.ndarray:
    """[N, 36, 36, 3] uint8 pictures of N scenes, without noise (training adds its own)."""
    kinds = np.stack([scene.kinds for scene in scenes])
    kinds[kinds == EMPTY] = KINDS
    for i, scene in enumerate(scenes):
        if scene.covered is not None:
            kinds[i, scene.covered] = KINDS + 1
    sizes, jitters = (np.stack([getattr(scene, name) for scene in scenes]) for name in ("sizes", "jitters"))
    tiles = _sprites()[kinds, sizes, jitters].reshape(-1, GRID, GRID, CELL, CELL, 3)
    return tiles.transpose(0, 1, 3, 2, 4, 5).reshape(-1, PIXELS, PIXELS, 3)


def outline(scene: Scene, cell: int) -> list[list[int]]:
    """The corners [[x, y], ...] of the polygon around the object in a cell that holds one and is not covered."""
    down, right = divmod(cell, GRID)
    corners = _hull(int(scene.kinds[cell]), int(scene.sizes[cell]), int(scene.jitters[cell]))
    return [[right * CELL + x, down * CELL + y] for x, y in corners]


def extent(polygon: list[list[int]]) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) around a polygon."""
    xs, ys = zip(*polygon, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


@cache
def _hull(kind: int, size: int, jitter: int) -> tuple[Point, ...]:
    """The polygon around an object in the cell at the top left."""
    kinds = np.full(CELLS, EMPTY)
    kinds[0] = kind
    picture = render([Scene(kinds, np.full(CELLS, size), np.full(CELLS, jitter))])[0]
    # The last cell is empty.
    rows, columns = np.nonzero((picture != picture[-1, -1]).any(axis=-1))
    corners = sorted({(int(x) + i, int(y) + j) for x, y in zip(columns, rows, strict=True) for i in (0, 1) for j in (0, 1)})
    return (*_chain(corners), *_chain(corners[::-1]))


def _chain(points: list[Point]) -> list[Point]:
    """Half of a convex hull (Andrew's monotone chain) of sorted points, without its last one."""
    chain: list[Point] = []
    for point in points:
        while len(chain) > 1 and _turn(chain[-2], chain[-1], point) <= 0:
            chain.pop()
        chain.append(point)
    return chain[:-1]


def _turn(a: Point, b: Point, c: Point) -> int:
    """Positive, zero or negative as the way from a by b to c bends one way, not at all or the other way."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def batches(items: Iterable[T]) -> Iterator[list[T]]:
    """The items in lists of a few hundred, in order."""
    items = iter(items)
    while batch := list(islice(items, _BATCH)):
        yield batch


def encode(pixels: np.ndarray, kind: str) -> bytes:
    """A picture [H, W, 3] uint8 as the content of a file of this kind, "JPEG" or "PNG"."""
    buffer, options = io.BytesIO(), {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"compress_level": 0}
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def illustrated(examples: Iterable[tuple[Scene, T]]) -> Iterator[tuple[bytes, Scene, T]]:
    """Adds each scene's JPEG; scenes are drawn by the batch."""
    for batch in batches(examples):
        for pixels, (scene, rest) in zip(render([scene for scene, _ in batch]), batch, strict=True):
            yield encode(pixels, "JPEG"), scene, rest


def read_words(name: str) -> Any:
    """A YAML file beside this one: words of the toy worlds. Raises InputError where it is not as it should be."""
    problems = Problems()
    words, _ = parse_yaml(resources.files("vldistill.data.toy").joinpath(name).read_text(encoding="utf-8"), name, problems)
    problems.raise_if_any(name)
    return words


def write_picture(path: Path, content: bytes) -> None:
    """Makes its folders, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    write_lines(path, [json.dumps(value)])


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_lines(path, map(json.dumps, rows))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8", newline="\n")
