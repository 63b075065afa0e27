"""Fixtures shared by all tests: commands run in this process, and a small toy world on disk with one run of each kind."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

# Before anything imports the libraries: no network, and help wide enough that no line is folded.
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TERMINAL_WIDTH="300")

import hints
import pytest
import torch

from vldistill.cli import main

torch.set_num_threads(1)

FEW = ("train.steps=2", "train.batch.pairs=8", "train.log_every=1", "train.validate_every=2", "train.eval_pairs=64")


@dataclass(frozen=True)
class Result:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    @property
    def flat(self) -> str:
        """Standard output on one line."""
        return re.sub(r"\s+", " ", self.out)

    @property
    def last(self) -> dict:
        """The last line of standard output, which is JSON."""
        return json.loads(self.out.splitlines()[-1])


def run_command(*arguments: str | Path) -> Result:
    """`vldistill ARGUMENTS` in this process; an exception that the command line lets through fails the test."""
    out, err = io.StringIO(), io.StringIO()
    words = [str(argument) for argument in arguments]
    with mock.patch.object(sys, "argv", ["vldistill", *words]), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
            code = 0
        except SystemExit as leaving:
            code = leaving.code or 0
    if code:
        hints.check(err.getvalue(), words)
    return Result(code, out.getvalue(), err.getvalue())


def run_well(*arguments: str | Path) -> Result:
    """The same for a command that must succeed."""
    result = run_command(*arguments)
    assert result.code == 0, result.err
    return result


def pytest_configure(config: pytest.Config) -> None:
    """On a machine with a GPU everything is tested as on one without: results that are compared to the last digit, devices' names
    and what is refused are a CPU's. `-m gpu` alone sees the GPU; nothing has asked CUDA for it by now, so that this counts."""
    wanted = config.option.markexpr
    if "gpu" not in wanted or "not gpu" in wanted:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device, or not asked for by -m gpu"))


@pytest.fixture(scope="session")
def command():
    return run_command


@pytest.fixture(scope="session")
def well():
    return run_well


@pytest.fixture(scope="session")
def few() -> tuple[str, ...]:
    """Overrides that make any recipe a matter of two steps."""
    return FEW


@pytest.fixture(scope="session")
def toy_world(tmp_path_factory) -> Path:
    """A folder with artifacts/data/toy-*, and runs/quickstart_{pretrain,teacher,dide,fusion}/default/seed0 of two steps each."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_well("prepare", "toy", "--scale", "0.01")
        for stage, recipe in (("finetune", "pretrain"), ("finetune", "teacher"), ("distill", "dide"), ("pretrain", "fusion")):
            run_well(stage, "--recipe", f"quickstart_{recipe}", "--name", "default", *FEW)
    return folder


@pytest.fixture
def world(toy_world, monkeypatch) -> Path:
    """The toy world as the working folder; what a test makes goes to its own `tmp_path`."""
    monkeypatch.chdir(toy_world)
    return toy_world


@pytest.fixture(autouse=True)
def quick_collection() -> None:
    """What is alive by now is left out of garbage collection, with which every training ends and every measurement of memory
    begins: over all that a test process has loaded it takes a quarter of a second."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # libraries look at their own ends whether all is gone


@pytest.fixture
def tree():
    """A function: every path below a folder, files with their size and time of change, to show that nothing was written (a
    folder's own time changes when something temporary came and went)."""

    def look(folder: Path) -> dict[str, tuple[int, int]]:
        states = {str(path): path.stat() for path in sorted(folder.rglob("*"))}
        return {path: (state.st_size, state.st_mtime_ns) if Path(path).is_file() else (0, 0) for path, state in states.items()}

    return look
