"""`vldistill prepare --shards` from the command line: what it prints, refuses, and leaves."""

from __future__ import annotations

import json
import shlex

import pytest

VQA = "prepare vqa --raw artifacts/raw/toy/vqa"


def shards_of(folder) -> dict:
    return json.loads((folder / "manifest.json").read_text())["shards"]


def test_what_was_packed_is_told(well, world, tmp_path):
    said = well(*VQA.split(), "--shards", "8", "--out", tmp_path / "a")
    shards = shards_of(tmp_path / "a")
    tars = list((tmp_path / "a/shards").glob("*.tar"))
    assert (
        shards["train"]["samples"] == 60
        and shards["train"]["files"] == 8
        and shards["val"]
        == {"files": 2, "samples": 10, "bytes": sum(tar.stat().st_size for tar in tars if tar.name.startswith("val"))}
    )
    size = sum(tar.stat().st_size for tar in tars)
    assert f"packed 70 samples into 10 tar(s), {size / 1e6:.1f} MB wrote {tmp_path}/a" in said.flat


def test_shards_are_added_and_then_kept(well, world, tmp_path, tree):
    well(*VQA.split(), "--out", tmp_path / "a")
    said = well(*VQA.split(), "--shards", "8", "--out", tmp_path / "a", "--dry-run")
    assert f"would add shards to {tmp_path}/a" in said.flat and not (tmp_path / "a/shards").exists()
    said = well(*VQA.split(), "--shards", "8", "--out", tmp_path / "a")
    assert "packed 70 samples into 10 tar(s)" in said.flat and f"added shards to {tmp_path}/a" in said.flat
    assert "records" not in said.flat
    before = tree(tmp_path)
    for more in ((), ("--shards", "8")):
        assert "up to date" in well(*VQA.split(), "--out", tmp_path / "a", *more).flat and tree(tmp_path) == before
    said = well(*VQA.split(), "--statements", "--out", tmp_path / "a")
    assert f"added 1 to {tmp_path}/a" in said.flat and "packed" not in said.flat


REFUSED = {
    "unchecked images": (f"{VQA} --shards 8 --images none --out new", "--shards needs images that are checked"),
    "a toy": ("prepare toy --shards 8 --out x --raw x", "--shards means nothing for toy"),
    "tars of nothing": (f"{VQA} --shards 0 --out new", "--shards"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_writes_nothing(command, world, tree, name):
    line, reason = REFUSED[name]
    before = tree(world)
    result = command(*shlex.split(line))
    assert result.code == 2 and reason in result.err and result.out == "" and tree(world) == before


def test_another_size_is_refused(command, well, world, tmp_path, tree):
    well(*VQA.split(), "--shards", "8", "--out", tmp_path / "a")
    before = tree(tmp_path)
    result = command(*VQA.split(), "--shards", "9", "--out", tmp_path / "a")
    assert result.code == 2 and result.err.endswith("already has shards, of 8 samples (pass --overwrite, or --shards 8)\n")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("first", [(), ("--overwrite",)])
def test_an_interruption_while_packing_leaves_what_was_there(command, well, world, tmp_path, monkeypatch, tree, first):
    def interrupted(*_):
        raise KeyboardInterrupt

    well(*VQA.split(), "--out", tmp_path / "kept")
    before = tree(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("vldistill.data.shards.image_name", interrupted)
        for out in ("new", "kept"):
            assert command(*VQA.split(), "--shards", "8", "--out", tmp_path / out, *first).code == 130
    assert tree(tmp_path) == before


def test_a_terminal_shows_a_bar_for_each_pass(well, world, tmp_path, monkeypatch):
    from vldistill import terminal

    seen = []

    class Bars:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def add_task(self, what, **_):
            return what

        def update(self, what, **fields):
            seen.append((what, fields.get("completed"), fields.get("total")))

    monkeypatch.setattr(type(terminal.console), "is_terminal", True)
    monkeypatch.setattr("rich.progress.Progress", Bars)
    well(*VQA.split(), "--shards", "8", "--out", tmp_path / "a")
    assert seen[-1] == ("packing images", 70, 70) and ("checking images", 70, 70) in seen
