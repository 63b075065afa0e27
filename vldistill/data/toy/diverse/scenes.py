"""The second toy world: scenes of 6 colours and 4 shapes whose look has a style, from plain to wild.

A scene has 3 to 6 objects, each in a cell of its own of a 3x3 grid of 12x12 pixels. style in [0, 1] scales everything that means
nothing: rotation, place and size of an object, its shade, the background and the pixels' noise. Paired data is plain and images
without texts are wild, as a caption set is narrow and the images of a vision encoder are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vldistill.data.toy.world import CELL, CELLS, GRID, PIXELS

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


_INSIDE = {
    "square": lambda x, y: (abs(x) <= 0.86) & (abs(y) <= 0.86),
    "circle": lambda x, y: x * x + y * y <= 1,
    "triangle": lambda x, y: (y <= 0.7) & (2 * abs(x) <= (y + 1.1) * 1.1),
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) <= 0.3) & (np.maximum(abs(x), abs(y)) <= 1.1),
}
"""Of points in units of the radius, y downwards."""
