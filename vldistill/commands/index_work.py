"""What `vldistill index` does."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vldistill.artifacts import refuse_existing, write_text
from vldistill.commands.indexed_images import Asked, images_of
from vldistill.commands.output import last_line, plan_table
from vldistill.commands.progress import Watching
from vldistill.data.image_files import MAX_PIXELS
from vldistill.data.records import read_text
from vldistill.data.size_rules import size_faults
from vldistill.devices import compute_device
from vldistill.errors import InputError
from vldistill.evaluation.image_index import ImageIndex, build_index, model_fields
from vldistill.evaluation.index_page import results_page
from vldistill.evaluation.index_query import Hit, Searcher
from vldistill.models.base.inputs import visual_input
from vldistill.models.build import load_dual_encoder
from vldistill.places import check_file, check_writable
from vldistill.store.uses import INDEX
from vldistill.terminal import Table, say, show, write_json


def build_command(run: str, asked: Asked, *, out: Path | None, batch: int, dry_run: bool, overwrite: bool) -> None:
    """Encodes the images of a folder or of a data artifact; the last line of standard output is JSON."""
    target = out or INDEX.place / asked.place.resolve().name
    if not dry_run:
        check_writable(target)
    model, spec, _ = load_dual_encoder(run)
    found, images, limit = images_of(asked), asked.place, asked.limit
    source = found.source
    for note in found.notes:
        say(f"note: {note}")
    size = len(source.known) * spec.images * model.width * 4
    visual = visual_input(spec, source.images, memory=False)
    sizes = ((path, *info.size(spec.upright)) for path, info in source.known.items())
    badly_seen = str(size_faults(sizes, visual.seen)) if visual.seen else ""
    show(
        plan_table(
            "index build",
            {
                "model": run,
                "images": f"{images}: {len(source.known):,}" + (f", the first {limit:,} of them" if limit else ""),
                "vectors": f"{model.width} numbers of each{f', at {spec.images} places of a record' if spec.images > 1 else ''}: "
                f"{size / 2**20:,.1f} MiB",
                **({"image sizes": f"WARNING: {badly_seen}"} if badly_seen else {}),
                "writes": str(target),
            },
        )
    )
    if dry_run:
        return
    refuse_existing(target, overwrite, INDEX.stage)
    device = compute_device()
    started = time.perf_counter()
    with Watching() as watch:
        manifest = build_index(
            target,
            model.to(device),
            model_fields(run, spec),
            source,
            visual,
            batch=batch,
            device=device,
            overwrite=overwrite,
            tick=watch(len(source.known), "images", None),
            source=run,
            encoded=str(images),
            partial=limit is not None,
            **({"left_out": asdict(found.left_out)} if found.left_out else {}),
            **({} if source.images.most_pixels == MAX_PIXELS else {"max_pixels": source.images.most_pixels}),
        )
    seconds = time.perf_counter() - started
    say(f"wrote {target} after {seconds:.1f} s")
    last_line({"index": str(target), "images": manifest["counts"]["images"], "seconds": round(seconds, 2)})


def query_command(
    folder: Path,
    text: str | None,
    *,
    texts: Path | None,
    top: int,
    answer: str | None,
    run: str | None,
    out: Path | None,
    verify: bool,
    overwrite: bool,
) -> None:
    """Prints the best images of one text, or writes those of one or many; the last line of standard output is JSON."""
    if (text is None) == (texts is None):
        raise InputError("a TEXT or --texts FILE is needed, and not both", hint='as in: vldistill index query INDEX "a dog"')
    if out is not None:
        if out.suffix not in (".html", ".jsonl"):
            raise InputError(f"--out {out} is neither a page nor JSONL", hint="name it .html or .jsonl")
        if out.exists() and not overwrite:
            raise InputError("already exists", where=str(out), hint="pass --overwrite, or another name")
        check_file(out)
    asked = [text] if text is not None else _lines(texts)
    index = ImageIndex(folder)
    if verify:
        index.verify()
    source = run or index.model
    model, spec, tokenizer = load_dual_encoder(source)
    index.check_model(model_fields(source, spec), source)
    searcher = Searcher(index, model, spec, tokenizer, answer, compute_device())
    started = time.perf_counter()
    hits = searcher.search(asked, min(top, len(index)))
    seconds = time.perf_counter() - started
    told = f"{len(index):,} images of {index.manifest['root'] or folder}, ranked by "
    told += f"the probability of {answer!r}" if answer else "the cosine of their vectors with the text's"
    if out is not None and out.suffix == ".html":
        title = asked[0] if len(asked) == 1 else f"{len(asked)} texts"
        write_text(out, results_page(title, told, asked, hits, index.images()))
    elif out is not None:
        write_text(
            out, "".join(json.dumps(_row(one, found), ensure_ascii=False) + "\n" for one, found in zip(asked, hits, strict=True))
        )
    elif len(asked) == 1:
        show(_table(hits[0]))
    else:
        for one, found in zip(asked, hits, strict=True):
            write_json(_row(one, found))
    if out is not None:
        say(f"wrote {out}")
    if out is not None or len(asked) == 1:
        best = hits[0][0]
        last_line(
            {
                "texts": len(asked),
                "images": len(index),
                "best": best.path,
                "score": round(best.score, 4),
                "seconds": round(seconds, 3),
            }
        )


def _lines(path: Path) -> list[str]:
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not lines:
        raise InputError("holds no text", where=str(path), hint="write one a line")
    return lines


def _row(text: str, hits: list[Hit]) -> dict[str, Any]:
    return {"text": text, "images": [{"image": hit.path, "score": round(hit.score, 6)} for hit in hits]}


def _table(hits: list[Hit]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.figures("", "score")
    table.words("image")
    for place, hit in enumerate(hits, start=1):
        table.add_row(str(place), f"{hit.score:.4f}", hit.path)
    return table
