"""`vldistill index build | query`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vldistill.commands.options import DryRun, Faults, MaxPixels, Overwrite, SkipBroken

index_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Keep a dual encoder's image vectors, and ask them.",
    epilog='Example: vldistill index query INDEX "two dogs on a beach" --out dogs.html',
)


@index_app.command("build", epilog="Example: vldistill index build runs/dide_vilt_flickr30k photos --out artifacts/index/photos")
def build(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A dual encoder's run, model folder, or hub name.")],
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="Folder of images, or a data artifact.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Instead of artifacts/index/IMAGES.")] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, metavar="N", help="Images in a batch.")] = 32,
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="First N images only.")] = None,
    follow_links: Annotated[bool, typer.Option("--follow-links", help="Images may be links to elsewhere.")] = False,
    skip_broken: SkipBroken = "0%",
    faults: Faults = None,
    max_pixels: MaxPixels = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Encode images once."""
    from vldistill.commands.index_work import build_command
    from vldistill.commands.indexed_images import Asked
    from vldistill.data.left_out import parse_share

    asked = Asked(images, limit, follow_links, parse_share(skip_broken), faults, max_pixels)
    build_command(run, asked, out=out, batch=batch, dry_run=dry_run, overwrite=overwrite)


@index_app.command("query", epilog='Example: vldistill index query artifacts/index/photos "two dogs on a beach" --top 5')
def query(
    index: Annotated[Path, typer.Argument(metavar="INDEX", help="What `index build` wrote.")],
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="What to look for.")] = None,
    texts: Annotated[Path | None, typer.Option("--texts", metavar="FILE", help="Many texts, one a line.")] = None,
    top: Annotated[int, typer.Option("--top", min=1, metavar="N", help="Images a text.")] = 10,
    answer: Annotated[
        str | None, typer.Option("--answer", metavar="NAME", help="Of a model with answers: rank by this one.")
    ] = None,
    run: Annotated[str | None, typer.Option("--run", metavar="RUN", help="The model, where it has moved.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help=".html with thumbnails, or .jsonl.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="First check all stored vectors.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Rank the images of an index by texts."""
    from vldistill.commands.index_work import query_command

    query_command(index, text, texts=texts, top=top, answer=answer, run=run, out=out, verify=verify, overwrite=overwrite)
