"""The command line: which commands there are, and how an error becomes text and an exit code.

A command's file in `commands/` holds its signature and its body, and imports what is heavy inside, so that help is quick.
"""

from __future__ import annotations

import gc
import os
import re
import sys
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from vldistill.commands.analyze import analyze
from vldistill.commands.bench import bench
from vldistill.commands.cache import cache
from vldistill.commands.compare import compare
from vldistill.commands.convert import convert
from vldistill.commands.doctor import doctor
from vldistill.commands.evaluate import evaluate
from vldistill.commands.index import index_app
from vldistill.commands.predict import predict
from vldistill.commands.prepare.app import prepare_app
from vldistill.commands.recipe import recipe_app
from vldistill.commands.report import report
from vldistill.commands.reproduce import reproduce_app
from vldistill.commands.train import distill, finetune, pretrain
from vldistill.devices import saying_what_to_lower
from vldistill.errors import DISK_ERRORS, VldistillError, failed_file, needed
from vldistill.runtime import wait_without_spinning
from vldistill.terminal import complain, open_streams, output_failure

COMMANDS = (
    (prepare_app, "prepare"),
    (cache, "cache --recipe my_recipe.yaml --shard 0/8"),
    (pretrain, "pretrain --recipe quickstart_advl_student"),
    (finetune, "finetune --recipe quickstart_teacher"),
    (distill, "distill --recipe quickstart_dide optim.lr=5e-4"),
    (evaluate, "evaluate runs/quickstart_teacher --split val"),
    (predict, 'predict RUN --image cat.jpg --text "is there a cat?"'),
    (compare, "compare runs/quickstart_dide/a/seed0 runs/quickstart_dide/b/seed0"),
    (bench, "bench --batch 32,256 --precision fp32,bf16"),
    (analyze, "analyze runs/mine --modality --before runs/plain"),
    (report, "report runs/quickstart_dide --out report"),
    (convert, "convert uniter uniter-base.pt models/uniter-base --vocab vocab.txt"),
    (recipe_app, "recipe"),
    (index_app, "index"),
    (reproduce_app, "reproduce"),
    (doctor, "doctor"),
)
"""Each with an example of its use; a group with its name."""


class InOrder(TyperGroup):
    """Which lists its commands as `COMMANDS` has them."""

    def list_commands(self, ctx):
        return [example.split()[0] for _, example in COMMANDS]


app = typer.Typer(
    name="vldistill",
    cls=InOrder,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Distil vision-language models: a fusion encoder into a dual encoder whose images are encoded once (DiDE), frozen "
    "unimodal teachers into a fusion student (ADVL).",
    epilog="Start with: vldistill prepare toy",
)
for _command, _example in COMMANDS:
    if isinstance(_command, typer.Typer):
        app.add_typer(_command, name=_example)
    else:
        app.command(epilog=f"Example: vldistill {_example}")(_command)

INTERRUPTED = 130  # Typer's own exit code for Ctrl-C


def _at_home(word: str) -> str:
    """`--raw=~/data` and `data.path=~/data` as `--raw ~/data`, which the shell opens."""
    option, home, rest = needed(re.match(r"(-{0,2}[\w.-]+=)?(~/)?(.*)", word, re.S), "a word").groups()
    return f"{option or ''}{Path.home()}/{rest}" if home else word


def main(argv: list[str] | None = None) -> Any:
    """Runs the command line; the one place where an error becomes text and an exit code."""
    open_streams()
    wait_without_spinning()
    words, code = [_at_home(word) for word in (sys.argv[1:] if argv is None else argv)], 0
    try:
        with saying_what_to_lower(words):
            app(args=words, standalone_mode=True)
    except VldistillError as error:
        if os.environ.get("VLDISTILL_DEBUG"):
            raise
        complain("\n".join(f"vldistill: {line}" for line in str(error).splitlines()))
        code = error.exit_code
    except OSError as error:
        if os.environ.get("VLDISTILL_DEBUG"):
            raise
        failed = failed_file(error)
        place = f"{failed.name}: " if failed is not None else ""
        complain(f"vldistill: {place}{error.strerror or error}")
        code = 1 if error.errno in DISK_ERRORS else 2
    except SystemExit as stop:
        code = stop.code
        if not code and (failure := output_failure()) is not None:
            complain(f"vldistill: standard output: {failure.strerror}; the work itself is done")
            code = 1
        if code == INTERRUPTED:
            trains = words[:1] in (["pretrain"], ["finetune"], ["distill"])
            advice = " (--resume auto goes on from the last checkpoint)" if trains else ""
            complain(f"vldistill: interrupted; nothing half-written counts as an artifact{advice}")
    if code:
        # Libraries have work to do at the end of a process, and want room for it: what the error held, a model perhaps, goes now.
        gc.collect()
    raise SystemExit(code)
