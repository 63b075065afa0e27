"""`vldistill bench`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vldistill.commands.options import DryRun, numbers, split_list
from vldistill.commands.output import duration, last_line, show_plan
from vldistill.errors import InputError
from vldistill.terminal import Table, say, show

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor

    from vldistill.evaluation.bench import BenchRow, Setting
    from vldistill.evaluation.bench_rows import RetrievalSize
    from vldistill.models.vilt.model import EncoderConfig

SPEED, PAIR, FUSIONS, RETRIEVAL, PRECISION = "speed", "pair", "fusions", "retrieval", "precision"


@dataclass(frozen=True)
class BenchSubject:
    """What is measured: a trained dual encoder, or random weights at the paper's sizes where `model` is None. tokens: lengths of
    texts. images: that a record has. stored: vectors of so many images out of an index."""

    model: Any
    config: EncoderConfig
    grid: tuple[int, int]
    tokens: tuple[int, ...]
    images: int
    stored: Callable[[int], list[Tensor]] | None


def bench(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="Run of a dual encoder; without one, random weights.")] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Measure on CUDA.")] = False,
    batch: Annotated[str, typer.Option("--batch", metavar="N,N", help="Batch sizes.")] = "32",
    precision: Annotated[str, typer.Option("--precision", metavar="P,P", help="fp32, bf16, fp16, int8.")] = "fp32",
    rounds: Annotated[int, typer.Option("--rounds", min=1, metavar="N", help="Rounds of measurement.")] = 5,
    length: Annotated[str, typer.Option("--length", metavar="N,N", help="Lengths of texts, in tokens.")] = "40,12",
    rows: Annotated[
        str,
        typer.Option(
            "--rows", metavar="R,R", show_default=False, help="speed, pair, capture, step, fusions, retrieval, precision."
        ),
    ] = "speed,pair",
    retrieval: Annotated[bool, typer.Option("--retrieval", help="Measure retrieval alone.")] = False,
    images: Annotated[int, typer.Option("--images", min=1, metavar="N", help="Retrieval: number of images.")] = 1000,
    texts: Annotated[int, typer.Option("--texts", min=1, metavar="N", help="Retrieval: number of texts.")] = 5000,
    pairs: Annotated[int, typer.Option("--pairs", min=1, metavar="N", help="Retrieval: pairs the fusion reads.")] = 64,
    index: Annotated[Path | None, typer.Option("--index", metavar="DIR", help="Index of RUN, to time reading it.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, metavar="N", help="CPU threads.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="JSON file to write.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Time the fusion against the dual encoder."""
    import torch

    from vldistill.artifacts import write_json
    from vldistill.evaluation.bench import Setting, as_json
    from vldistill.evaluation.bench_rows import RetrievalSize
    from vldistill.places import check_file
    from vldistill.runtime import cpu_has_bf16, device_name

    sizes, lengths, precisions = _sizes("--batch", batch), _sizes("--length", length), split_list(precision)
    measured = (RETRIEVAL,) if retrieval else split_list(rows)
    device = _device(gpu)
    _check(measured, precisions, device)
    if threads:
        torch.set_num_threads(threads)
    subject = _subject(run, lengths, index, ranks=measured == (RETRIEVAL,))
    if subject.model is not None:
        # A trained model takes as many images as its task has.
        measured = tuple(dict.fromkeys(SPEED if name == PAIR else name for name in measured))
    size, name = RetrievalSize(images, texts, pairs), device_name(device)
    plan = {
        "device": name,
        "model": run or "random weights at ViLT-B/32's size",
        "image": _pixels(subject.grid, subject.config),
        "text tokens": ", ".join(map(str, subject.tokens)),
        "batch": ", ".join(map(str, sizes)),
        "precision": ", ".join(precisions),
        "measures": ", ".join(measured),
        "rounds": f"{rounds} interleaved, after one to warm up; the minimum counts",
    }
    if RETRIEVAL in measured:
        plan["retrieval"] = f"{images:,} images x {texts:,} texts; the fusion encoder on {pairs:,} pairs of them"
    if "bf16" in precisions and not gpu and not cpu_has_bf16():
        plan["note"] = "this CPU has no instructions for bf16, which takes many times as long as fp32"
    show_plan("bench", plan)
    if out is not None and out.is_dir():
        raise InputError("is a folder", where=str(out), hint="name a file")
    check_file(out)
    if dry_run:
        return
    results: list[BenchRow] = []
    for count in sizes:
        # All precisions are compared at once where they are what is measured.
        for one in precisions[:1] if set(measured) == {PRECISION} else precisions:
            setting = Setting(subject.config, subject.grid, count, subject.tokens, one, device, rounds)
            for group in measured:
                results += _measured(group, setting, subject, precisions, size)
    summary = as_json(results, name)
    if out is not None:
        write_json(out, summary)
        say(f"wrote {out}")
    last_line({"device": name, "speedup": _headline(results)})


def row_names() -> tuple[str, ...]:
    """What --rows may name."""
    from vldistill.evaluation.bench import GROUPS

    return (*GROUPS, FUSIONS, RETRIEVAL, PRECISION)


def _check(rows: tuple[str, ...], precisions: tuple[str, ...], device: torch.device) -> None:
    from vldistill.evaluation.opened import check_precision

    for name in rows:
        if name not in row_names():
            raise InputError(f"--rows {name} is not known", hint=f"one or more of {', '.join(row_names())}")
    for name in precisions:
        check_precision(name, device)
        if name == "int8" and set(rows) != {PRECISION}:
            raise InputError("--precision int8 is for --rows precision", hint="leave one of them out")


def _measured(
    group: str, setting: Setting, subject: BenchSubject, precisions: tuple[str, ...], size: RetrievalSize
) -> list[BenchRow]:
    """Measures one group of rows, and prints it."""
    from vldistill.evaluation.bench import GROUPS, speed_rows
    from vldistill.evaluation.bench_rows import fusion_rows, precision_rows, retrieval_rows

    if group == RETRIEVAL:
        rows = retrieval_rows(setting, size, subject.model)
    elif group == PRECISION:
        rows = precision_rows(setting, precisions, subject.model, images=subject.images)
    elif group == SPEED and subject.model is not None:
        rows = speed_rows(setting, images=subject.images, dual=subject.model, stored=subject.stored)
    else:
        rows = {**GROUPS, FUSIONS: fusion_rows}[group](setting)
    show(bench_table(rows, setting.precision, setting.batch))
    for row in (row for row in rows if row.note):
        say(f"{row.variant}: {row.note}")
    if group == RETRIEVAL:
        say(_beside_the_paper(rows, size))
    return rows


def _stored(folder: Path | None, run: str | None) -> Callable[[int], list[Tensor]] | None:
    """Reads vectors of images drawn at random from an index of the run's."""
    if folder is None:
        return None
    if run is None:
        raise InputError("--index needs the RUN that it was built with", hint="vldistill bench RUN --index INDEX")
    import numpy as np

    from vldistill.evaluation.image_index import ImageIndex, model_fields
    from vldistill.models.base.checkpoint import read_checkpoint

    index = ImageIndex(folder)
    index.check_model(model_fields(run, read_checkpoint(run).spec), run)
    return partial(index.drawn, generator=np.random.default_rng(0))


def bench_table(rows: list[BenchRow], precision: str, batch: int) -> Table:
    """One group of rows; the first is the reference of the ratios."""
    table = Table(
        "",
        title=f"{rows[0].group}, batch {batch}, {precision} (limit: the ratio in FLOP)",
        box=None,
        pad_edge=False,
        padding=(0, 1),
    )
    once = all(row.p50 is None for row in rows)
    table.figures("tokens", *(("s",) if once else ("min s", "p50 s", "p95 s", "peak MiB")), "ratio", "limit")
    for row in rows:
        spread = [] if once else [*map(_short, (row.p50, row.p95)), "-" if row.peak_mb is None else f"{row.peak_mb:.0f}"]
        table.add_row(
            row.variant,
            str(row.tokens),
            _short(row.seconds),
            *spread,
            _ratio(row.speedup),
            "-" if row.limit is None else _ratio(row.limit),
        )
    return table


def _beside_the_paper(rows: list[BenchRow], size: RetrievalSize) -> str:
    from vldistill.evaluation.bench_rows import END_TO_END, PAPER_RATIO

    reading, whole = rows[0], next(row for row in rows if row.variant == END_TO_END)
    fusion = f"fusion encoder {duration(reading.seconds)}, extrapolated from {size.pairs:,} pairs to {size.images * size.texts:,}"
    dual = f"dual encoder {duration(whole.seconds)}, measured"
    known = f"FLOP limit {_ratio(whole.limit)}; DiDE's Table 4, 1,000 images x 5,000 texts: {_ratio(PAPER_RATIO)}"
    return f"{fusion}; {dual}: {_ratio(whole.speedup)} ({known})"


def _short(value: float) -> str:
    """Three digits: 0.0619, 12.5, 502, 1.57e6."""
    return f"{value:.3g}".replace("e+0", "e")


def _ratio(value: float) -> str:
    return f"{value:.2f}x" if value < 1000 else f"{value:,.0f}x" if value < 1e5 else f"{value:.1e}x".replace("e+0", "e")


def _headline(rows: list[BenchRow]) -> dict[str, float]:
    from vldistill.evaluation.bench_rows import END_TO_END

    cached = [row for row in rows if row.variant in ("dual, images cached", END_TO_END)]
    return {f"{row.group}/{row.precision}/batch{row.batch}/text{row.tokens}": round(row.speedup, 2) for row in cached}


def _sizes(option: str, text: str) -> tuple[int, ...]:
    """A list of numbers of 1 or more, each once, the largest first."""
    values = numbers(option, text)
    if not values or 0 in values:
        raise InputError(f"{option} {text} is not a list of numbers of 1 or more", hint=f"for example {option} 32,256")
    return tuple(sorted(set(values), reverse=True))


def _device(gpu: bool) -> torch.device:
    import torch

    from vldistill.devices import check_card, unused_gpu

    if not gpu:
        return torch.device("cpu")
    check_card()
    if not torch.cuda.is_available():
        reason = "torch was built without CUDA" if torch.version.cuda is None else "no CUDA device is visible"
        raise InputError(
            f"--gpu: {unused_gpu() or reason}", hint="leave out --gpu to measure on the CPU; `vldistill doctor` says what is here"
        )
    return torch.device("cuda")


def _subject(run: str | None, tokens: tuple[int, ...], index: Path | None, *, ranks: bool) -> BenchSubject:
    """The run's dual encoder and its sizes, or none and ViLT-B/32's. ranks: one that has no head will do."""
    if run is None:
        from vldistill.evaluation.bench import PAPER_GRID
        from vldistill.models.vilt.model import EncoderConfig

        config = EncoderConfig(max_position_embeddings=max(40, *tokens))
        return BenchSubject(None, config, PAPER_GRID, tokens, 1, _stored(index, run))
    from vldistill.models.build import load_retriever, load_student
    from vldistill.models.vilt.model import ViltDual

    model, spec, _ = (load_retriever if ranks else load_student)(run)
    if not isinstance(model, ViltDual):
        raise InputError(
            f"is a {spec.kind} model, only a dual_encoder over patches is measured", where=run, hint="name a dual_encoder's run"
        )
    side = spec.image_size // spec.encoder.patch_size
    lengths = tuple(sorted({min(count, spec.max_length) for count in tokens}, reverse=True))
    return BenchSubject(model, spec.encoder, (side, side), lengths, spec.images, _stored(index, run))


def _pixels(grid: tuple[int, int], config: EncoderConfig) -> str:
    return f"{grid[0] * config.patch_size}x{grid[1] * config.patch_size} pixels, {grid[0] * grid[1]} patches"
