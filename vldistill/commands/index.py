"""`vldistill index build | query`."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vldistill.commands.options import DryRun, Faults, MaxPixels, Overwrite, SkipBroken, all_faults
from vldistill.commands.output import Watching, last_line, show_plan
from vldistill.errors import InputError
from vldistill.store.uses import INDEX
from vldistill.terminal import Table, say, show, write_json

if TYPE_CHECKING:
    from vldistill.evaluation.indexed import Hit

index_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Store a dual encoder's image vectors, and search them.",
    epilog='Example: vldistill index query INDEX "two dogs on a beach" --out dogs.html',
)


@index_app.command("build", epilog="Example: vldistill index build runs/dide_vilt_flickr30k photos --out artifacts/index/photos")
def build(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A dual encoder's run, model folder, or hub name.")],
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of images, or a data artifact.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Instead of artifacts/index/IMAGES.")] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, metavar="N", help="Images in a batch.")] = 32,
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Only the first N images.")] = None,
    follow_links: Annotated[bool, typer.Option("--follow-links", help="Accept images that are links to elsewhere.")] = False,
    skip_broken: SkipBroken = "0%",
    faults: Faults = None,
    max_pixels: MaxPixels = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Encode images once, and store their vectors."""
    from vldistill.artifacts import refuse_existing
    from vldistill.data.image_files import MAX_PIXELS
    from vldistill.data.inputs import parse_share
    from vldistill.data.transforms import size_faults
    from vldistill.devices import compute_device
    from vldistill.evaluation.image_index import Asked, build_index, images_of, model_fields
    from vldistill.models.base.inputs import visual_input
    from vldistill.models.build import load_dual_encoder
    from vldistill.places import check_writable

    asked = Asked(images, limit, follow_links, parse_share(skip_broken), max_pixels)
    target = out or INDEX.place / images.resolve().name
    if not dry_run:
        check_writable(target)
    model, spec, _ = load_dual_encoder(run)
    with all_faults(faults) as problems:
        chosen = images_of(asked, problems)
    source = chosen.source
    for note in chosen.notes:
        say(f"note: {note}")
    size = len(source.known) * spec.images * model.width * 4
    visual = visual_input(spec, source.images, memory=False)
    sizes = ((path, *info.size(spec.upright)) for path, info in source.known.items())
    badly_seen = str(size_faults(sizes, visual.seen)) if visual.seen else ""
    show_plan(
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
            **({"left_out": asdict(chosen.left_out)} if chosen.left_out else {}),
            **({} if source.images.most_pixels == MAX_PIXELS else {"max_pixels": source.images.most_pixels}),
        )
    seconds = time.perf_counter() - started
    say(f"wrote {target} after {seconds:.1f} s")
    last_line({"index": str(target), "images": manifest["counts"]["images"], "seconds": round(seconds, 2)})


@index_app.command("query", epilog='Example: vldistill index query artifacts/index/photos "two dogs on a beach" --top 5')
def query(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="What `index build` wrote.")],
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="What to look for.")] = None,
    texts: Annotated[Path | None, typer.Option("--texts", metavar="FILE", help="Many texts, one a line.")] = None,
    top: Annotated[int, typer.Option("--top", min=1, metavar="N", help="Images per text.")] = 10,
    answer: Annotated[str | None, typer.Option("--answer", metavar="NAME", help="Rank by this answer's probability.")] = None,
    run: Annotated[str | None, typer.Option("--run", metavar="RUN", help="Model to use, if it has moved.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help=".html with thumbnails, or .jsonl.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Check all stored vectors first.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Rank the images of an index by texts."""
    from vldistill.artifacts import write_text
    from vldistill.devices import compute_device
    from vldistill.evaluation.image_index import ImageIndex, model_fields
    from vldistill.evaluation.indexed import Searcher, results_page
    from vldistill.models.build import load_dual_encoder
    from vldistill.places import check_file

    if (text is None) == (texts is None):
        raise InputError("a TEXT or --texts FILE is needed, and not both", hint='as in: vldistill index query INDEX "a dog"')
    if out is not None:
        if out.suffix not in (".html", ".jsonl"):
            raise InputError(f"--out {out} is neither a page nor JSONL", hint="name it .html or .jsonl")
        if out.exists() and not overwrite:
            raise InputError("already exists", where=str(out), hint="pass --overwrite, or another name")
        check_file(out)
    asked = [text] if text is not None else _lines(texts)
    stored = ImageIndex(index)
    if verify:
        stored.verify()
    source = run or stored.model
    model, spec, tokenizer = load_dual_encoder(source)
    stored.check_model(model_fields(source, spec), source)
    searcher = Searcher(stored, model, spec, tokenizer, answer, compute_device())
    started = time.perf_counter()
    hits = searcher.search(asked, min(top, len(stored)))
    seconds = time.perf_counter() - started
    summary = f"{len(stored):,} images of {stored.manifest['root'] or index}, ranked by "
    summary += f"the probability of {answer!r}" if answer else "the cosine of their vectors with the text's"
    if out is not None and out.suffix == ".html":
        title = asked[0] if len(asked) == 1 else f"{len(asked)} texts"
        write_text(out, results_page(title, summary, asked, hits, stored.images()))
    elif out is not None:
        rows = (json.dumps(_row(one, own_hits), ensure_ascii=False) for one, own_hits in zip(asked, hits, strict=True))
        write_text(out, "".join(f"{row}\n" for row in rows))
    elif len(asked) == 1:
        show(_table(hits[0]))
    else:
        for one, own_hits in zip(asked, hits, strict=True):
            write_json(_row(one, own_hits))
    if out is not None:
        say(f"wrote {out}")
    if out is not None or len(asked) == 1:
        best = hits[0][0]
        figures = {"best": best.path, "score": round(best.score, 4), "seconds": round(seconds, 3)}
        last_line({"texts": len(asked), "images": len(stored), **figures})


def _lines(path: Path) -> list[str]:
    from vldistill.data.records import read_text

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
