"""Command lines in processes of their own that need no seconds of imports: children of the process that tests.

What an interpreter does before the command line is reached, and what a launcher does, is tested by starting those (see
e2e/launching.py and programs.py)."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, GradientState

from vldistill import artifacts
from vldistill.cli import main


class Forked:
    """A child. `out` and `err` are what it has written so far."""

    def __init__(self, number: int, out: Path, err: Path):
        self.number, self._out, self._err = number, out, err
        self._code: int | None = None

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        if self._code is None:
            number, status = os.waitpid(self.number, os.WNOHANG)
            if number:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def wait(self, timeout: float = 240) -> int:
        """The same in its end. Raises TimeoutError, and kills it, where that does not come."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                self.kill()
                raise TimeoutError(f"still running after {timeout} s\n{self.out}\n{self.err}")
            time.sleep(0.002)
        return self._code

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.number, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
        while self.poll() is None:
            time.sleep(0.001)


def call(work: Callable[[], object], log: Path, **environment: str) -> Forked:
    """Calls a function in a child, which ends with exit code 0, or with that of SystemExit, or with 1 and a traceback.

    Args:
        log: standard output goes to `<log>.out`, standard error to `<log>.err`.
        environment: variables to set.
    """
    out, err = log.with_name(f"{log.name}.out"), log.with_name(f"{log.name}.err")
    for path in (out, err):
        path.unlink(missing_ok=True)
    number = os.fork()
    if number:
        for path in (out, err):
            while not path.exists():
                time.sleep(0.001)
        return Forked(number, out, err)
    code = 1
    with suppress(BaseException):
        _leave_the_tests(out, err)
        os.environ.update(environment)
        code = _code_of(work)
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _leave_the_tests(out: Path, err: Path) -> None:
    for place, path in ((0, Path(os.devnull)), (1, out), (2, err)):
        how = os.O_RDONLY if place == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        opened = os.open(path, how, 0o666)
        os.dup2(opened, place)
        os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = map(os.fdopen, (0, 1, 2), ("r", "w", "w"))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    artifacts._digest_of.cache_clear()  # what an earlier command has read
    # OpenMP's other threads, if it had some, did not come along: whoever waits for them waits for ever.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    # accelerate remembers how many processes there were.
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def _code_of(work: Callable[[], object]) -> int:
    try:
        work()
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def command(folder: Path, log: Path, *words: object, **environment: str) -> Forked:
    """`vldistill WORDS` in a folder."""
    given = [str(word) for word in words]

    def work() -> None:
        os.chdir(folder)
        sys.argv = ["vldistill", *given]
        main(given)

    return call(work, log, **environment)


def ranks() -> list[Mapping[str, str]]:
    """The variables of two processes of one training, as torch wants them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [world | {"RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]


def pair(folder: Path, log: Path, *words: object) -> list[Forked]:
    """Two processes of one training: each knows its rank, and none watches the other."""
    return [command(folder, log.with_name(f"{log.name}{rank['RANK']}"), *words, **rank) for rank in ranks()]


def call_pair(work: Callable[[], object], log: Path) -> list[Forked]:
    """The same for a function; each process has its rank in its environment."""
    return [call(work, log.with_name(f"{log.name}{rank['RANK']}"), **rank) for rank in ranks()]


def ends_of(processes: list[Forked], timeout: float = 240) -> list[tuple[int, str]]:
    """Exit code and standard error of each."""
    try:
        return [(process.wait(timeout), process.err) for process in processes]
    finally:
        for process in processes:
            process.kill()
