"""What a run says while it runs: metrics.jsonl, log.txt, a live progress bar on a terminal and plain lines elsewhere; and what
its curve shows, the means between two logged steps and the batches whose loss is not finite."""

from __future__ import annotations

import hashlib
import json
import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO, cast

import torch
from accelerate import Accelerator
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from vldistill import terminal
from vldistill.errors import VldistillError, needed, writing
from vldistill.objectives.base import Terms
from vldistill.places import open_own
from vldistill.runtime import reduced

PLAIN_EVERY_SECONDS = 15
CURVE = "metrics.jsonl"


def _append(file: TextIO, text: str) -> None:
    """Writes a line out. Raises VldistillError where the disk is full."""
    with writing(Path(file.name), len(text)):
        file.write(text)
        file.flush()


def kept_curve(run: Path, size: int) -> bytes:
    """The beginning of metrics.jsonl; less where it is shorter."""
    path = run / CURVE
    if not path.exists():
        return b""
    with path.open("rb") as file:
        return file.read(size)


class RunLog:
    """Writes on the main process only; elsewhere every call does nothing. Use as a context manager. keep: bytes of metrics.jsonl
    that a run which goes on has; what it wrote after its checkpoint will be written again."""

    def __init__(self, folder: Path, total: int, *, active: bool, tracker=None, keep: int = 0):
        self.active, self.total, self._tracker, self._keep = active, total, tracker, keep
        self._bar, self._task, self._last = None, None, 0.0
        self._folder, self._sum = folder, hashlib.sha256()

    def __enter__(self) -> RunLog:
        if self.active:
            self._metrics = open_own(self._folder / CURVE)
            self._metrics.truncate(self._keep)
            self._sum.update(kept_curve(self._folder, self._keep))
            self._log = open_own(self._folder / "log.txt")
            if terminal.console.is_terminal:
                ends = TextColumn("{task.description}"), TextColumn("{task.fields[terms]}")
                columns = ends[0], BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(), ends[1]
                self._bar = Progress(*columns, console=terminal.console)
                self._task = self._bar.add_task("train", total=self.total, terms="")
                self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.active:
            if self._bar:
                self._bar.stop()
            # Each line was flushed, and told where that failed.
            for file in (self._metrics, self._log):
                with suppress(OSError):
                    file.close()

    def size(self) -> int:
        """Bytes of metrics.jsonl."""
        return self._metrics.tell() if self.active else 0

    def digest(self) -> str:
        """sha256 of metrics.jsonl, of what was written to it and not of what may have become of it."""
        return self._sum.hexdigest()

    def say(self, text: str) -> None:
        """A line for the terminal and log.txt."""
        if self.active:
            terminal.say(text)
            _append(self._log, f"{time.strftime('%H:%M:%S')} {terminal.escaped(text)}\n")

    def advance(self, step: int) -> None:
        """Moves the bar."""
        if self._bar:
            self._bar.update(needed(self._task, "the bar"), completed=step)

    def train(self, step: int, values: dict[str, float]) -> None:
        """Training figures of a step."""
        if not self.active:
            return
        self._write({"step": step, "split": "train", **values})
        losses = "  ".join(f"{name} {value:.4f}" for name, value in values.items() if name.startswith("loss"))
        if self._bar:
            self._bar.update(needed(self._task, "the bar"), completed=step, terms=losses)
        elif time.monotonic() - self._last > PLAIN_EVERY_SECONDS:
            self._last = time.monotonic()
            self.say(f"step {step}/{self.total}  {losses}  {values.get('pairs_per_s', 0):.0f} pairs/s")

    def validation(self, step: int, metrics: dict[str, Any], *, best: bool) -> None:
        """Validation figures of a step."""
        if not self.active:
            return
        flat = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        self._write({"step": step, "split": "val", **flat})
        figures = "  ".join(f"{name} {value:.4f}" for name, value in flat.items() if isinstance(value, float))
        self.say(f"step {step}/{self.total}  validation: {figures}{'  (best so far, saved)' if best else ''}")

    def _write(self, row: dict[str, Any]) -> None:
        line = json.dumps(row) + "\n"
        _append(self._metrics, line)
        self._sum.update(line.encode())
        if self._tracker:
            values = {f"{row['split']}/{name}": value for name, value in row.items() if name not in ("step", "split")}
            self._tracker(values, step=row["step"])


MOST_SKIPPED = 25
"""Batches in a row with a loss that is not finite, after which a run in fp16 stops."""
_MOST_IDS = 8


class TrainMetrics:
    """Means since the last reading over all ranks, kept on the device so that no step waits for one.

    tolerant: in fp16, where the scaler skips a step whose gradients overflow: such batches count for nothing and are told; in
    other precisions the first one ends the run.
    """

    def __init__(self, accelerator: Accelerator, accumulate: int, *, tolerant: bool) -> None:
        self._accelerator, self._together, self._tolerant = accelerator, accumulate * accelerator.num_processes, tolerant
        self.start, self.pairs = time.perf_counter(), 0
        self.norm: float | Tensor | None = None
        self._sums: dict[str, Tensor] = {}
        self._count: Tensor | float = 0.0
        self._recent: list[tuple[list[str], Tensor]] = []
        self._in_a_row = 0

    def add(self, terms: Terms, loss: Tensor, logs: dict[str, Tensor], ids: list[str]) -> None:
        """ids: of this process's batch."""
        given = {
            "loss": loss,
            **{f"loss/{name}": value for name, value in terms.items()},
            **logs,
            "pairs": torch.full((), float(len(ids)), device=loss.device),
        }
        finite = torch.isfinite(loss.detach())
        self._recent.append((ids, finite))
        counts = finite | (not self._tolerant)
        for name, value in given.items():
            value = torch.where(counts, value.detach().float(), 0.0)
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count = self._count + counts.float()
        self.pairs += len(ids) * self._accelerator.num_processes

    def check(self, step: int) -> dict[str, float]:
        """The means so far. Raises VldistillError, on every rank, where one is not finite, naming the batch's records; not in
        fp16."""
        if not self._sums:
            return {}
        totals = torch.stack([*self._sums.values(), torch.as_tensor(self._count)])
        totals = reduced(self._accelerator, totals, "sum")
        *sums, count = totals.tolist()
        values = {name: value / count if count else math.nan for name, value in zip(self._sums, sums, strict=True)}
        faulty = [name for name, value in values.items() if not math.isfinite(value)]
        if faulty and not self._tolerant:
            raise VldistillError(
                f"{', '.join(faulty)} is not finite at step {step}{self._records()}",
                hint="lower optim.lr, set optim.clip, or use train.precision=bf16",
            )
        return values

    def _records(self) -> str:
        """The records of this rank's first batch that was not finite."""
        if not self._recent:
            return ""
        flags = torch.stack([finite for _, finite in self._recent]).tolist()
        first = next((ids for (ids, _), finite in zip(self._recent, flags, strict=True) if not finite), None)
        if first is None:
            return ""
        more = f" and {len(first) - _MOST_IDS} more" if len(first) > _MOST_IDS else ""
        return f", in a batch of records {', '.join(first[:_MOST_IDS])}{more}"

    def skipped(self, step: int) -> int:
        """Batches of this rank since the last reading whose loss was not finite. Raises VldistillError after MOST_SKIPPED in a
        row."""
        flags = torch.stack([finite for _, finite in self._recent]).tolist() if self._recent else []
        for finite in flags:
            self._in_a_row = 0 if finite else self._in_a_row + 1
        if self._in_a_row >= MOST_SKIPPED:
            raise VldistillError(
                f"the loss was not finite in {self._in_a_row} batches in a row, at step {step}{self._records()}",
                hint="lower optim.lr, set optim.clip, or use train.precision=bf16",
            )
        return len(flags) - sum(flags)

    def read(self, step: int) -> dict[str, float]:
        """The means, and a fresh start."""
        values = self.check(step)
        if self._tolerant and (skipped := self.skipped(step)):
            values["skipped"] = skipped
            values = {name: value for name, value in values.items() if math.isfinite(value)}
        if "pairs" in values:
            values["pairs"] = round(values["pairs"] * self._together, 1)  # of an optimiser step
        if self.norm is not None and math.isfinite(norm := float(self.norm)):
            values["grad_norm"] = norm
        now = time.perf_counter()
        values["pairs_per_s"] = round(self.pairs / max(now - self.start, 1e-9), 1)
        self.start, self.pairs, self._count = now, 0, 0.0
        self._sums.clear()
        self._recent.clear()
        return values

    def pause(self) -> None:
        """Time until now is not the training's."""
        self.start, self.pairs = time.perf_counter(), 0

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Plain values, and [ranks, N] tensors, of what has been added since the last reading."""
        names = list(self._sums)
        plain = {"names": names, "in_a_row": self._in_a_row}
        if not names:
            return plain, {}
        own = torch.stack([*self._sums.values(), torch.as_tensor(self._count, device=self._accelerator.device)])
        return plain, {"sums": cast(Tensor, self._accelerator.gather(own[None]))}

    def load(self, plain: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """The reverse of `state`."""
        self._in_a_row = plain["in_a_row"]
        if plain["names"]:
            *sums, self._count = tensors["sums"][self._accelerator.process_index].to(self._accelerator.device).unbind()
            self._sums = dict(zip(plain["names"], sums, strict=True))
