"""The command line: one thin function per command. Heavy imports happen inside them, so that help is quick."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vldistill.commands.recipe import recipe_app
from vldistill.errors import VldistillError

app = typer.Typer(
    name="vldistill", no_args_is_help=True, add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Distil vision-language models: fusion encoders into dual encoders whose images are encoded once.",
    epilog="Start with: vldistill prepare toy    then: vldistill finetune --recipe quickstart_pretrain",
)
app.add_typer(recipe_app, name="recipe")

RecipeOption = Annotated[str, typer.Option("--recipe", "-r", help="Recipe file, or the name of one that ships with the tool.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Recipe fields to change.")]
RunsOption = Annotated[Path, typer.Option("--runs", help="Folder below which runs are kept.")]
NameOption = Annotated[str | None, typer.Option("--name", help="Name of this variant; a slug of the overrides by default.")]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N records a split; marked partial.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and stop.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what this command made before.")]
Runs = Annotated[list[str], typer.Argument(metavar="RUN...", help="Run folder, model folder, or hub name.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Run folder, model folder, or hub name.")]


@app.command(epilog="Example: vldistill prepare vqa --raw ~/vqa2    or, with no data at hand: vldistill prepare toy")
def prepare(
    dataset: Annotated[str, typer.Argument(help="vqa, snli-ve, nlvr2, nlvr, jsonl (your own data) or toy.")],
    raw: Annotated[Path | None, typer.Option("--raw", help="Folder of the official files; for toy, where to write them.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Artifact to write; artifacts/data/DATASET by default.")] = None,
    min_count: Annotated[int, typer.Option("--min-count", min=1, help="VQA: how often an answer occurs to be a class.")] = 9,
    labels: Annotated[str, typer.Option("--labels", help="jsonl: class names in order, comma-separated.")] = "",
    task: Annotated[str | None, typer.Option("--task", help="jsonl: the task, where it is not plain from the data.")] = None,
    val_directories: Annotated[str, typer.Option("--val-directories", help="nlvr: image directories held out for val.")] = "",
    limit: LimitOption = None,
    check: Annotated[str, typer.Option("--images", help="How images are checked: decode, header or none.")] = "decode",
    seed: Annotated[int, typer.Option("--seed", min=0, help="toy: seed of the world.")] = 0,
    scale: Annotated[float, typer.Option("--scale", help="toy: size of the world, 1 by default.")] = 1.0,
    dry_run: DryRun = False,
    overwrite: Overwrite = False,
) -> None:
    """Turn a dataset's official files into a data artifact."""
    from vldistill.commands.prepare import prepare_command

    prepare_command(
        dataset, raw=raw, out=out, min_count=min_count, labels=_split(labels), task=task, val_directories=_split(val_directories),
        limit=limit, check=check, seed=seed, scale=scale, dry_run=dry_run, overwrite=overwrite,
    )


@app.command(epilog="Example: vldistill cache --recipe my_recipe.yaml")
def cache(recipe: RecipeOption, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Store a frozen teacher's features on disk."""
    from vldistill.commands.train import cache_command

    cache_command(recipe, overrides or [])


@app.command(epilog="Example: vldistill pretrain --recipe my_recipe.yaml")
def pretrain(recipe: RecipeOption, overrides: Overrides = None, dry_run: DryRun = False) -> None:
    """Pre-train a student by distillation on image-text pairs."""
    from vldistill.commands.train import pretrain_command

    pretrain_command(recipe, overrides or [])


@app.command(epilog="Example: vldistill distill --recipe recipes/quickstart_dide.yaml optim.lr=5e-4 train.seed=1")
def distill(
    recipe: RecipeOption, overrides: Overrides = None, name: NameOption = None, runs: RunsOption = Path("runs"),
    limit: LimitOption = None, dry_run: DryRun = False, overwrite: Overwrite = False,
) -> None:
    """Train a student with its teacher."""
    from vldistill.commands.train import train_command

    train_command("distill", recipe, overrides or [], name=name, runs=runs, limit=limit, dry_run=dry_run, overwrite=overwrite)


@app.command(epilog="Example: vldistill finetune --recipe recipes/quickstart_teacher.yaml")
def finetune(
    recipe: RecipeOption, overrides: Overrides = None, name: NameOption = None, runs: RunsOption = Path("runs"),
    limit: LimitOption = None, dry_run: DryRun = False, overwrite: Overwrite = False,
) -> None:
    """Train a recipe's student on labels alone: baselines and fusion teachers."""
    from vldistill.commands.train import train_command

    train_command("finetune", recipe, overrides or [], name=name, runs=runs, limit=limit, dry_run=dry_run, overwrite=overwrite)


@app.command(epilog="Example: vldistill evaluate runs/quickstart_dide --split val")
def evaluate(
    runs: Runs,
    data: Annotated[Path | None, typer.Option("--data", help="Data artifact; the one the run was trained on by default.")] = None,
    split: Annotated[str, typer.Option("--split", help="Split to evaluate.")] = "val",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pairs in a batch.")] = 32,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write to; RUN/eval/SPLIT by default.")] = None,
    limit: LimitOption = None, dry_run: DryRun = False,
) -> None:
    """Score runs with the official metrics and write their predictions."""
    from vldistill.commands.evaluate import evaluate_command

    evaluate_command(runs, data=data, split=split, batch=batch, out=out, limit=limit, dry_run=dry_run)


@app.command(epilog='Example: vldistill predict runs/quickstart_teacher --image cat.jpg --text "is there a cat?"')
def predict(
    run: Run,
    image: Annotated[list[Path] | None, typer.Option("--image", help="Image file; twice for models that compare two.")] = None,
    text: Annotated[str | None, typer.Option("--text", help="Question or statement.")] = None,
    pairs: Annotated[Path | None, typer.Option("--pairs", help="JSONL of {image or images, text}, instead of one pair.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="With --pairs: JSONL of answers to write; else printed.")] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="How many answers to show.")] = 5,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pairs in a batch.")] = 32,
) -> None:
    """Answer one question, or a JSONL of pairs."""
    from vldistill.commands.evaluate import predict_command

    predict_command(run, images=image or [], text=text, pairs=pairs, out=out, top=top, batch=batch)


@app.command(epilog="Example: vldistill bench    or, for a trained student: vldistill bench runs/quickstart_dide")
def bench(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A dual encoder's run; random weights by default.")] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Measure on CUDA.")] = False,
    batch: Annotated[str, typer.Option("--batch", help="Batch sizes, comma-separated.")] = "32",
    precision: Annotated[str, typer.Option("--precision", help="fp32, bf16, fp16, comma-separated.")] = "fp32",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Interleaved rounds; the minimum counts.")] = 5,
    length: Annotated[str, typer.Option("--length", help="Text tokens with specials, comma-separated.")] = "40,12",
    rows: Annotated[str, typer.Option("--rows", help="What to measure: speed, pair, capture, step, retrieval.")] = "speed,pair",
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="JSON file to write.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Time the fusion encoder against the dual encoder, in one process."""
    from vldistill.commands.bench import bench_command

    bench_command(run, gpu=gpu, batches=_split(batch), precisions=_split(precision), rounds=rounds, lengths=_split(length),
                  rows=_split(rows), threads=threads, out=out, dry_run=dry_run)


@app.command(epilog="Example: vldistill doctor")
def doctor() -> None:
    """Say what works on this machine: versions, GPU, offline weights, disk, SLURM."""
    from vldistill.commands.doctor import doctor_command

    doctor_command()


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def main(argv: list[str] | None = None) -> Any:
    """Runs the command line; the one place where an error becomes text and an exit code."""
    try:
        app(args=argv, standalone_mode=True)
    except VldistillError as error:
        if os.environ.get("VLDISTILL_DEBUG"):
            raise
        lines = str(error).splitlines()
        print("\n".join(f"vldistill: {line}" for line in lines), file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("vldistill: interrupted; nothing half-written counts as an artifact", file=sys.stderr)
        raise SystemExit(130) from None
