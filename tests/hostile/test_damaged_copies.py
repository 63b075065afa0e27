"""Copies on a node's own disk that were damaged there: told, dropped, and made anew by the same command."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

TRAININGS = {
    "images": "finetune -r fusion.yaml data.path=data/packed",
    "regions": "finetune -r oscar.yaml",
    "features": "distill -r advl.yaml cache.path=cache",
}
"""What is staged, and a command that reads it."""


def flipped(path: Path) -> None:
    """A bit in every 61st byte: no part of a file is spared."""
    content = bytearray(path.read_bytes())
    for place in range(30, len(content), 61):
        content[place] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("what", TRAININGS)
def test_the_same_command_makes_it_anew(what, workshop, command, tmp_path, monkeypatch):
    node = tmp_path / f"vldistill-{os.getuid()}"
    monkeypatch.setenv("VLDISTILL_STAGE", str(tmp_path))
    words = (*TRAININGS[what].split(), "--runs", tmp_path / "runs", "--name", "a", "--overwrite", "train.steps=2")
    assert command(*words).code == 0
    whole = {path: path.read_bytes() for path in node.rglob("*") if path.is_file() and path.suffix != ".lock"}
    refused = 0
    for path in whole:
        flipped(path)
        result = command(*words)
        if result.code:
            assert result.code == 2 and str(node) in result.err and len(result.err.splitlines()) == 1, (path, result.err)
            assert "is dropped: run the same command again" in result.err and command(*words).code == 0, path
            assert {path: path.read_bytes() for path in whole} == whole, path
            refused += 1
        shutil.rmtree(tmp_path / "runs")
        for place, content in whole.items():
            place.write_bytes(content)
    assert refused >= len(whole) // 3, (refused, len(whole))
