"""The command line's options and arguments that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeOption = Annotated[
    str, typer.Option("--recipe", "-r", metavar="FILE", help="Recipe file, or a shipped one's name.", show_default=False)
]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Recipe fields to change.", show_default=False)]
RunsOption = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder of all runs.")]
NameOption = Annotated[str | None, typer.Option("--name", metavar="NAME", help="Name of this variant of the run.")]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Only the first N records of each split.")]
Workers = Annotated[int, typer.Option("--workers", min=0, metavar="N", help="Processes that read images.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Resume = Annotated[
    str | None, typer.Option("--resume", metavar="auto", help="Go on with a run that is not complete; else start it.")
]
SkipBroken = Annotated[
    str, typer.Option("--skip-broken", metavar="N%", show_default=False, help="Leave out what is broken, up to N %.")
]
Faults = Annotated[Path | None, typer.Option("--faults", metavar="FILE", help="Write all faults of the input there, as JSONL.")]
MaxPixels = Annotated[int | None, typer.Option("--max-pixels", min=1, metavar="N", help="Of an image; else 25,000,000.")]
Runs = Annotated[list[str], typer.Argument(metavar="RUN", help="Run folder, model folder, or hub name.", show_default=False)]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Run folder, model folder, or hub name.", show_default=False)]
OtherData = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="Instead of the run's own data artifact.")]
