"""Scoring a trained model on a split: on which data, by what metrics, into which folder."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vldistill.artifacts import MANIFEST, RUN_STAGES, check_fields, find_run, fingerprint, read_manifest
from vldistill.data.artifact import DataArtifact, open_data
from vldistill.data.loading import make_loader
from vldistill.data.records import Record, read_json
from vldistill.data.samplers import CleanBatches
from vldistill.errors import InputError
from vldistill.evaluation.breakdown import measured
from vldistill.evaluation.image_index import ImageIndex
from vldistill.evaluation.indexed import Indexed, stored_dataset
from vldistill.evaluation.opened import Opened
from vldistill.models.base.checkpoint import ModelSpec, resolve_model
from vldistill.models.base.inputs import plain_dataset
from vldistill.places import refuse_links
from vldistill.recipe.load import load_recipe
from vldistill.training.inference import Answer, Keep, answer, score_items


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
    if index is None:
        objects = data.objects if spec.image_network else None
        dataset = plain_dataset(asked, data.images, tokenizer, spec, objects)
    else:
        dataset = stored_dataset(index, model, asked, data, tokenizer, spec, opened.source)
        model = Indexed(model)
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
