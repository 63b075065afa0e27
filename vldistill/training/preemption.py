"""When a run saves a checkpoint, and when it leaves: asked after every optimiser step, and answered alike on all ranks."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, TypeVar, cast

import torch
from accelerate import Accelerator

from vldistill.errors import VldistillError
from vldistill.joining import timeout

PREEMPTED = 85
"""The exit code of a run that was told to leave and has saved a checkpoint, by which a cluster's script puts it back."""
SIGNALS = (signal.SIGUSR2, signal.SIGTERM)

T = TypeVar("T")
_AGAIN = "go on with the same command and --resume auto"


class Preempted(VldistillError):
    """The run was told to leave, and can be resumed."""

    exit_code = PREEMPTED


class SignalFlag:
    """Signals that ask the process to leave. Before the first step they end it at once, since there is nothing to save, and the
    caches that are built then survive it; afterwards, from `wait` on, they set a flag and nothing more. One that was held since
    the process began (`env --block-signal`, see bin/train.sbatch) comes with `listen`, and a USR2 that comes when all is done has
    nothing more to ask for. Use as a context manager, in the main thread."""

    def __init__(self) -> None:
        self.received: str | None = None
        self._waits = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> SignalFlag:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def listen(self) -> None:
        """Lets in what was held."""
        if self._before:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # By itself USR2 ends a process, and would turn a run that is complete into a job that failed.
            unheard = number == signal.SIGUSR2 and handler == signal.SIG_DFL
            signal.signal(number, signal.SIG_IGN if unheard else cast(Any, handler))

    def wait(self) -> None:
        """From now on a step is finished and a checkpoint saved first."""
        self._waits = True

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        if not self._waits:
            raise Preempted(f"left before the first step: {self.received}", hint=_AGAIN)


class Unvalidated(Exception):
    """A validation was left, since the run is to leave."""


class PreemptionGuard:
    """minutes: between two checkpoints, 0 for none by the clock. every: optimiser steps between two, or None."""

    def __init__(self, flag: SignalFlag, accelerator: Accelerator, *, minutes: float, every: int | None):
        self._flag, self._minutes, self._every = flag, minutes, every
        self._saved = time.monotonic()
        self._group = None
        if accelerator.num_processes > 1:
            # On the CPU, so that no step waits for a GPU.
            self._group = torch.distributed.new_group(backend="gloo", timeout=timeout())

    def ask(self, step: int) -> tuple[bool, bool]:
        """(save, leave), agreed by all ranks: one of them may have been told, or be slower."""
        leave = self.leaving()
        due = self._minutes > 0 and time.monotonic() - self._saved >= 60 * self._minutes
        due = due or (self._every is not None and step % self._every == 0)
        due, leave = self._agreed(due, leave)
        return due or leave, leave

    def watch(self, batches: Iterable[T]) -> Iterator[T]:
        """The batches of a validation, which every rank reads to this generator's end, with nothing between them that ranks do
        together. Raises Unvalidated there on all ranks where one of them was told to leave, which reads no further: it may be
        longer than the notice."""
        left = False
        for batch in batches:
            if left := self.leaving():
                break
            yield batch
        if any(self._agreed(left)):
            raise Unvalidated

    def leaving(self) -> bool:
        """Whether this process was told to leave."""
        return self._flag.received is not None

    def _agreed(self, *flags: bool) -> list[bool]:
        """Each is on where it is on one of the ranks."""
        if self._group is None:
            return list(flags)
        votes = torch.tensor([int(flag) for flag in flags])
        torch.distributed.all_reduce(votes, torch.distributed.ReduceOp.MAX, group=cast(Any, self._group))
        return [bool(flag) for flag in votes.tolist()]

    def saved(self) -> None:
        """Starts the clock anew."""
        self._saved = time.monotonic()

    def leave(self, step: int, where: str, *, validated: bool = True) -> Preempted:
        """What to raise. validated: False where the step's validation is still to come."""
        reason = self._flag.received or "another process was told to leave"
        before = "" if validated else ", before its validation"
        return Preempted(f"left after step {step}{before}: {reason}", where=where, hint=_AGAIN)


def threads() -> int:
    """Of this process; sums round otherwise with another number."""
    return torch.get_num_threads() or os.cpu_count() or 1
