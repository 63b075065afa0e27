"""`vldistill convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vldistill.commands.options import Overwrite, split_list
from vldistill.commands.output import last_line
from vldistill.errors import InputError
from vldistill.terminal import say

_SHOWN = 3
_DIGITS = 4


def convert(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND", help="vilt, meter, oscar, uniter (VILLA too), vlbert, clip_vil, slip, declip.", show_default=False
        ),
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The official checkpoint (oscar: a folder).", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.", show_default=False)],
    vocab: Annotated[
        Path | None, typer.Option("--vocab", metavar="FILE", help="vocab.txt of its BERT (meter: RoBERTa's folder).")
    ] = None,
    answers: Annotated[Path | None, typer.Option("--answers", metavar="FILE", help="VQA: answers.json or config.json.")] = None,
    heads: Annotated[str | None, typer.Option("--heads", metavar="N,N", help="Attention heads, if the file lacks them.")] = None,
    case: Annotated[str | None, typer.Option("--case", metavar="CASE", help="Case of the vocabulary: cased or uncased.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Turn an official checkpoint into a model folder."""
    from vldistill.recipe.schema.students import official_layouts

    layouts = official_layouts()
    if kind not in layouts:
        raise InputError(f"convert {kind}: no such kind", hint=f"one of {', '.join(layouts)}")
    layout = layouts[kind]
    if vocab is None and layout.vocabulary:
        raise InputError("--vocab is missing", hint=layout.vocabulary)
    if case not in (None, "cased", "uncased"):
        raise InputError(f"--case {case} is not known", hint="cased or uncased")
    numbers, lowercase = None if heads is None else _numbers(heads), None if case is None else case == "uncased"
    for option, value, means in (
        ("--vocab", vocab, bool(layout.vocabulary)),
        ("--answers", answers, layout.answers),
        ("--case", case, layout.cased),
    ):
        if value is not None and not means:
            raise InputError(f"{option} means nothing for {kind}", hint="leave it out")
    from vldistill.artifacts import CONVERTED, read_manifest
    from vldistill.places import check_writable

    check_writable(out)
    facts = layout.convert(file, vocab, out, answers=answers, heads=numbers, lowercase=lowercase, overwrite=overwrite)
    weights = read_manifest(out, CONVERTED, make_it="")["weights"]
    for why, names in weights["left_out"].items():
        more = f", and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
        say(f"left out: {', '.join(names[:_SHOWN])}{more}: {why}")
    left = weights["in_file"] - weights["kept"]
    say(f"kept {weights['kept']:,} of the file's {weights['in_file']:,} weights, left out {left:,}; the manifest names them")
    say(f"wrote {out}: {', '.join(f'{name} {value}' for name, value in facts.items())}")
    last_line({"model": str(out), "kind": kind, **facts, "kept": weights["kept"], "left_out": left})


def _numbers(text: str) -> tuple[int, ...]:
    values = split_list(text)
    if not values or not all(value.isascii() and value.isdigit() and len(value) <= _DIGITS and int(value) for value in values):
        raise InputError(
            f"--heads {text[:60]} is no number of heads", hint="give one, or one for each Transformer, as in 12,12,12"
        )
    return tuple(map(int, values))
