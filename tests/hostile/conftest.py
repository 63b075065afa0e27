"""Things are done under the command line's own handling of errors, without starting a process or parsing arguments."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from mutations import SEALED
from workshop import new_workshop

from vldistill import cli

LONGEST = 2.0
"""Seconds of processor time that a refusal may take, however broken the input is."""


class Outcome:
    """How a call ended. value: what it returned, None where it was refused."""

    def __init__(self, call: Callable[[], Any], command) -> None:
        self.value: Any = None

        def run(**_: Any) -> None:
            self.value = call()

        started = time.process_time()
        with mock.patch.object(cli, "app", run):
            result = command()
        self.seconds = time.process_time() - started
        self.code, self.err = result.code, result.err

    def check(self, told: str, expected: Any, *names: str) -> bool:
        """Asserts that it gave what was expected, or was refused in clear lines that name one of `names`; says which."""
        assert self.seconds < LONGEST, (told, self.seconds)
        if self.code == 0:
            # A table whose checksum was made right is another one, and nobody can tell.
            assert self.value == expected or told.endswith(SEALED), f"{told}: read as something else"
            return False
        assert self.code == 2, (told, self.code, self.err)
        lines = self.err.splitlines()
        assert lines and all(line.startswith("vldistill: ") and len(line) < 700 for line in lines), (told, self.err)
        assert len(lines) == 1 or "problems" in lines[-1], (told, self.err)
        assert "Traceback" not in self.err and "Error(" not in self.err, (told, self.err)
        assert any(name in self.err for name in names), (told, self.err)
        return True


@pytest.fixture(scope="session")
def outcome(command) -> Callable[[Callable[[], Any]], Outcome]:
    """A function: calls what it is given and says how that ended."""
    return lambda call: Outcome(call, command)


@pytest.fixture(scope="session")
def whole_workshop(tmp_path_factory, well) -> Path:
    """See `make_workshop`. What a test makes goes elsewhere."""
    return new_workshop(tmp_path_factory.mktemp("workshop"), well)


@pytest.fixture
def workshop(whole_workshop, monkeypatch) -> Path:
    """The workshop as the working folder."""
    monkeypatch.chdir(whole_workshop)
    return whole_workshop
