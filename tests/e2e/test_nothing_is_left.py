"""What watches over these tests sees what one would leave."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import forked
import pytest
from launching import run_whole
from leftovers import MARK, ROOT, started, tree

SLEEPS = "import time; print('here', flush=True); time.sleep(60)"
CHILD = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {SLEEPS!r}], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
child.stdout.readline()
print("started", flush=True)
"""
WAITS = f"{CHILD}time.sleep(60)"


def gone(before: dict[int, str], mark: str) -> None:
    end = time.monotonic() + 10
    while started(mark).keys() - before.keys():
        assert time.monotonic() < end


def test_a_process_is_known_by_its_mark_and_so_is_its_child():
    other, before = {**os.environ, MARK: "another"}, started("another")
    with subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, env=other) as first:
        assert first.stdout.readline() == b"started\n"
        found = started("another")
        assert len(found.keys() - before.keys()) == 2 and first.pid in found
        for number in found.keys() - before.keys():
            os.kill(number, 9)
    gone(before, "another")


def test_a_forked_child_is_known_by_its_parent(tmp_path):
    before = started("another")
    child = forked.call(lambda: time.sleep(60), tmp_path / "log")
    assert started("another").keys() - before.keys() == {child.number}
    child.kill()
    gone(before, "another")


@pytest.mark.parametrize("ends", [True, False])
def test_what_a_program_started_ends_with_it(tmp_path, ends):
    environment = {**os.environ, MARK: f"{os.getpid()} {ends}"}
    before = started(environment[MARK])
    program = [sys.executable, "-c", CHILD if ends else WAITS]
    if ends:
        assert run_whole(program, tmp_path, environment, 20).stdout == "started\n"
    else:
        with pytest.raises(subprocess.TimeoutExpired):
            run_whole(program, tmp_path, environment, 2)
    gone(before, environment[MARK])


def test_temporary_files_go_where_they_are_looked_for(tmp_path):
    assert Path(tempfile.gettempdir()).name.startswith("temporary")
    told = run_whole([sys.executable, "-c", "import tempfile; print(tempfile.gettempdir())"], tmp_path, dict(os.environ), 20)
    assert told.stdout.strip() == tempfile.gettempdir()


def test_a_file_in_the_working_tree_is_seen():
    before, left = tree(), ROOT / f"left-{os.getpid()}.tmp"
    left.touch()
    try:
        assert tree() - before == {left.name}
    finally:
        left.unlink()
