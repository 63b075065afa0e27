"""Helpers of the stage tests: training in the toy world into a folder of the test's own."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from vldistill.training.preemption import PreemptionGuard


@dataclass(frozen=True)
class Run:
    """A run folder."""

    folder: Path

    @property
    def manifest(self) -> dict:
        return json.loads((self.folder / "manifest.json").read_text())

    def rows(self, split: str) -> list[dict]:
        """The rows of metrics.jsonl of one split."""
        rows = [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]
        return [row for row in rows if row["split"] == split]

    def losses(self) -> list[dict[str, float]]:
        """Loss, its terms and the gradient's norm at each logged step."""
        return [{name: row[name] for name in row if name.startswith(("loss", "grad"))} for row in self.rows("train")]


@pytest.fixture
def train(world, well, few, tmp_path):
    """A function: `train("distill", "quickstart_dide", "key=value", ...)` trains two steps and returns the run."""

    def start(stage: str, recipe: str, *arguments: str, runs: str = "runs") -> Run:
        result = well(stage, "--recipe", recipe, "--runs", tmp_path / runs, *few, *arguments)
        return Run(Path(result.last["run"]))

    return start


@pytest.fixture
def leaving():
    """`with leaving(step, signal):` at this optimiser step the process is sent the signal."""

    @contextmanager
    def at(step: int, number: signal.Signals = signal.SIGUSR2) -> Iterator[None]:
        ask = PreemptionGuard.ask

        def asked(self, now):
            if now == step:
                os.kill(os.getpid(), number)
            return ask(self, now)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PreemptionGuard, "ask", asked)
            yield

    return at
