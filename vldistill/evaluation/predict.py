"""Answers outside a data artifact: one image and text, or a JSONL of them."""

from __future__ import annotations

from pathlib import Path

import torch

from vldistill.data.image_files import MAX_PIXELS, check_images
from vldistill.data.images import ImageFolder
from vldistill.data.inputs import LeftOut, judge, may_be_left_out
from vldistill.data.loading import make_loader
from vldistill.data.records import TASKS, Record
from vldistill.data.samplers import CleanBatches
from vldistill.data.sources.jsonl import read_images
from vldistill.data.sources.rows import SeenIds, read_rows
from vldistill.data.wording import split_words
from vldistill.errors import InputError, Problems
from vldistill.evaluation.opened import Opened
from vldistill.models.base.inputs import plain_dataset
from vldistill.training.inference import probabilities


def read_pairs(
    path: Path, problems: Problems, max_pixels: int | None = None, skip_broken: float = 0.0
) -> tuple[list[Record], ImageFolder, LeftOut | None]:
    """Records of a JSONL of {image or images, text}, named by their `id` or else by the line, their images, whose paths are
    relative to its folder, and what was left out where something is broken; other fields are not read. max_pixels: of an image;
    None: MAX_PIXELS. skip_broken: the share of the lines that may be left out. Raises InputError listing every bad line and
    image, which `problems` takes."""
    if not path.is_file():
        message = "is no plain file" if path.exists() else "no such file"
        raise InputError(message, where=str(path), hint="give a JSONL file of {image, text}")
    seen = SeenIds()
    records: list[Record] = []
    places: dict[str, str] = {}
    for row in read_rows(path, problems):
        images, text = read_images(row), row.text("text")
        name = row.name("id", optional=True) or row.where.rpartition(":")[2]
        seen.add(name, row)
        if row.good and images and text:
            records.append(Record(name, "classification", images, split_words(text), written=text))
            for image in images:
                places.setdefault(image, row.where)
    folder = ImageFolder(path.parent, most_pixels=max_pixels or MAX_PIXELS)
    lines = len({fault.where for fault in problems.items})
    whole = check_images(folder.root, places, problems, places, follow_links=True, most_pixels=folder.most_pixels)
    if not (problems and skip_broken and may_be_left_out(problems)):
        problems.raise_if_any(str(path))
        return records, folder, None
    kept = [record for record in records if whole.keys() >= set(record.images)]
    left = LeftOut(lines, len(places) - len(whole), len(records) - len(kept), len(kept))
    judge(left, skip_broken, problems, str(path))
    return kept, folder, left


def one_pair(images: list[Path], text: str | None) -> Record:
    """A record of one text and its images; None for a model that reads none. Raises InputError where the text is empty."""
    words = split_words(text or "")
    if text is not None and not words:
        raise InputError("--text is empty", hint="give a question or a statement")
    return Record("0", "classification", [str(image.resolve()) for image in images], words, written=text)


def ranked_answers(
    opened: Opened, records: list[Record], images: ImageFolder, *, batch: int, top: int, workers: int = 0
) -> list[list[tuple[str, float]]]:
    """For each record, the `top` labels with their probabilities (softmax; of tags, each its sigmoid), best first; of a model
    that chooses, the places of the record's choices. Raises InputError where the model asks for another input."""
    model, spec, source = opened.model, opened.spec, opened.source
    reads = spec.task not in TASKS or TASKS[spec.task].text
    chooses = spec.target == "choice"
    for record in records:
        if reads and not record.text:
            raise InputError("reads a text beside the image, none is given", where=source, hint="give --text")
        if chooses and record.choices is None:
            raise InputError(
                "chooses one of several texts, none is given",
                where=source,
                hint="use `vldistill evaluate`, or give choices from Python",
            )
        if record.choices is not None and not chooses:
            raise InputError("has answers of its own, and choices are given", where=source, hint="leave them out")
        if len(record.images) != spec.images:
            raise InputError(
                f"takes {spec.images} image(s), {len(record.images)} given",
                where=source,
                hint="give --image once for each" if len(records) == 1 else f"mend record {record.id}",
            )
    dataset = plain_dataset(records, images, opened.tokenizer, spec)
    loader = make_loader(dataset, CleanBatches(len(records), batch), workers=workers)
    rows = []
    with torch.no_grad(), opened.autocast():
        for one in loader:
            sure = probabilities(model(one.to(opened.device)).logits, one.ids, tags=opened.gives_tags)
            values, indices = sure.topk(min(top, sure.shape[1]))
            rows += [
                [(spec.labels[i], p) for i, p in zip(ids, ps, strict=True)]
                for ids, ps in zip(indices.tolist(), values.tolist(), strict=True)
            ]
    return rows
