"""`vldistill convert`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from vldistill.commands.options import Overwrite
from vldistill.commands.output import last_line, split_list
from vldistill.errors import InputError
from vldistill.terminal import say

KINDS = ("vilt", "meter", "oscar", "uniter", "vlbert", "clip_vil", "slip", "declip")

_OFFICIAL_FUSION = ("vilt", "meter", "oscar")
_OF_BERT = ("vilt", "oscar", "uniter", "vlbert", "clip_vil")
"""Those with a BERT, whose case a file may not tell."""
_OWN_VOCABULARY = ("slip", "declip")
"""Those that read by CLIP's vocabulary, which open_clip brings."""


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
    if kind not in KINDS:
        raise InputError(f"convert {kind}: no such kind", hint=f"one of {', '.join(KINDS)}")
    if (vocab is None) != (kind in _OWN_VOCABULARY):
        if vocab is not None:
            raise InputError(f"--vocab means nothing for {kind}", hint="leave it out")
        raise InputError(
            "--vocab is missing",
            hint=(
                "give the folder of its RoBERTa, with vocab.json and merges.txt"
                if kind == "meter"
                else "give the vocab.txt of its BERT: cased for uniter, uncased for the others"
            ),
        )
    if answers is not None and kind not in _OFFICIAL_FUSION:
        raise InputError(f"--answers means nothing for {kind}", hint="leave it out")
    if case not in (None, "cased", "uncased"):
        raise InputError(f"--case {case} is not known", hint="cased or uncased")
    if case is not None and kind not in _OF_BERT:
        raise InputError(f"--case means nothing for {kind}", hint="leave it out")
    told_apart: dict[str, Any] = {"heads": None if heads is None else _numbers(heads), "overwrite": overwrite}
    if kind in _OF_BERT:
        told_apart["lowercase"] = None if case is None else case == "uncased"
    from vldistill.artifacts import CONVERTED, read_manifest
    from vldistill.places import check_writable

    check_writable(out)
    if kind == "slip":
        from vldistill.models.base import slip

        sizes = slip.convert(file, out, **told_apart)
        summary = {"vision": sizes["architecture"], "text": f"{sizes['layers']} x {sizes['width']}"}
    elif kind == "declip":
        from vldistill.models.clip_dual import official

        config = official.convert(file, out, **told_apart).encoder
        summary = {
            "vision": f"{config.vision_layers} x {config.vision_width}",
            "shared": config.hidden_size,
            "text": f"{config.num_hidden_layers} x {config.text_width}",
        }
    else:
        official = import_module(f"vldistill.models.{kind}.official")
        if kind in _OFFICIAL_FUSION:
            told_apart["answers"] = answers
        spec = official.convert(file, vocab, out, **told_apart)
        summary = {"layers": spec.encoder.num_hidden_layers, "width": spec.encoder.hidden_size}
        if kind in _OFFICIAL_FUSION:
            summary |= {"task": spec.task or "none", "classes": len(spec.labels)}
    weights = read_manifest(out, CONVERTED, make_it="")["weights"]
    for why, names in weights["left_out"].items():
        more = f", and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
        say(f"left out: {', '.join(names[:_SHOWN])}{more}: {why}")
    left = weights["in_file"] - weights["kept"]
    say(f"kept {weights['kept']:,} of the file's {weights['in_file']:,} weights, left out {left:,}; the manifest names them")
    say(f"wrote {out}: {', '.join(f'{name} {value}' for name, value in summary.items())}")
    last_line({"model": str(out), "kind": kind, **summary, "kept": weights["kept"], "left_out": left})


def _numbers(text: str) -> tuple[int, ...]:
    values = split_list(text)
    if not values or not all(value.isascii() and value.isdigit() and len(value) <= _DIGITS and int(value) for value in values):
        raise InputError(
            f"--heads {text[:60]} is no number of heads", hint="give one, or one for each Transformer, as in 12,12,12"
        )
    return tuple(map(int, values))
