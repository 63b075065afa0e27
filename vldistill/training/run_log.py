"""What a run says while it runs: metrics.jsonl, log.txt, a live progress bar on a terminal and plain lines elsewhere."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vldistill import terminal
from vldistill.errors import needed, writing
from vldistill.places import open_own

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
