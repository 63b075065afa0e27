"""Writes the toy worlds: the first in the official raw layouts of VQA v2, NLVR2, SNLI-VE, VCR and the caption data sets, the
second (`diverse`) as JSONL. The loaders of the real data sets read them unchanged: the same file names, fields and picture
formats.

Conceptual Captions and SBU are lists of addresses; their pictures lie where img2dataset's "files" output puts them, in folders
of 10,000 named by their line, and a few are missing, as dead links are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from vldistill.artifacts import building, refuse_existing
from vldistill.data.sources.table import SOURCES, source_of
from vldistill.data.toy import tasks
from vldistill.data.toy.diverse import DIVERSE_SIZES, DIVERSE_WRITERS
from vldistill.data.toy.world import (
    CELLS,
    EMPTY,
    ID_BLOCK,
    KIND_FILTERS,
    Scene,
    batches,
    draw_kinds,
    encode,
    extent,
    generator,
    illustrated,
    outline,
    place,
    render,
    write_json,
    write_jsonl,
    write_lines,
    write_picture,
)
from vldistill.errors import InputError

MIN_SCENES = 4
_ANSWERS = 10
SHARD = 10_000
"""Pictures in a folder of img2dataset."""
DEAD = 25
"""One link in so many is dead, one at least."""
_GCC = {"train": ("Train_GCC-training.tsv", "training"), "val": ("Validation_GCC-1.1.0-Validation.tsv", "validation")}
_PHRASES = ("{}", "a {}", "the {}", "a {} on a dark background", "this is a {}")


_LAYOUTS = {name: toy for name in SOURCES if (toy := source_of(name).toy) is not None}
DEFAULT_SIZES = {name: toy.sizes for name, toy in _LAYOUTS.items()}
"""Scenes of each split (NLVR2: pairs of scenes, each of which is written in both orders)."""
DATASETS = tuple(DEFAULT_SIZES)
SIZES = {**DEFAULT_SIZES, **DIVERSE_SIZES}
"""Of both worlds."""


def write_toy(
    root: Path,
    *,
    seed: int = 0,
    datasets: Sequence[str] = DATASETS,
    scale: float = 1.0,
    sizes: Mapping[str, Mapping[str, int]] | None = None,
) -> dict[str, int]:
    """Writes `root/<dataset>/` for each of `datasets`, each folder whole or not at all.

    `sizes` replaces numbers of SIZES (`{"nlvr2": {"train": 500}}`); `scale` multiplies all of them, down to 4.
    They are rounded up to whole groups of scenes that balance each other. Returns the number of examples (questions,
    statements, captions, regions) by `<dataset>/<split>`. Raises InputError for a name or number that cannot be, and where a
    folder exists already.
    """
    root = Path(root)
    plan = _plan(seed, datasets, scale, sizes or {})
    for name in plan:
        refuse_existing(root / name, overwrite=False)
    counts: dict[str, int] = {}
    with ExitStack() as stack:
        # The folders are entered together, so that a failure in the last one leaves none of them.
        folders = {name: stack.enter_context(building(root / name)) for name in plan}
        for name, splits in plan.items():
            written = _writer(name)(folders[name], seed, splits)
            counts.update({f"{name}/{split}": number for split, number in written.items()})
    return counts


def _plan(seed: int, datasets: Sequence[str], scale: float, sizes: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    if seed < 0:
        raise InputError(f"seed is {seed}, it cannot be negative")
    if not 0 < scale < float("inf"):
        raise InputError(f"scale is {scale}, a positive number was expected")
    for name in (*datasets, *sizes):
        if name not in SIZES:
            raise InputError(f"the toy world has no dataset {name!r}", hint=f"choose from {', '.join(SIZES)}")
    plan: dict[str, dict[str, int]] = {}
    for name in dict.fromkeys(datasets):
        given, group = sizes.get(name, {}), _LAYOUTS[name].group if name in _LAYOUTS else 1
        if unknown := sorted(set(given) - set(SIZES[name])):
            raise InputError(f"{name} has no split {unknown[0]!r}", hint=f"choose from {', '.join(SIZES[name])}")
        plan[name] = {}
        for split, default in SIZES[name].items():
            wanted = max(MIN_SCENES, round(given.get(split, default) * scale))
            if wanted >= ID_BLOCK:
                raise InputError(f"{name}/{split} would have {wanted} scenes, at most {ID_BLOCK - 1} are possible")
            plan[name][split] = -(-wanted // group) * group
    return plan


def _writer(name: str) -> Callable[[Path, int, Mapping[str, int]], dict[str, int]]:
    if name in DIVERSE_WRITERS:
        return DIVERSE_WRITERS[name]
    module, _, function = _LAYOUTS[name].write.partition(":")
    return getattr(import_module(f"{__package__}.{module}"), function)


def write_vqa(folder: Path, seed: int, splits: Mapping[str, int]) -> dict[str, int]:
    """Questions with their answers in VQA v2's layout; returns questions by split."""
    written = {}
    for block, (split, size) in enumerate(splits.items(), start=1):
        (folder / f"{split}2014").mkdir()
        questions: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        examples = illustrated(tasks.ask(generator(seed, split, "vqa"), size))
        for image_id, (content, _, asked) in enumerate(examples, start=block * ID_BLOCK):
            (folder / f"{split}2014" / f"COCO_{split}2014_{image_id:012d}.jpg").write_bytes(content)
            for number, question in enumerate(asked):
                key = {"image_id": image_id, "question_id": image_id * 1000 + number}
                questions.append({**key, "question": question.text})
                annotations.append(
                    {
                        **key,
                        "question_type": question.question_type,
                        "answer_type": question.answer_type,
                        "multiple_choice_answer": question.answer,
                        "answers": [
                            {"answer": question.answer, "answer_confidence": "yes", "answer_id": i + 1} for i in range(_ANSWERS)
                        ],
                    }
                )
        head = {"info": {"description": "toy world"}, "license": {}, "data_type": "mscoco", "data_subtype": f"{split}2014"}
        write_json(
            folder / f"v2_OpenEnded_mscoco_{split}2014_questions.json",
            {**head, "task_type": "Open-Ended", "questions": questions},
        )
        write_json(folder / f"v2_mscoco_{split}2014_annotations.json", {**head, "annotations": annotations})
        written[split] = len(questions)
    return written


def write_nlvr2(folder: Path, seed: int, splits: Mapping[str, int]) -> dict[str, int]:
    """Pairs of pictures in NLVR2's layout; returns statements by split."""
    written = {}
    for split, size in splits.items():
        rows: list[dict[str, Any]] = []
        examples = enumerate(tasks.compare(generator(seed, split, "nlvr2"), size))
        for batch in batches(examples):
            pictures = iter(render([scene for _, (left, right, _) in batch for scene in (left, right)]))
            for number, (_, _, statements) in batch:
                directory = number % 100
                place = folder / "images" / "train" / str(directory) if split == "train" else folder / split
                place.mkdir(parents=True, exist_ok=True)
                sides = [encode(next(pictures), "PNG") for _ in range(2)]
                for pair in (0, 1):
                    for i, content in enumerate(sides[::-1] if pair else sides):
                        (place / f"{split}-{number}-{pair}-img{i}.png").write_bytes(content)
                    for i, statement in enumerate(map(tasks.opposite, statements) if pair else statements):
                        row = _nlvr2_row(statement, f"{split}-{number}-{pair}-{i}")
                        rows.append(row | ({"directory": directory} if split == "train" else {"extra_validations": {}}))
        write_jsonl(folder / f"{split}.json", rows)
        written[split] = len(rows)
    return written


def _nlvr2_row(statement: tasks.ToyStatement, identifier: str) -> dict[str, Any]:
    name = statement.subject.singular
    return {
        "sentence": statement.text,
        "label": statement.label,
        "identifier": identifier,
        "left_url": "",
        "right_url": "",
        "synset": name,
        "query": name,
        "writer": "toy",
        "validation": {},
    }


def write_snli_ve(folder: Path, seed: int, splits: Mapping[str, int]) -> dict[str, int]:
    """Pictures with hypotheses in SNLI-VE's layout; returns hypotheses by split."""
    written = {}
    images = folder / "flickr30k-images"
    images.mkdir()
    for block, (split, size) in enumerate(splits.items(), start=1):
        rows = []
        rng, premises = generator(seed, split, "snli_ve"), generator(seed, split, "snli_ve captions")
        examples = illustrated(tasks.entail(rng, size))
        for image_id, (content, scene, statements) in enumerate(examples, start=block * ID_BLOCK):
            (images / f"{image_id}.jpg").write_bytes(content)
            premise = tasks.caption(premises, scene)
            rows += [
                {
                    "gold_label": statement.label,
                    "sentence1": premise,
                    "sentence2": statement.text,
                    "pairID": f"{image_id}.jpg#0r{i + 1}{statement.label[0]}",
                    "captionID": f"{image_id}.jpg#0",
                    "Flickr30K_ID": str(image_id),
                }
                for i, statement in enumerate(statements)
            ]
        write_jsonl(folder / f"snli_ve_{split}.jsonl", rows)
        written[split] = len(rows)
    return written


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
            write_picture(path, content)
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
            write_picture(path, content)
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
        write_picture(path, content)
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
