"""Scoring a split: on which data, by one trained model or the average of several, by what metrics, into which folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vldistill.artifacts import MANIFEST, RUN_STAGES, check_fields, find_run, fingerprint, read_manifest
from vldistill.data.artifact import DataArtifact, open_data
from vldistill.data.loading import make_loader
from vldistill.data.records import TASKS, Record, read_json
from vldistill.data.samplers import CleanBatches
from vldistill.errors import InputError
from vldistill.evaluation.image_index import ImageIndex
from vldistill.evaluation.indexed import read_by
from vldistill.evaluation.opened import Opened
from vldistill.metrics.scores import calibration_error, mean_by
from vldistill.models.base.checkpoint import ModelSpec, resolve_model
from vldistill.places import refuse_links
from vldistill.recipe.load import load_recipe
from vldistill.training.inference import Answer, Keep, answer, chosen, score_items, summarise

PARTS = {"q_to_a": lambda record: record.given is None, "qa_to_r": lambda record: record.given is not None}
"""Of VCR: which records belong to a part."""


def measured(records: list[Record], items: list[float], answers: list[Answer], labels: list[str]) -> dict[str, Any]:
    """All that metrics.json says of the answers to a labelled split.

    The official metrics and `by_type`; `ece`, the calibration error of the confidences (but for tags, whose confidence is that of
    one of them); VQA's `by_question_type`, where the annotations have it; `by_label` of classes, by the right one. Of VCR, `ece`
    and types also for Q->A and QA->R by themselves, and of its shifted sets Q->A `by_shift`.
    """
    metrics = summarise(records, items)
    target = TASKS[records[0].task].target
    calibration = {} if target == "tags" else {"ece": _calibration(items, answers)}
    result = {"accuracy": metrics.pop("accuracy"), **calibration, **metrics}
    if any("question_type" in record.meta for record in records):
        result["by_question_type"] = mean_by([record.meta.get("question_type") for record in records], items)
    if target == "label":
        result["by_label"] = mean_by([labels[record.label] for record in records], items)
    if records[0].task == "vcr":
        result |= _vcr(records, items, answers)
    return result


def _calibration(items: list[float], answers: list[Answer]) -> float:
    return calibration_error([given.confidence for given in answers], items)


def _vcr(records: list[Record], items: list[float], answers: list[Answer]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for part, belongs in PARTS.items():
        rows = [row for row, record in enumerate(records) if belongs(record)]
        if rows:
            chosen = [items[row] for row in rows]
            result[f"{part}_ece"] = _calibration(chosen, [answers[row] for row in rows])
            result[f"{part}_by_type"] = mean_by([records[row].type for row in rows], chosen)
    result |= _by(records, items, PARTS["q_to_a"], "shift", "by_shift")
    return result


def _by(records: list[Record], items: list[float], belongs: Callable[[Record], bool], key: str, name: str) -> dict[str, Any]:
    """The mean score by an entry of `meta`; empty where no record has it."""
    pairs = [
        (record.meta[key], item) for record, item in zip(records, items, strict=True) if belongs(record) and key in record.meta
    ]
    return {name: mean_by(*zip(*pairs, strict=True))} if pairs else {}


@dataclass(frozen=True)
class Evaluation:
    """sources: the models, several of an ensemble. items: the score of each record, in [0, 1]. items and metrics are None where
    the split has no labels; for metrics see `measured`. seconds: of inference, reading images included."""

    sources: tuple[str, ...]
    split: str
    records: list[Record]
    answers: list[Answer]
    items: list[float] | None
    metrics: dict[str, Any] | None
    seconds: float
    partial: bool

    @property
    def name(self) -> str:
        """The model, or how many."""
        return self.sources[0] if len(self.sources) == 1 else f"ensemble of {len(self.sources)}"


def trained_on(source: str) -> DataArtifact:
    """The data artifact that a run was trained on. Raises InputError where `source` is no run, or the artifact has been made
    anew since."""
    run = _run_folder(source)
    if not (run / MANIFEST).exists():
        raise InputError("is not a run, so its data is not known", where=source, hint="name the data artifact with --data")
    manifest = read_manifest(run, RUN_STAGES, make_it="vldistill finetune or distill, with --overwrite")
    check_fields(manifest, run, data=str, parents=dict)
    data, expected = open_data(Path(manifest["data"])), str(manifest["parents"].get("data"))
    if data.fingerprint != expected:
        raise InputError(
            f"was trained on data {expected[:12]}, {data.folder} now holds {data.fingerprint[:12]}",
            where=source,
            hint=f"train it again, or name the data on purpose with --data {data.folder}",
        )
    return data


BOTH = "both"
"""Of VCR's parts: answers and rationales."""


def trained_part(source: str) -> str:
    """What of VCR a run was trained on, see `data.part` of a recipe; both for what is no run of ours."""
    if not Path(source).exists():
        return BOTH
    run = resolve_model(source).parent
    return load_recipe(str(run / "recipe.yaml")).data.part if (run / MANIFEST).exists() else BOTH


def part_of(records: Sequence[Record]) -> str:
    """Of VCR's records, which part they are; both for those of other tasks."""
    kinds = {record.given is None for record in records if record.task == "vcr"}
    return {(True,): "answers", (False,): "rationales"}.get(tuple(kinds), BOTH)


def _run_folder(source: str) -> Path:
    if not Path(source).exists():
        raise InputError(
            "no such run", where=source, hint="make it with `vldistill finetune` or `distill`; a hub model needs --data and --out"
        )
    return find_run(Path(source))


def check_task(spec: ModelSpec, data: DataArtifact, source: str) -> None:
    """Raises InputError where the model cannot answer this data: no head, another number of images, or no common label."""
    if not spec.labels:
        raise InputError("has no head, so it cannot answer", where=source, hint="name a fine-tuned model")
    if spec.images != data.spec.images:
        raise InputError(
            f"takes {spec.images} image(s) a record, {data.folder} has {data.spec.images}",
            where=source,
            hint="choose another data artifact",
        )
    if data.labels and not set(spec.labels) & set(data.labels):
        raise InputError(
            f"answers {', '.join(spec.labels[:3])}..., {data.folder} asks for {', '.join(data.labels[:3])}...",
            where=source,
            hint="choose another data artifact",
        )


def evaluate_split(
    opened: Opened,
    data: DataArtifact,
    split: str,
    records: list[Record],
    *,
    batch: int,
    partial: bool,
    workers: int = 0,
    index: ImageIndex | None = None,
    unscored: Sequence[Record] = (),
    keep: Keep | None = None,
) -> Evaluation:
    """Answers records of a split with one model and scores them against the data's own labels, matched by name.

    partial: whether these are not all. index: where image vectors come from, instead of pixels. unscored: further records to
    answer, in the same pass. keep: see `answer`; it is told of both.
    """
    asked = [*records, *unscored]
    model, spec, tokenizer = opened.model, opened.spec, opened.tokenizer
    objects = data.objects if spec.image_network else None
    model, dataset = read_by(model, spec, tokenizer, asked, data, index=index, source=opened.source, objects=objects)
    loader = make_loader(dataset, CleanBatches(len(asked), batch), workers=workers)
    started = time.perf_counter()
    answers = answer(model, loader, spec.labels, opened.device, tags=opened.gives_tags, autocast=opened.autocast, keep=keep)
    seconds = time.perf_counter() - started
    return scored((opened.source,), data, split, records, answers[: len(records)], seconds=seconds, partial=partial)


def scored(
    sources: tuple[str, ...],
    data: DataArtifact,
    split: str,
    records: list[Record],
    answers: list[Answer],
    *,
    seconds: float,
    partial: bool,
) -> Evaluation:
    """The evaluation of answers, of one model or of several together."""
    items = score_items(records, answers, data.labels)
    metrics = None if items is None else measured(records, items, answers, data.labels)
    return Evaluation(sources, split, records, answers, items, metrics, seconds, partial)


def evaluation_folder(
    source: str, data: DataArtifact, split: str, limit: int | None = None, precision: str = "fp32", part: str | None = None
) -> Path:
    """RUN/eval/SPLIT; SPLIT-on-DATA for other data than the run was trained on, SPLIT-limitN for the first N records, SPLIT-bf16
    where the precision is not fp32, SPLIT-both where it was asked for another part of VCR than its own. Raises
    InputError where `source` is no run of ours."""
    run = _run_folder(source)
    if not (run / MANIFEST).exists():
        raise InputError("is not a run, so there is no place for its results", where=source, hint="give one with --out")
    own = read_json(run / MANIFEST).get("parents", {}).get("data")
    name = [
        split,
        *[f"on-{data.folder.name}"] * (own != data.fingerprint),
        *[f"limit{limit}"] * bool(limit),
        *[precision] * (precision != "fp32"),
        *[part] * (part not in (None, trained_part(source))),
    ]
    refuse_links(run, "eval", f"eval/{'-'.join(name)}")
    return run / "eval" / "-".join(name)


def ensemble_folder(
    sources: Iterable[str],
    data: DataArtifact,
    split: str,
    limit: int | None = None,
    precision: str = "fp32",
    part: str | None = None,
) -> Path:
    """ensemble-<8 digits of which models>/eval/SPLIT beside the first run, else named as `evaluation_folder`; the digits do not
    depend on the models' order. Raises InputError where the first is no run of ours."""
    sources = list(sources)
    first = evaluation_folder(sources[0], data, split, limit, precision, part)
    members = fingerprint(sorted(str(resolve_model(source).resolve()) for source in sources))
    return first.parent.parent.parent / f"ensemble-{members[:8]}" / "eval" / first.name


def load_data(path: Path | None, source: str) -> DataArtifact:
    """The data artifact to evaluate on: the named one, or the run's own."""
    return open_data(path) if path else trained_on(source)


_BLOCK = 4096
"""Records that are averaged at a time."""


class Probabilities:
    """The sum over models, [N, C] fp32 in memory, whatever the number of models, and never on disk: 2.7 GB for VQA's validation
    questions (214,354 x 3,129 answers) and 5.6 GB for its test questions; a few MB for every other task.

    Records are found by their ids, labels by their names, so that neither the order of a model's batches nor that of its head
    matters.
    """

    def __init__(self, ids: Iterable[str], labels: Sequence[str]):
        self.labels = list(labels)
        self._rows = {name: row for row, name in enumerate(ids)}
        self._sums = torch.zeros(len(self._rows), len(self.labels))
        self._models = 0

    @staticmethod
    def size(records: int, labels: int) -> int:
        """Bytes that so many records and labels take."""
        return 4 * records * labels

    def member(self, labels: Sequence[str]) -> Keep:
        """What one more model is to tell of its batches. labels: of its head, the same names in an order of its own."""
        places = {name: place for place, name in enumerate(labels)}
        order = torch.tensor([places[name] for name in self.labels])
        self._models += 1

        def keep(ids: list[str], sure: Tensor) -> None:
            rows = torch.tensor([self._rows[name] for name in ids])
            self._sums[rows] += sure.cpu()[:, order]

        return keep

    def of(self, ids: Sequence[str]) -> Tensor:
        """The mean over the models, [len(ids), C]. Every model must have told of these records."""
        return self._sums[torch.tensor([self._rows[name] for name in ids])] / self._models

    def answers(self, ids: Sequence[str], *, tags: bool = False) -> list[Answer]:
        """The answers of the mean."""
        answers: list[Answer] = []
        for start in range(0, len(ids), _BLOCK):
            some = list(ids[start : start + _BLOCK])
            answers += chosen(some, self.of(some), self.labels, tags=tags)
        return answers


def check_members(specs: dict[str, ModelSpec]) -> None:
    """Raises InputError where models cannot be averaged, since they answer another task or by other labels."""
    (first, wanted), *others = specs.items()
    for source, spec in others:
        if {spec.task, wanted.task} - {""} == {spec.task, wanted.task} and spec.task != wanted.task:
            raise InputError(
                f"answers {spec.task}, {first} answers {wanted.task}: they cannot be averaged",
                where=source,
                hint="name runs of one task",
            )
        unknown = sorted(set(spec.labels) ^ set(wanted.labels))
        if unknown:
            raise InputError(
                f"and {first} have other labels: only one of them knows {_some(unknown)}",
                where=source,
                hint="name runs that were trained on the same labels",
            )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
