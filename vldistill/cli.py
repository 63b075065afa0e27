"""The command line: one thin function per command. Heavy imports happen inside them, so that help is quick."""

from __future__ import annotations

import gc
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from vldistill.commands.index import index_app
from vldistill.commands.options import (
    DryRun,
    Faults,
    LimitOption,
    MaxPixels,
    NameOption,
    OtherData,
    Overrides,
    Overwrite,
    RecipeOption,
    Resume,
    Run,
    Runs,
    RunsOption,
    SkipBroken,
    Workers,
)
from vldistill.commands.recipe import recipe_app
from vldistill.commands.reproduce import reproduce_app
from vldistill.errors import DISK_ERRORS, VldistillError, failed_file
from vldistill.memory import saying_what_to_lower
from vldistill.terminal import complain, open_streams, output_failure
from vldistill.threads import wait_without_spinning

app = typer.Typer(
    name="vldistill",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Distil vision-language models: a fusion encoder into a dual encoder whose images are encoded once (DiDE), frozen "
    "unimodal teachers into a fusion student (ADVL).",
    epilog="Start with: vldistill prepare toy",
)
app.add_typer(recipe_app, name="recipe")
app.add_typer(index_app, name="index")
app.add_typer(reproduce_app, name="reproduce")


@app.command(epilog="Example: vldistill prepare vqa --raw ~/vqa2")
def prepare(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="vcr, vqa, ..., toy or regions; `list` names all.")],
    raw: Annotated[Path | None, typer.Option("--raw", metavar="PATH", help="Folder or archive (toy: written there).")] = None,
    unpack: Annotated[Path | None, typer.Option("--unpack", metavar="DIR", help="Unpack archives of --raw there first.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Instead of artifacts/data/DATASET.")] = None,
    min_count: Annotated[int, typer.Option("--min-count", min=1, metavar="N", help="vqa: least count of a class.")] = 9,
    vqa_split: Annotated[
        str, typer.Option("--vqa-split", metavar="HOW", show_default=False, help="vqa: official or trainval.")
    ] = "official",
    labels: Annotated[str, typer.Option("--labels", metavar="A,B", help="jsonl: class names in order.")] = "",
    task: Annotated[str | None, typer.Option("--task", metavar="TASK", help="jsonl: the task, if not plain.")] = None,
    val_directories: Annotated[str, typer.Option("--val-directories", metavar="4,5", help="nlvr: directories held out.")] = "",
    splits: Annotated[str, typer.Option("--splits", metavar="A,B", help="Only these of train, val, test.")] = "",
    limit: LimitOption = None,
    images: Annotated[str, typer.Option("--images", metavar="HOW", help="Check by: decode, header, none.")] = "decode",
    follow_links: Annotated[bool, typer.Option("--follow-links", help="Images may be links to elsewhere.")] = False,
    skip_broken: SkipBroken = "0%",
    faults: Faults = None,
    max_pixels: MaxPixels = None,
    lowshot: Annotated[str, typer.Option("--lowshot", metavar="N,N", help="Also draw N of each type (ADVL).")] = "",
    seeds: Annotated[str, typer.Option("--seeds", metavar="K,K", help="Seeds of the low-shot draws.")] = "0,1,2,3",
    domain_shift: Annotated[bool, typer.Option("--domain-shift", help="Also write the shifted val and test.")] = False,
    statements: Annotated[bool, typer.Option("--statements", help="Also write train as statements.")] = False,
    shards: Annotated[
        int | None, typer.Option("--shards", min=1, metavar="N", help="Also pack N samples a tar (WebDataset).")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="N", help="toy: seed of the world.")] = 0,
    scale: Annotated[float, typer.Option("--scale", metavar="X", help="toy: size of the world.")] = 1.0,
    datasets: Annotated[str, typer.Option("--datasets", metavar="A,B", help="toy: only these.")] = "",
    format: Annotated[str, typer.Option("--format", metavar="NAME", help="regions: of the files, if not plain.")] = "",
    threshold: Annotated[float, typer.Option("--threshold", metavar="X", help="regions: least confidence.")] = 0.2,
    boxes: Annotated[str, typer.Option("--boxes", metavar="N,N", help="regions: fewest, most an image.")] = "10,100",
    data: Annotated[Path | None, typer.Option("--data", metavar="DIR", help="regions: compute them for this data.")] = None,
    grid: Annotated[int | None, typer.Option("--grid", min=1, metavar="N", help="regions: N x N cells, with --data.")] = None,
    weights: Annotated[str | None, typer.Option("--weights", metavar="FILE", help="regions: ResNet-101's, with --data.")] = None,
    network: Annotated[str, typer.Option("--network", metavar="NAME", help="regions: timm or vlbert.")] = "timm",
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Turn a dataset's official files into a data artifact."""
    asked = SimpleNamespace(**locals())  # context.params has paths as text in some versions
    from vldistill.commands.prepare import prepare_command

    options = {option.opts[0]: context.get_parameter_source(option.name) for option in context.command.params}
    prepare_command(asked, {name for name, source in options.items() if source.name == "COMMANDLINE"})


@app.command(epilog="Example: vldistill cache --recipe my_recipe.yaml --shard 0/8")
def cache(
    recipe: Annotated[
        str | None, typer.Option("--recipe", "-r", metavar="FILE", help="Recipe file, or a shipped one's name.")
    ] = None,
    overrides: Overrides = None,
    shard: Annotated[str, typer.Option("--shard", metavar="I/N", help="Compute this part only, from 0/N.")] = "0/1",
    limit: LimitOption = None,
    prefetch: Annotated[bool, typer.Option("--prefetch", help="Only fetch the teachers' weights.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Check what is stored.")] = False,
    rows: Annotated[int, typer.Option("--rows", min=0, metavar="N", help="Rows that --verify computes again.")] = 16,
    ls: Annotated[bool, typer.Option("--ls", help="List what is stored.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Store frozen teachers' features on disk."""
    from vldistill.commands.cache import cache_command

    cache_command(
        recipe, overrides or [], shard=shard, limit=limit, prefetch=prefetch, verify=verify, rows=rows, ls=ls, dry_run=dry_run
    )


@app.command(epilog="Example: vldistill pretrain --recipe quickstart_advl_student")
def pretrain(
    recipe: RecipeOption,
    overrides: Overrides = None,
    name: NameOption = None,
    runs: RunsOption = Path("runs"),
    limit: LimitOption = None,
    resume: Resume = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Train on captions or text alone, without labels."""
    from vldistill.commands.train import train_command

    train_command(
        "pretrain",
        recipe,
        overrides or [],
        name=name,
        runs=runs,
        limit=limit,
        resume=resume,
        dry_run=dry_run,
        overwrite=overwrite,
    )


@app.command(epilog="Example: vldistill distill --recipe quickstart_dide optim.lr=5e-4")
def distill(
    recipe: RecipeOption,
    overrides: Overrides = None,
    name: NameOption = None,
    runs: RunsOption = Path("runs"),
    limit: LimitOption = None,
    resume: Resume = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a student with its teachers: DiDE, ADVL."""
    from vldistill.commands.train import train_command

    train_command(
        "distill", recipe, overrides or [], name=name, runs=runs, limit=limit, resume=resume, dry_run=dry_run, overwrite=overwrite
    )


@app.command(epilog="Example: vldistill finetune --recipe quickstart_teacher")
def finetune(
    recipe: RecipeOption,
    overrides: Overrides = None,
    name: NameOption = None,
    runs: RunsOption = Path("runs"),
    limit: LimitOption = None,
    resume: Resume = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Train on labels alone: baselines, teachers."""
    from vldistill.commands.train import train_command

    train_command(
        "finetune",
        recipe,
        overrides or [],
        name=name,
        runs=runs,
        limit=limit,
        resume=resume,
        dry_run=dry_run,
        overwrite=overwrite,
    )


@app.command(epilog="Example: vldistill evaluate runs/quickstart_teacher --split val")
def evaluate(
    runs: Runs,
    data: OtherData = None,
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="Split to evaluate.")] = "val",
    batch: Annotated[int, typer.Option("--batch", min=1, metavar="N", help="Pairs in a batch.")] = 32,
    workers: Workers = 0,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Instead of RUN/eval/SPLIT.")] = None,
    limit: LimitOption = None,
    precision: Annotated[str, typer.Option("--precision", metavar="P", help="fp32, bf16, fp16 or int8.")] = "fp32",
    index: Annotated[
        Path | None, typer.Option("--index", metavar="DIR", help="Take image vectors from what `index build` wrote.")
    ] = None,
    ensemble: Annotated[bool, typer.Option("--ensemble", help="Also average the runs' probabilities (--out: of that).")] = False,
    part: Annotated[str | None, typer.Option("--part", metavar="PART", help="vcr: answers, rationales or both.")] = None,
    domain_shift: Annotated[bool, typer.Option("--domain-shift", help="Also on SPLIT-shift, side by side.")] = False,
    leaderboard: Annotated[
        Path | None, typer.Option("--leaderboard", metavar="FILE", help="vcr, vqa, nlvr2: write what the server reads.")
    ] = None,
    allow_partial: Annotated[bool, typer.Option("--allow-partial", help="--leaderboard even of some records only.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Score runs with the official metrics."""
    from vldistill.commands.evaluate import Asked, evaluate_command

    evaluate_command(
        runs,
        Asked(
            data,
            split,
            batch,
            workers,
            out,
            limit,
            precision,
            index,
            ensemble,
            part,
            domain_shift,
            leaderboard,
            allow_partial,
            dry_run,
        ),
    )


@app.command(epilog='Example: vldistill predict RUN --image cat.jpg --text "is there a cat?"')
def predict(
    run: Run,
    image: Annotated[list[Path] | None, typer.Option("--image", metavar="FILE", help="Image; twice for pairs.")] = None,
    text: Annotated[str | None, typer.Option("--text", metavar="TEXT", help="Question or statement.")] = None,
    pairs: Annotated[Path | None, typer.Option("--pairs", metavar="FILE", help="JSONL of {image, text}, for many.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="With --pairs: where answers go.")] = None,
    top: Annotated[int, typer.Option("--top", min=1, metavar="N", help="Answers to show.")] = 5,
    batch: Annotated[int, typer.Option("--batch", min=1, metavar="N", help="Pairs in a batch.")] = 32,
    workers: Workers = 0,
    skip_broken: SkipBroken = "0%",
    faults: Faults = None,
    max_pixels: MaxPixels = None,
) -> None:
    """Answer one question, or a JSONL of pairs."""
    from vldistill.commands.predict import predict_command
    from vldistill.data.left_out import parse_share

    predict_command(
        run,
        images=image or [],
        text=text,
        pairs=pairs,
        out=out,
        top=top,
        batch=batch,
        workers=workers,
        skip_broken=parse_share(skip_broken),
        faults=faults,
        max_pixels=max_pixels,
    )


@app.command(epilog="Example: vldistill compare runs/quickstart_dide/a/seed0 runs/quickstart_dide/b/seed0")
def compare(
    run_a: Annotated[str, typer.Argument(metavar="RUN_A", help="Run, or an ensemble's folder.", show_default=False)],
    run_b: Annotated[str, typer.Argument(metavar="RUN_B", help="The other.", show_default=False)],
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="Of RUN/eval, as `evaluate` wrote it.")] = "val",
    examples: Annotated[int, typer.Option("--examples", min=0, metavar="N", help="Changed answers to show.")] = 8,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help=".json, instead of one in RUN_A/eval/SPLIT.")] = None,
) -> None:
    """Say which answers changed, with a paired test."""
    from vldistill.commands.compare import compare_command

    compare_command(run_a, run_b, split=split, examples=examples, out=out)


@app.command(epilog="Example: vldistill bench --batch 32,256 --precision fp32,bf16")
def bench(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="A dual encoder's run; else random weights.")] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Measure on CUDA.")] = False,
    batch: Annotated[str, typer.Option("--batch", metavar="N,N", help="Batch sizes.")] = "32",
    precision: Annotated[str, typer.Option("--precision", metavar="P,P", help="fp32, bf16, fp16, int8.")] = "fp32",
    rounds: Annotated[int, typer.Option("--rounds", min=1, metavar="N", help="Interleaved rounds.")] = 5,
    length: Annotated[str, typer.Option("--length", metavar="N,N", help="Text tokens.")] = "40,12",
    rows: Annotated[
        str,
        typer.Option(
            "--rows", metavar="R,R", show_default=False, help="speed, pair, capture, step, fusions, retrieval, precision."
        ),
    ] = "speed,pair",
    retrieval: Annotated[bool, typer.Option("--retrieval", help="Only the rows of retrieval.")] = False,
    images: Annotated[int, typer.Option("--images", min=1, metavar="N", help="Retrieval: images.")] = 1000,
    texts: Annotated[int, typer.Option("--texts", min=1, metavar="N", help="Retrieval: texts.")] = 5000,
    pairs: Annotated[int, typer.Option("--pairs", min=1, metavar="N", help="Retrieval: pairs read by fusion.")] = 64,
    index: Annotated[Path | None, typer.Option("--index", metavar="DIR", help="Also read vectors from the RUN's index.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, metavar="N", help="CPU threads.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="JSON file to write.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Time the fusion against the dual encoder."""
    from vldistill.commands.bench import bench_command
    from vldistill.evaluation.bench_retrieval import RetrievalSize

    bench_command(
        run,
        gpu=gpu,
        batches=_split(batch),
        precisions=_split(precision),
        rounds=rounds,
        lengths=_split(length),
        rows=("retrieval",) if retrieval else _split(rows),
        size=RetrievalSize(images, texts, pairs),
        index=index,
        threads=threads,
        out=out,
        dry_run=dry_run,
    )


@app.command(epilog="Example: vldistill analyze runs/mine --modality --before runs/plain")
def analyze(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run folder.", show_default=False)],
    words: Annotated[bool, typer.Option("--words", help="ADVL: texts shaded by the importance of their words.")] = False,
    tokens: Annotated[bool, typer.Option("--tokens", help="Texts shaded by what [CLS] attends to.")] = False,
    modality: Annotated[bool, typer.Option("--modality", help="Attention on vision and on text, head by head.")] = False,
    attention: Annotated[bool, typer.Option("--attention", help="Words' attention over the image, and the teacher's.")] = False,
    before: Annotated[
        str | None, typer.Option("--before", metavar="RUN", help="tokens, modality: compare with this run.")
    ] = None,
    queries: Annotated[str, typer.Option("--queries", metavar="Q", help="modality: attention of cls, or all.")] = "cls",
    image: Annotated[list[Path] | None, typer.Option("--image", metavar="FILE", help="attention: an image of yours.")] = None,
    text: Annotated[str | None, typer.Option("--text", metavar="TEXT", help="attention: its sentence.")] = None,
    max_pixels: MaxPixels = None,
    data: OtherData = None,
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="Split to draw records from.")] = "val",
    samples: Annotated[
        int | None, typer.Option("--samples", min=1, metavar="N", help="Records: 12; modality 256, attention 4.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="One .html or .png, instead of RUN/figures/VIEW.*.")
    ] = None,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Show what a run attends to."""
    from vldistill.commands.analyze import Asked, analyze_command

    wanted = {"words": words, "tokens": tokens, "modality": modality, "attention": attention}
    asked = Asked(before, queries, image or [], text, samples, max_pixels)
    analyze_command(run, wanted=wanted, asked=asked, data=data, split=split, out=out, dry_run=dry_run, overwrite=overwrite)


@app.command(epilog="Example: vldistill report runs/quickstart_dide --out report")
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Runs, or folders that hold runs.", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Write page and tables there.")] = None,
    title: Annotated[str, typer.Option("--title", metavar="TEXT", help="Title of the page.")] = "Distillation runs",
    samples: Annotated[int, typer.Option("--samples", min=0, metavar="N", help="Predictions shown of each data set.")] = 8,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Put finished runs beside each other and the papers."""
    from vldistill.commands.report import report_command

    report_command(runs, out=out, title=title, samples=samples, dry_run=dry_run, overwrite=overwrite)


@app.command(epilog="Example: vldistill convert uniter uniter-base.pt models/uniter-base --vocab vocab.txt")
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
        Path | None,
        typer.Option("--vocab", metavar="FILE", help="vocab.txt of its BERT (meter: RoBERTa's folder)."),
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option("--answers", metavar="FILE", help="vilt, meter, oscar, VQA: answers.json or config.json."),
    ] = None,
    heads: Annotated[
        str | None, typer.Option("--heads", metavar="N,N", help="Of attention, where the file cannot tell; of each part.")
    ] = None,
    case: Annotated[str | None, typer.Option("--case", metavar="CASE", help="Of the vocabulary: cased or uncased.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Turn an official checkpoint into a model folder."""
    from vldistill.commands.convert import convert_command

    convert_command(kind, file, out, vocab=vocab, answers=answers, heads=heads, case=case, overwrite=overwrite)


@app.command(epilog="Example: vldistill doctor")
def doctor() -> None:
    """Say what works on this machine."""
    from vldistill.commands.doctor import doctor_command

    doctor_command()


INTERRUPTED = 130  # Typer's own exit code for Ctrl-C


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _at_home(word: str) -> str:
    """`--raw=~/data` and `data.path=~/data` as `--raw ~/data`, which the shell opens."""
    option, home, rest = re.match(r"(-{0,2}[\w.-]+=)?(~/)?(.*)", word, re.S).groups()
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
        found = failed_file(error)
        place = f"{found.name}: " if found is not None else ""
        complain(f"vldistill: {place}{error.strerror or error}")
        code = 1 if error.errno in DISK_ERRORS else 2
    except SystemExit as stop:
        code = stop.code
        if not code and (failure := output_failure()) is not None:
            complain(f"vldistill: standard output: {failure.strerror}; the work itself is done")
            code = 1
        if code == INTERRUPTED:
            trains = words[:1] in (["pretrain"], ["finetune"], ["distill"])
            told = " (--resume auto goes on from the last checkpoint)" if trains else ""
            complain(f"vldistill: interrupted; nothing half-written counts as an artifact{told}")
    if code:
        # Libraries have work to do at the end of a process, and want room for it: what the error held, a model perhaps, goes now.
        gc.collect()
    raise SystemExit(code)
