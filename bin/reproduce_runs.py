"""What the scripts of the papers' tables have in common: running commands, and saying what came out."""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from pathlib import Path


def call(command: list[str]) -> None:
    print("+", shlex.join(command), flush=True)
    code = subprocess.run(command, check=False).returncode
    if code:
        sys.exit(code)


def train(folder: Path, command: list[str]) -> None:
    """A training that is complete is left as it is, and one that was ended goes on from its last checkpoint."""
    manifest = folder / "manifest.json"
    if manifest.exists() and json.loads(manifest.read_text(encoding="utf-8")).get("complete"):
        print(f"{folder} is complete", flush=True)
    else:
        call([*command, "--resume", "auto"])


def score(folder: Path, split: str, metric: str) -> float | None:
    """In percent; None where it has not been evaluated."""
    path = folder / "eval" / split / "metrics.json"
    return 100 * json.loads(path.read_text(encoding="utf-8"))[metric] if path.exists() else None


def mean(values: list[float] | None) -> str:
    """Mean and deviation; "-" without a value, nothing where none is expected."""
    if not values:
        return "" if values is None else "-"
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f} ({len(values)})" if len(values) > 1 else "")


def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table whose first column is the rows' names."""
    from vldistill import terminal

    table = terminal.Table(columns[0], box=None, pad_edge=False)
    table.figures(*columns[1:])
    for row in rows:
        table.add_row(*row)
    terminal.say(title, style="italic")
    terminal.show(table)


def seeds_of(parser: argparse.ArgumentParser, text: str) -> list[int]:
    if not all(seed.isdigit() for seed in text.split(",")):
        parser.error(f"--seeds {text}: numbers, as 0,1,2,3")
    return [int(seed) for seed in text.split(",")]


def check_given(parser: argparse.ArgumentParser, given: list[str]) -> None:
    if wrong := [word for word in given if "=" not in word]:
        parser.error(f"{wrong[0]!r} is no KEY=VALUE")


def numbered(parser: argparse.ArgumentParser, number: str, count: int) -> int:
    """Which run is asked for."""
    if not number.isdigit() or int(number) >= count:
        parser.error(f"run: --number 0 to {count - 1}, which an array job sets; it is {number or 'missing'}")
    return int(number)
