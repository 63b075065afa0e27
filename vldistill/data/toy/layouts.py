"""Writes the toy worlds: the first in the official raw layouts of VQA v2, NLVR2, SNLI-VE, VCR and the caption datasets, the
second (`diverse`) as JSONL.

The loaders of the real datasets read them unchanged: the same file names, fields and picture formats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

from vldistill.artifacts import building, refuse_existing
from vldistill.data.sources.table import SOURCES, source_of
from vldistill.data.toy import tasks
from vldistill.data.toy.diverse.layouts import DIVERSE_SIZES, DIVERSE_WRITERS
from vldistill.data.toy.files import ID_BLOCK, batches, encode, illustrated, write_json, write_jsonl
from vldistill.data.toy.world import generator, render
from vldistill.errors import InputError

_LAYOUTS = {name: toy for name in SOURCES if (toy := source_of(name).toy) is not None}
DEFAULT_SIZES = {name: toy.sizes for name, toy in _LAYOUTS.items()}
"""Scenes of each split (NLVR2: pairs of scenes, each of which is written in both orders)."""

DATASETS = tuple(DEFAULT_SIZES)
SIZES = {**DEFAULT_SIZES, **DIVERSE_SIZES}
"""Of both worlds."""
MIN_SCENES = 4
_ANSWERS = 10


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


def _nlvr2_row(statement: tasks.Statement, identifier: str) -> dict[str, Any]:
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


def _writer(name: str) -> Callable[[Path, int, Mapping[str, int]], dict[str, int]]:
    if name in DIVERSE_WRITERS:
        return DIVERSE_WRITERS[name]
    module, _, function = _LAYOUTS[name].write.partition(":")
    return getattr(import_module(f"{__package__}.{module}"), function)
