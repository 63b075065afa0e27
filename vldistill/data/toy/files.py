"""How the toy world's files are written: pictures encoded once and for all, JSON and text with one kind of line end.

JPEGs are stored at quality 95 without chroma subsampling and PNGs uncompressed (at 36x36 pixels a file fills one disk
block either way, and its bytes then do not depend on the zlib at hand).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from vldistill.data.toy.world import Scene, render

ID_BLOCK = 1_000_000
"""Image numbers of a split begin at a multiple of it, so that no two splits share one."""

_BATCH = 256
T = TypeVar("T")


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


def write_json(path: Path, value: Any) -> None:
    write_lines(path, [json.dumps(value)])


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_lines(path, map(json.dumps, rows))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8", newline="\n")
