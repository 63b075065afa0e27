"""Writes the second toy world's data sets as JSONL of a user's own, each line as `prepare jsonl` reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vldistill.data.toy.diverse.questions import ask
from vldistill.data.toy.diverse.scenes import COLOURS, SHAPES, DiverseScene, draw_scene, render
from vldistill.data.toy.diverse.words import caption, texts
from vldistill.data.toy.files import batches, encode, write_jsonl
from vldistill.data.toy.world import generator

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
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(encode(next(pictures), "JPEG"))
            yield {"image": path.as_posix(), **row}


DIVERSE_WRITERS: dict[str, Callable[[Path, int, Mapping[str, int]], dict[str, int]]] = {
    "diverse_captions": partial(_write, draw=_captions, style=PLAIN),
    "diverse_images": partial(_write, draw=_images, style=WILD),
    "diverse_texts": partial(_write, draw=_texts, style=PLAIN),
    "diverse_vqa": partial(_write, draw=_questions, style=TASK),
}
