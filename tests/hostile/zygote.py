"""A process that has imported everything and forks a command line for each line that it reads, so that one can be killed at any
moment of its own work without seconds of imports before it.

Reads `{"words": [...], "folder": ..., "log": ..., "fork": true, "environment": {}}`, writes the child's process number, and its
exit code when it has ended.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path


class Zygote:
    """The process, for a test; use as a context manager."""

    def __init__(self, log: Path, **environment: str):
        self._log, self._environment = log, environment

    def __enter__(self) -> Zygote:
        from programs import ENVIRONMENT

        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ENVIRONMENT, **self._environment},
        )
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def warm(self, folder: Path, *words: object) -> None:
        """Runs `vldistill WORDS` itself, so that its children have all that it imports."""
        self.begin(folder, *words, fork=False)
        assert self.end() == 0, self._log.read_text()

    def begin(self, folder: Path, *words: object, fork: bool = True, **environment: str) -> int:
        """Starts `vldistill WORDS` in a folder, with more environment variables; returns its process number."""
        request = {
            "words": [str(word) for word in words],
            "folder": str(folder),
            "log": str(self._log),
            "fork": fork,
            "environment": environment,
        }
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def end(self) -> int:
        """Waits for it; its exit code, or minus the signal that ended it."""
        return int(self._process.stdout.readline())

    def run(self, folder: Path, *words: object) -> float:
        """The same to its end, which must be a good one; the seconds it took."""
        started = time.monotonic()
        self.begin(folder, *words)
        assert self.end() == 0, self._log.read_text()
        return time.monotonic() - started

    def kill(self, folder: Path, seconds: float, *words: object) -> bool:
        """Starts it and kills it after so many seconds; whether it was still running."""
        number = self.begin(folder, *words)
        time.sleep(seconds)
        with suppress(ProcessLookupError):
            os.kill(number, 9)
        code = self.end()
        assert code in (0, -9), self._log.read_text()
        return code == -9


def main() -> None:
    import torch

    from vldistill import artifacts
    from vldistill.cli import main as command_line

    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork() if request["fork"] else 0
        if not child:
            before = os.dup(1), os.dup(2)
            log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            os.dup2(log, 1)
            os.dup2(log, 2)
            artifacts._digest_of.cache_clear()  # what an earlier command has read
            os.environ.update(request["environment"])
            os.chdir(request["folder"])
            sys.argv = ["vldistill", *request["words"]]
            code = 1
            try:
                command_line(request["words"])
                code = 0
            except SystemExit as leaving:
                code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
            finally:
                sys.stdout.flush()
                if request["fork"]:
                    os._exit(code)
            os.dup2(before[0], 1)
            os.dup2(before[1], 2)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if child else code, flush=True)


if __name__ == "__main__":
    main()
