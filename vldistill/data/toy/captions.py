"""Writes the toy world in the raw layouts of caption data: Karpathy's COCO and Flickr30K, Conceptual Captions, SBU and
Visual Genome.

Conceptual Captions and SBU are lists of addresses; their pictures lie where img2dataset's "files" output puts them, in
folders of 10,000 named by their line, and a few are missing, as dead links are.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vldistill.data.toy import tasks
from vldistill.data.toy.files import ID_BLOCK, illustrated, write_json, write_lines
from vldistill.data.toy.outlines import extent, outline
from vldistill.data.toy.world import CELLS, EMPTY, KIND_FILTERS, Scene, draw_kinds, generator, place

SHARD = 10_000
"""Pictures in a folder of img2dataset."""

DEAD = 25
"""One link in so many is dead, one at least."""

_GCC = {"train": ("Train_GCC-training.tsv", "training"), "val": ("Validation_GCC-1.1.0-Validation.tsv", "validation")}
_PHRASES = ("{}", "a {}", "the {}", "a {} on a dark background", "this is a {}")


def write_karpathy(folder: Path, seed: int, splits: Mapping[str, int], *, dataset: str) -> dict[str, int]:
    """`dataset_<dataset>.json` and the folders of pictures of "coco" or "flickr30k", with five captions a picture.
    Returns captions by split."""
    written: dict[str, int] = {}
    images: list[dict[str, Any]] = []
    for block, (split, size) in enumerate(splits.items(), start=1):
        examples = illustrated(tasks.describe(generator(seed, split, dataset), size))
        for number, (content, _, captions) in enumerate(examples, start=block * ID_BLOCK):
            imgid = len(images)
            names, ids = _karpathy_names(dataset, split, number)
            path = folder / names.get("filepath", "flickr30k-images") / names["filename"]
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            sentids = [imgid * len(captions) + i for i in range(len(captions))]
            sentences = [
                {"raw": raw, "tokens": raw.replace(",", "").split(), "imgid": imgid, "sentid": sentid}
                for raw, sentid in zip(captions, sentids, strict=True)
            ]
            images.append({**names, "split": split, "imgid": imgid, **ids, "sentids": sentids, "sentences": sentences})
            written[split] = written.get(split, 0) + len(captions)
    write_json(folder / f"dataset_{dataset}.json", {"images": images, "dataset": dataset})
    return written


write_coco, write_flickr30k = partial(write_karpathy, dataset="coco"), partial(write_karpathy, dataset="flickr30k")


def _karpathy_names(dataset: str, split: str, number: int) -> tuple[dict[str, str], dict[str, int]]:
    """The fields that say where a picture lies, and those with COCO's own number of it."""
    if dataset == "flickr30k":
        return {"filename": f"{number}.jpg"}, {}
    # Karpathy's test pictures come from COCO's val2014, as his val pictures do.
    year = "train2014" if split == "train" else "val2014"
    return {"filename": f"COCO_{year}_{number:012d}.jpg", "filepath": year}, {"cocoid": number}


def write_gcc(folder: Path, seed: int, splits: Mapping[str, int]) -> dict[str, int]:
    """`Train_GCC-training.tsv` with `training/`, and the same for validation. Returns the lines with a picture by split."""
    written = {}
    for split, size in splits.items():
        table, pictures = _GCC[split]
        captions, urls, written[split] = _write_linked(folder / pictures, seed, split, "gcc", size)
        write_lines(folder / table, map("\t".join, zip(captions, urls, strict=True)))
    return written


def write_sbu(folder: Path, seed: int, splits: Mapping[str, int]) -> dict[str, int]:
    """Addresses and captions, aligned by line, with `images/`. Returns the lines with a picture by split ("train" only)."""
    captions, urls, alive = _write_linked(folder / "images", seed, "train", "sbu", splits["train"])
    write_lines(folder / "SBU_captioned_photo_dataset_urls.txt", urls)
    write_lines(folder / "SBU_captioned_photo_dataset_captions.txt", captions)
    return {"train": alive}


def _write_linked(folder: Path, seed: int, split: str, dataset: str, size: int) -> tuple[list[str], list[str], int]:
    """Writes the pictures whose links work; returns all captions, all addresses and how many pictures there are."""
    dead = set(generator(seed, split, f"{dataset} links").permutation(size)[: max(1, size // DEAD)].tolist())
    captions, urls = [], []
    examples = illustrated(tasks.describe(generator(seed, split, dataset), size))
    for row, (content, _, texts) in enumerate(examples):
        captions.append(texts[0])
        urls.append(f"http://{dataset}.invalid/{seed}/{split}/{row}.jpg")
        if row not in dead:
            path = folder / f"{row // SHARD:05d}" / f"{row:09d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return captions, urls, size - len(dead)


def write_visual_genome(folder: Path, seed: int, splits: Mapping[str, int]) -> dict[str, int]:
    """`region_descriptions.json`, a region for each object, with `VG_100K/` and `VG_100K_2/`, which take the pictures in
    turn. Returns the regions by split ("train" only)."""
    rng, phrases = generator(seed, "train", "visual_genome"), generator(seed, "train", "visual_genome phrases")
    images: list[dict[str, Any]] = []
    regions = 0
    scenes = ((place(rng, draw_kinds(rng, 2, 6)), None) for _ in range(splits["train"]))
    for number, (content, scene, _) in enumerate(illustrated(scenes), start=1):
        path = folder / ("VG_100K" if number % 2 else "VG_100K_2") / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        drawn = [_region(phrases, scene, cell) for cell in range(CELLS) if scene.kinds[cell] != EMPTY]
        images.append(
            {
                "id": number,
                "regions": [{"region_id": regions + i, "image_id": number, **region} for i, region in enumerate(drawn, start=1)],
            }
        )
        regions += len(drawn)
    write_json(folder / "region_descriptions.json", images)
    return {"train": regions}


def _region(rng: np.random.Generator, scene: Scene, cell: int) -> dict[str, Any]:
    """A phrase for the object in a cell, and its box: `x`, `y` of the top left corner, `width` and `height` in pixels."""
    left, top, right, bottom = extent(outline(scene, cell))
    phrase = _PHRASES[rng.integers(len(_PHRASES))].format(KIND_FILTERS[scene.kinds[cell]].singular)
    return {"phrase": phrase, "x": left, "y": top, "width": right - left, "height": bottom - top}
