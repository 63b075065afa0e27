"""`vldistill bench`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vldistill.artifacts import write_json
from vldistill.commands.output import last_line, plan_table
from vldistill.commands.progress import duration
from vldistill.devices import check_card, unused_gpu
from vldistill.errors import InputError
from vldistill.evaluation.bench import GROUPS, PAPER_GRID, Row, Setting, as_json, speed_rows
from vldistill.evaluation.bench_fusions import fusion_rows
from vldistill.evaluation.bench_precision import precision_rows
from vldistill.evaluation.bench_retrieval import END_TO_END, PAPER_RATIO, RetrievalSize, retrieval_rows
from vldistill.evaluation.precision import check_precision
from vldistill.models.vilt.encoder import EncoderConfig
from vldistill.places import check_file
from vldistill.runtime import cpu_has_bf16, device_name
from vldistill.terminal import Table, say, show

MEASURES = {**GROUPS, "fusions": fusion_rows}
PRECISION, RETRIEVAL = "precision", "retrieval"
ROWS = (*MEASURES, RETRIEVAL, PRECISION)


def bench_command(
    run: str | None,
    *,
    gpu: bool,
    batches: tuple[str, ...],
    precisions: tuple[str, ...],
    rounds: int,
    lengths: tuple[str, ...],
    rows: tuple[str, ...],
    size: RetrievalSize,
    index: Path | None,
    threads: int | None,
    out: Path | None,
    dry_run: bool,
) -> None:
    """Measures the chosen groups for every batch size and precision, one after the other, in this process."""
    sizes, tokens = _numbers("--batch", batches), _numbers("--length", lengths)
    for name in rows:
        if name not in ROWS:
            raise InputError(f"--rows {name} is not known", hint=f"one or more of {', '.join(ROWS)}")
    device = _device(gpu)
    for name in precisions:
        check_precision(name, device)
        if name == "int8" and set(rows) != {PRECISION}:
            raise InputError("--precision int8 is for --rows precision", hint="leave one of them out")
    if threads:
        torch.set_num_threads(threads)
    model, config, grid, tokens, images = _model(run, tokens, ranks=rows == (RETRIEVAL,))
    if model is not None:
        # A trained model takes as many images as its task has.
        rows = tuple(dict.fromkeys("speed" if name == "pair" else name for name in rows))
    stored = _stored(index, run)
    name = device_name(device)
    plan = {
        "device": name,
        "model": run or "random weights at ViLT-B/32's size",
        "image": _pixels(grid, config),
        "text tokens": ", ".join(map(str, tokens)),
        "batch": ", ".join(map(str, sizes)),
        "precision": ", ".join(precisions),
        "measures": ", ".join(rows),
        "rounds": f"{rounds} interleaved, after one to warm up; the minimum counts",
    }
    if RETRIEVAL in rows:
        plan["retrieval"] = f"{size.images:,} images x {size.texts:,} texts; the fusion encoder on {size.pairs:,} pairs of them"
    if "bf16" in precisions and not gpu and not cpu_has_bf16():
        plan["note"] = "this CPU has no instructions for bf16, which takes many times as long as fp32"
    show(plan_table("bench", plan))
    if out is not None and out.is_dir():
        raise InputError("is a folder", where=str(out), hint="name a file")
    check_file(out)
    if dry_run:
        return
    results: list[Row] = []
    for pairs in sizes:
        # All precisions are compared at once where they are what is measured.
        for precision in precisions[:1] if set(rows) == {PRECISION} else precisions:
            setting = Setting(config, grid, pairs, tokens, precision, device, rounds)
            for group in rows:
                if group == RETRIEVAL:
                    found = retrieval_rows(setting, size, model)
                elif group == PRECISION:
                    found = precision_rows(setting, precisions, model, images=images)
                elif group == "speed" and model is not None:
                    found = speed_rows(setting, images=images, dual=model, stored=stored)
                else:
                    found = MEASURES[group](setting)
                show(bench_table(found, precision, pairs))
                for row in (row for row in found if row.note):
                    say(f"{row.variant}: {row.note}")
                if group == RETRIEVAL:
                    say(_beside_the_paper(found, size))
                results += found
    summary = as_json(results, name)
    if out is not None:
        write_json(out, summary)
        say(f"wrote {out}")
    last_line({"device": name, "speedup": _headline(results)})


def _stored(folder: Path | None, run: str | None) -> Callable[[int], list[Tensor]] | None:
    """Reads vectors of images drawn at random from an index of the run's."""
    if folder is None:
        return None
    if run is None:
        raise InputError("--index needs the RUN that it was built with", hint="vldistill bench RUN --index INDEX")
    from vldistill.evaluation.image_index import ImageIndex, model_fields
    from vldistill.models.base.checkpoint import read_checkpoint

    index = ImageIndex(folder)
    index.check_model(model_fields(run, read_checkpoint(run).spec), run)
    return partial(index.drawn, generator=np.random.default_rng(0))


def bench_table(rows: list[Row], precision: str, batch: int) -> Table:
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


def _beside_the_paper(rows: list[Row], size: RetrievalSize) -> str:
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


def _headline(rows: list[Row]) -> dict[str, float]:
    cached = [row for row in rows if row.variant in ("dual, images cached", END_TO_END)]
    return {f"{row.group}/{row.precision}/batch{row.batch}/text{row.tokens}": round(row.speedup, 2) for row in cached}


def _numbers(option: str, values: tuple[str, ...]) -> tuple[int, ...]:
    if not values or not all(value.isdigit() and int(value) > 0 for value in values):
        raise InputError(f"{option} {','.join(values)} is not a list of whole numbers", hint=f"for example {option} 32,256")
    return tuple(sorted({int(value) for value in values}, reverse=True))


def _device(gpu: bool) -> torch.device:
    if not gpu:
        return torch.device("cpu")
    check_card()
    if not torch.cuda.is_available():
        reason = "torch was built without CUDA" if torch.version.cuda is None else "no CUDA device is visible"
        raise InputError(
            f"--gpu: {unused_gpu() or reason}", hint="leave out --gpu to measure on the CPU; `vldistill doctor` says what is here"
        )
    return torch.device("cuda")


def _model(run: str | None, tokens: tuple[int, ...], *, ranks: bool):
    """The run's dual encoder and its sizes, or none and ViLT-B/32's. ranks: one that has no head will do."""
    if run is None:
        config = EncoderConfig(max_position_embeddings=max(40, *tokens))
        return None, config, PAPER_GRID, tokens, 1
    from vldistill.models.build import load_student
    from vldistill.models.retriever import load_retriever
    from vldistill.models.vilt.dual import DualEncoder

    model, spec, _ = (load_retriever if ranks else load_student)(run)
    if not isinstance(model, DualEncoder):
        raise InputError(
            f"is a {spec.kind} model, only a dual_encoder over patches is measured", where=run, hint="name a dual_encoder's run"
        )
    side = spec.image_size // spec.encoder.patch_size
    lengths = tuple(sorted({min(count, spec.max_length) for count in tokens}, reverse=True))
    return model, spec.encoder, (side, side), lengths, spec.images


def _pixels(grid: tuple[int, int], config: EncoderConfig) -> str:
    return f"{grid[0] * config.patch_size}x{grid[1] * config.patch_size} pixels, {grid[0] * grid[1]} patches"
