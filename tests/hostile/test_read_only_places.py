"""What cannot be written is told before anything is computed, by every command that writes (see `workshop.WRITERS`)."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from workshop import WRITERS, command_of, in_child


@pytest.fixture(scope="module")
def read_only(tmp_path_factory) -> Iterator[Path]:
    """A disk that nothing can be written to, not even by root."""
    place = tmp_path_factory.mktemp("disk")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", place], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def _no_work(self, *arguments, **options):
    raise AssertionError("a model was asked for something")


@pytest.mark.parametrize("name", WRITERS)
def test_what_cannot_be_written_is_told_before_the_work(name, workshop, read_only, command, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "__call__", _no_work)
    told = in_child(command, command_of(name, read_only))
    assert told.code == 2, told.err
    (line,) = told.err.splitlines()
    assert line.startswith(f"vldistill: {read_only}/") and "cannot be written: the disk is mounted read-only" in line


OF_ONE_FILE = [name for name, writer in WRITERS.items() if re.search(r"--out \{out\}/\w+\.\w+$|cp \w+ \{out\}/", writer.words)]


@pytest.mark.parametrize("name", OF_ONE_FILE)
def test_a_file_in_a_folder_that_is_not_there_is_told_before_the_work(name, workshop, tmp_path, command, monkeypatch):
    assert len(OF_ONE_FILE) >= 6
    monkeypatch.setattr(torch.nn.Module, "__call__", _no_work)
    told = in_child(command, command_of(name, tmp_path / "nosuch"))
    assert told.code == 2 and not (tmp_path / "nosuch").exists(), told.err
    (line,) = told.err.splitlines()
    assert f"{tmp_path}/nosuch: no such folder (make it, or choose another place for " in line


def test_a_file_is_no_folder(workshop, command):
    told = command("recipe", "cp", "quickstart_dide", "pairs.jsonl/mine.yaml")
    assert told.code == 2 and "pairs.jsonl is no folder" in told.err
