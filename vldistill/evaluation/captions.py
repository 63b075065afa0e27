"""Image-text retrieval over a split of captions: a dual encoder by its vectors, a fusion encoder by reading every pair."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from vldistill.data.artifact import DataArtifact
from vldistill.data.batch import Batch, ImageBatch, TextBatch
from vldistill.data.datasets import RecordDataset
from vldistill.data.loading import make_loader, pad_text
from vldistill.data.records import Record
from vldistill.data.samplers import CLEAN
from vldistill.devices import compute_device
from vldistill.evaluation.cost import seconds_of
from vldistill.evaluation.image_index import ImageIndex
from vldistill.evaluation.indexed import read_by
from vldistill.evaluation.results import summary_head, write_results
from vldistill.finite import check_outputs
from vldistill.metrics.retrieval import AT, Ranks, ranks_of_scores, recalls
from vldistill.models.base.fusion import Fusion
from vldistill.models.build import load_retriever
from vldistill.recipe.schema.students import STUDENTS
from vldistill.runtime import device_name
from vldistill.terminal import Table
from vldistill.training.vectors import CaptionSet, Encoding, Ranking, caption_set, rank_captions

Watch = Callable[[int, str, float | None], Callable[[int], None]]
"""Told before the work how much there is, of what, and the seconds it will take if that is known; returns what is told how much
more is done."""


@dataclass(frozen=True)
class CaptionEvaluation:
    """A split of captions, ranked. metrics: see `recalls`. seconds: of each part of the work."""

    source: str
    split: str
    records: list[Record]
    captions: CaptionSet
    ranks: Ranks
    metrics: dict[str, float | int]
    seconds: dict[str, float]
    partial: bool


def evaluate_captions(
    source: str,
    data: DataArtifact,
    split: str,
    *,
    batch: int,
    limit: int | None,
    workers: int = 0,
    watch: Watch,
    index: ImageIndex | None = None,
) -> CaptionEvaluation:
    """Ranks the images of a split by each of its captions, and its captions by each image. index: where image vectors come from,
    instead of pixels. Raises InputError where the model cannot rank."""
    model, spec, tokenizer = load_retriever(source)
    records = data.records(split, limit=limit)
    device = compute_device()
    model.to(device)
    model, dataset = read_by(model, spec, tokenizer, records, data, index=index, source=source)
    captions = caption_set(records)
    if STUDENTS[spec.kind].ranks == "pairs":
        ranking = rank_pairs(model, dataset, batch=batch, device=device, workers=workers, watch=watch)
    else:
        tick = watch(len(captions.first) + len(records), "images and texts", None)
        ranking = rank_captions(model, dataset, Encoding(batch, device, workers, tick=tick))
    partial = bool(limit or data.manifest.get("partial"))
    return CaptionEvaluation(source, split, records, captions, ranking.ranks, recalls(ranking.ranks), ranking.seconds, partial)


@torch.no_grad()
def rank_pairs(
    model: Fusion, dataset: RecordDataset, *, batch: int, device: torch.device, workers: int = 0, watch: Watch
) -> Ranking:
    """Every text beside every image, scored by the rank head: N x M passes, the slow reference. The model is in evaluation
    mode."""
    captions = caption_set(dataset.records)
    texts = _by_length(dataset, batch, device)
    scores = torch.empty(len(dataset), len(captions.first))
    tick, started = None, time.perf_counter()
    for number, loaded in enumerate(make_loader(dataset, [[(CLEAN, row)] for row in captions.first], workers=workers)):
        image = loaded.images[0].to(device=device)
        if tick is None:
            expected = seconds_of_a_pair(model, image, [text for _, text in texts], device) * scores.numel()
            tick, started = watch(scores.numel(), f"pairs on {device_name(device)}", expected), time.perf_counter()
        for rows, text in texts:
            scores[rows, number] = model(_beside(image, text)).logits[:, 0].float().cpu()
            check_outputs(scores[rows, number, None], [dataset.records[row].id for row in rows])
            tick(len(rows))
    scored = time.perf_counter()
    ranks = ranks_of_scores(scores, captions.owner)
    return Ranking(ranks, {"pairs": scored - started, "ranking": time.perf_counter() - scored})


def seconds_of_a_pair(model: Fusion, image: ImageBatch, texts: list[TextBatch], device: torch.device) -> float:
    """Measured on one image with the shortest texts, with those of middle length and with the longest; after a pass to warm up,
    each as often as fits into a third of a second, at least once. texts: in order of their length."""
    chosen = [texts[place] for place in sorted({0, len(texts) // 2, len(texts) - 1})]
    model(_beside(image, chosen[0]))
    return statistics.mean(_steady(lambda text=text: model(_beside(image, text)), device) / len(text.ids) for text in chosen)


def _steady(call: Callable[[], object], device: torch.device) -> float:
    """Median seconds of a call."""
    times = [seconds_of(call, device)]
    while sum(times) < 1 / 3:
        times.append(seconds_of(call, device))
    return statistics.median(times)


def _by_length(dataset: RecordDataset, batch: int, device: torch.device) -> list[tuple[list[int], TextBatch]]:
    """Rows and padded texts, those of like length together."""
    coded = [dataset.texts(row)[0] for row in range(len(dataset))]
    order = sorted(range(len(coded)), key=lambda row: len(coded[row].ids))
    chunks = [order[start : start + batch] for start in range(0, len(order), batch)]
    return [(rows, pad_text([coded[row] for row in rows], dataset.pad_id).to(device=device)) for rows in chunks]


def _beside(image: ImageBatch, text: TextBatch) -> Batch:
    """One image beside each of the texts."""
    rows = torch.zeros(len(text.ids), dtype=torch.long, device=text.ids.device)
    return Batch([""] * len(rows), text, [image[rows]], None)


def write_captions(evaluation: CaptionEvaluation, folder: Path, data: DataArtifact) -> None:
    """Writes metrics.json and predictions.jsonl: of each caption `image_rank`, the place of its image among all images, and
    `text_rank`, the place among all texts of the first text of its image."""
    places = zip(
        evaluation.records,
        evaluation.ranks.image.tolist(),
        evaluation.ranks.text[evaluation.captions.owner].tolist(),
        strict=True,
    )
    lines = [
        json.dumps({"id": record.id, "image": record.images[0], "image_rank": image, "text_rank": text}, ensure_ascii=False)
        for record, image, text in places
    ]
    seconds = {name: round(value, 3) for name, value in evaluation.seconds.items()}
    head = summary_head([evaluation.source], evaluation.split, data, evaluation.partial)
    write_results(folder, lines, {**head, "seconds": seconds, "ties": "count against", **evaluation.metrics})


def captions_table(evaluation: CaptionEvaluation) -> Table:
    """Both directions, and how many are asked for."""
    table = Table("")
    table.figures(*(f"R@{at} %" for at in AT), "asked")
    metrics = evaluation.metrics
    for side, name, asked in (("ir", "image retrieval", "count"), ("tr", "text retrieval", "images")):
        table.add_row(name, *(f"{100 * metrics[f'{side}_r{at}']:.2f}" for at in AT), f"{metrics[asked]:,}")
    return table
