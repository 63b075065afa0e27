"""Where an object stands in its picture: the polygon around its pixels, in pixels from the picture's top left corner.

It is read off the picture itself: the convex hull of the pixels that the object lights, edges included, so that it
encloses them all. The three shapes are convex.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from vldistill.data.toy.world import CELL, CELLS, EMPTY, GRID, Scene, render

Point = tuple[int, int]


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
