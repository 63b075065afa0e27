"""`vldistill predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vldistill.commands.options import Faults, MaxPixels, Run, SkipBroken, Workers, all_faults
from vldistill.commands.output import last_line
from vldistill.errors import InputError
from vldistill.terminal import complain, say, write_json


def predict(
    run: Run,
    image: Annotated[list[Path] | None, typer.Option("--image", metavar="FILE", help="Image file; give two for a pair.")] = None,
    text: Annotated[str | None, typer.Option("--text", metavar="TEXT", help="Question or statement.")] = None,
    pairs: Annotated[Path | None, typer.Option("--pairs", metavar="FILE", help="JSONL of {image, text}, to answer many.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="With --pairs: file for the answers.")] = None,
    top: Annotated[int, typer.Option("--top", min=1, metavar="N", help="Answers to show.")] = 5,
    batch: Annotated[int, typer.Option("--batch", min=1, metavar="N", help="Pairs in a batch.")] = 32,
    workers: Workers = 0,
    skip_broken: SkipBroken = "0%",
    faults: Faults = None,
    max_pixels: MaxPixels = None,
) -> None:
    """Answer one question, or a JSONL of pairs."""
    from vldistill.artifacts import write_text
    from vldistill.data.images import named_images
    from vldistill.data.inputs import parse_share
    from vldistill.evaluation.opened import open_model
    from vldistill.evaluation.predict import one_pair, ranked_answers, read_pairs
    from vldistill.places import check_file

    skip = parse_share(skip_broken)
    if pairs is None:
        for option, given in (("--faults", faults is not None), ("--skip-broken", skip > 0)):
            if given:
                raise InputError(f"{option} goes with --pairs", hint="leave it out")
        if not image:
            raise InputError("--image and --text are both needed", hint="or --pairs FILE for many")
        record = one_pair(image, text)
        [ranked] = ranked_answers(open_model(run), [record], named_images(max_pixels), batch=1, top=top)
        for label, probability in ranked:
            say(f"{probability:7.2%}  {label}")
        last_line({"prediction": ranked[0][0], "confidence": round(ranked[0][1], 4)})
        return
    if image or text:
        raise InputError("--pairs and --image or --text", hint="give one or the other")
    if out is not None and out.exists():
        raise InputError("already exists", where=str(out), hint="choose another name")
    check_file(out)
    with all_faults(faults) as problems:
        records, images, left = read_pairs(pairs, problems, max_pixels, skip)
    if left is not None:
        complain(str(left))  # standard output holds answers alone
    answers = ranked_answers(open_model(run), records, images, batch=batch, top=top, workers=workers)
    lines = [
        {"id": record.id, "prediction": best, "confidence": round(most, 6), "top": [[label, round(p, 6)] for label, p in ranked]}
        for record, ranked in zip(records, answers, strict=True)
        for best, most in ranked[:1]
    ]
    if out is None:
        for one in lines:
            write_json(one)
        return
    write_text(out, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in lines))
    say(f"wrote {len(lines)} answers to {out}")
