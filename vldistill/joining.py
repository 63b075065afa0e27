"""Processes of one training find each other before anything is read, and begin, or leave, together.

A launcher only starts them. Without this one that is refused, or waits for a lock, leaves the others in the set-up of torch's
process group, which hears no signal and says nothing of what it waits for.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from vldistill.errors import InputError, VldistillError
from vldistill.runtime import launched_processes

if TYPE_CHECKING:
    from torch.distributed import Store

VARIABLE = "VLDISTILL_TIMEOUT"
DEFAULT_SECONDS = 1800.0
_QUIET_SECONDS = 5.0
_POLL_SECONDS = 0.05
_FAREWELL_SECONDS = 10.0
_PREFIX = "vldistill"


def timeout(otherwise: float = DEFAULT_SECONDS) -> timedelta:
    """How long processes of a training wait for each other, at its start and at every step, where the variable does not say
    `otherwise`. Raises InputError where it is no number above 0."""
    text = os.environ.get(VARIABLE, "")
    try:
        seconds = float(text or otherwise)
        if not 0 < seconds < float("inf"):
            raise ValueError
    except ValueError:
        raise InputError(f"{text!r} is no number of seconds above 0", where=VARIABLE) from None
    return timedelta(seconds=seconds)


class Elsewhere(VldistillError):
    """Another process of the training has left, with this code."""

    def __init__(self, rank: int, code: int, message: str):
        super().__init__(f"process {rank} has left: {message}")
        self.exit_code = code


class Together:
    """The processes of a training; of one alone nothing is waited for. store: torch's, which the first of them holds."""

    def __init__(self, store: Store | None, rank: int, world: int):
        self.store, self.rank, self.world, self._begun = store, rank, world, False

    @contextmanager
    def fate(self) -> Iterator[None]:
        """Where one process fails within, before they `begin`, the others leave with its code as soon as they `meet`."""
        try:
            yield
        except Elsewhere:
            raise
        except BaseException as error:
            if self.store is not None and not self._begun:
                self._leave(getattr(error, "exit_code", 1), str(error) or type(error).__name__)
            raise

    def meet(self, place: str) -> None:
        """Returns when all have come. Raises Elsewhere where one has left instead, and VldistillError when time is up."""
        if self.store is not None:
            self._count(place, 1)
            _until(
                lambda: self._count(place, 0) == self.world,
                self._look,
                lambda: f"{self._count(place, 0)} of {self.world} processes have come so far ({place})",
            )

    def begin(self) -> None:
        """Sets torch's process group up, over the same store, before accelerate would with time limits of its own."""
        import torch
        import torch.distributed as dist

        self._begun = True
        if self.store is not None and not dist.is_initialized():
            backend = "nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(
                backend, store=dist.PrefixStore("group", self.store), rank=self.rank, world_size=self.world, timeout=timeout()
            )

    def _count(self, place: str, more: int) -> int:
        try:
            return self.store.add(f"{_PREFIX}/{place}", more)
        except RuntimeError:
            raise VldistillError("the first process has ended", hint="its own output says why") from None

    def _look(self) -> None:
        if self._count("left", 0):
            rank, code, message = json.loads(self.store.get(f"{_PREFIX}/why"))
            self._count("seen", 1)
            raise Elsewhere(rank, code, message)

    def _leave(self, code: int, message: str) -> None:
        try:
            self.store.set(f"{_PREFIX}/why", json.dumps([self.rank, code, message]))
            self._count("left", 1)
            # The store ends with the first process.
            end = time.monotonic() + _FAREWELL_SECONDS
            while self.rank == 0 and self._count("seen", 0) < self.world - 1 and time.monotonic() < end:
                time.sleep(_POLL_SECONDS)
        except (RuntimeError, VldistillError):
            pass  # whoever held the store is gone already


def join(say: Callable[[str], None]) -> Together:
    """Waits for all processes that a launcher has started with this one, and tells of it where that takes long. A signal ends it.
    Raises VldistillError when time is up, or the port is taken."""
    world = launched_processes()
    if world == 1:
        return Together(None, 0, 1)
    from torch.distributed import PrefixStore, TCPStore

    rank, host, port = int(os.environ["RANK"]), os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # torchrun and accelerate hold the store themselves.
    theirs = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    holds = rank == 0 and not theirs
    if not holds:
        _until(lambda: _answers(host, port), lambda: None, lambda: f"the first of {world} processes, at {host}:{port}", say)
    try:
        store = TCPStore(host, port, is_master=holds, wait_for_workers=False, timeout=timeout())
    except RuntimeError as error:
        raise VldistillError(
            f"cannot be opened: {str(error).splitlines()[0][:120]}",
            where=f"{host}:{port}",
            hint="another program may have this port; set MASTER_PORT to another for all processes",
        ) from None
    if theirs:
        store = PrefixStore(f"round-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    together = Together(store, rank, world)
    together._count("joined", 1)
    _until(
        lambda: together._count("joined", 0) >= world,
        together._look,
        lambda: f"{world - together._count('joined', 0)} more of {world} processes, at {host}:{port}",
        say,
    )
    return together


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def _until(
    done: Callable[[], bool], look: Callable[[], None], what: Callable[[], str], say: Callable[[str], None] = lambda text: None
) -> None:
    """Polls in Python, where signals are heard."""
    limit, started, said = timeout().total_seconds(), time.monotonic(), False
    while not done():
        look()
        waited = time.monotonic() - started
        if waited > limit:
            raise VldistillError(
                f"waited {limit:.0f} s in vain for {what()}",
                hint=f"start all of them, in a shell of a job by `srun vldistill ...`; {VARIABLE} allows more",
            )
        if waited > _QUIET_SECONDS and not said:
            said = True
            say(f"waiting up to {limit:.0f} s for {what()} ({VARIABLE})")
        time.sleep(_POLL_SECONDS)
