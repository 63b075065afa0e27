"""A disk that is full, while data are prepared and while a run writes its checkpoints, its model and its curve: one line and exit
code 1, what is finished stays, and it goes on later. (That of a cache: teachers/cache/test_cache_full_disk.py.)"""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hostile_worlds import raw_data, read_data
from mutations import contents_of

from vldistill.training.checkpoint import load_state, newest
from vldistill.training.preemption import PreemptionGuard

PREPARE = ("prepare", "jsonl", "--raw", "raw", "--out", "data", "--min-count", "1")
RECIPE = """
data: {path: data}
image: {size: 36}
text: {max_length: 16, vocabulary_size: 120}
student: {kind: vilt, sizes: {layers: 1, width: 16, heads: 2, feedforward: 24, patch: 12, image_size: 36}}
objective: {kind: labels}
train: {steps: 4, batch: {pairs: 2}, eval_pairs: 2, log_every: 1, validate_every: 4, checkpoint_every: 1}
"""
FINETUNE = ("finetune", "--recipe", "r.yaml", "--name", "a", "--resume", "auto")


@contextmanager
def no_file_over(size: int) -> Iterator[None]:
    """For the writes of this process, a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def place(tmp_path_factory, well) -> Path:
    """A folder with raw data, their artifact, a recipe, and in `whole` the run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("full")
    raw_data(folder / "raw")
    (folder / "r.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        well(*PREPARE)
        well(*FINETUNE, "--runs", "whole")
    return folder


def is_told(result, name: str) -> None:
    told = rf"vldistill: {name}: cannot (be written|write [\d,]+ bytes): File too large \(free some space and run the same .*\)\n"
    assert result.code == 1 and re.fullmatch(told, result.err), result


def test_data(place, command, well, monkeypatch, tmp_path):
    monkeypatch.chdir(place)
    for size in (0, 300):
        with no_file_over(size):
            is_told(command(*PREPARE[:5], tmp_path / "data"), str(tmp_path / "data") + ".*")
        assert not list(tmp_path.iterdir())
    well(*PREPARE[:5], tmp_path / "data", "--min-count", "1")
    assert read_data(tmp_path / "data")["train"] == read_data(place / "data")["train"]


@pytest.mark.parametrize("what, saved", [("state.safetensors", 2), ("model.safetensors", 3), ("metrics.jsonl", 3)])
def test_a_run(place, command, well, monkeypatch, what, saved):
    """Full from its second or third checkpoint on."""
    monkeypatch.chdir(place)
    words = (*FINETUNE, "--runs", what)
    run, told, calls = place / what / "r/a/seed0", PreemptionGuard.saved, []

    def fills(self):
        told(self)
        calls.append(1)
        if len(calls) == saved:
            size = (run / "metrics.jsonl").stat().st_size + 9 if what == "metrics.jsonl" else 8000
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    with no_file_over(resource.RLIM_INFINITY), monkeypatch.context() as patch:
        patch.setattr(PreemptionGuard, "saved", fills)
        is_told(command(*words), rf"{what}/r/a/seed0/\S*{what}\S*")
    assert load_state(newest(run)).step == saved and not list(run.rglob("*.tmp"))
    assert f"going on after step {saved}" in well(*words).out
    assert contents_of(place / what) == contents_of(place / "whole")
