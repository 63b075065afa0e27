"""Malformed recipes: each is refused with its file and line, and none of them runs anything."""

from __future__ import annotations

import os
import time

import pytest
from hostile_worlds import make_run
from mutations import tree_of
from recipe_mutations import BASES, SAME, base, malformed, text_of

from vldistill.evaluation.report.runs import read_runs
from vldistill.recipe.load import load_recipe, recipe_hash

NOTHING = object()
"""What no recipe is equal to."""


def check_all(count: int, seed: int, place, outcome) -> set[str]:
    """Reads so many malformed recipes; returns the reasons given, without places."""
    reasons = set()
    for number, (content, told) in enumerate(malformed(count, seed)):
        path = place / f"r{number:04d}.yaml"
        path.write_bytes(content)
        found = outcome(lambda path=path: load_recipe(str(path)))
        assert found.check(told, NOTHING, f"vldistill: {path}"), (told, content[:300])
        reasons.add(found.err.splitlines()[0].split(": ")[-1])
        path.unlink()
    assert tree_of(place) == {}, "something was written"
    return reasons


def test_two_hundred_malformed_recipes(tmp_path, outcome, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(check_all(200, 7, tmp_path, outcome)) > 60


def test_a_stage_refuses_them_before_anything_else(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, (content, told) in enumerate(malformed(8, 9)):
        (tmp_path / "r.yaml").write_bytes(content)
        result = command(["finetune", "distill", "pretrain", "cache"][number % 4], "--recipe", "r.yaml")
        assert result.code == 2 and "vldistill: r.yaml" in result.err and "Traceback" not in result.err, (told, result.err)
    assert set(tree_of(tmp_path)) == {"r.yaml"}


@pytest.mark.slow
def test_many_more(tmp_path, outcome, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_all(3000, 8, tmp_path, outcome)


@pytest.mark.parametrize("name", BASES)
def test_what_means_the_same_is_the_same_recipe(name, tmp_path):
    whole, path = load_recipe(name), tmp_path / f"{name}.yaml"
    for write in SAME:
        path.write_bytes(write(text_of(base(name))))
        assert load_recipe(str(path)) == whole and recipe_hash(load_recipe(str(path))) == recipe_hash(whole)


@pytest.mark.parametrize("what", ["folder", "pipe", "nothing", "loop", "device"])
def test_a_recipe_that_is_no_file(what, tmp_path, command):
    path = tmp_path / "r.yaml"
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "loop":
        path.symlink_to(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    result = command("recipe", "check", path)
    assert result.code == 2 and str(path) in result.err and result.err.count("\n") == 1, result.err


def write_bomb(path, kind: str) -> None:
    """50 MB of text, 100,000 levels, or nine aliases of nine aliases."""
    path.write_bytes(
        {
            "aliases": b"a0: &a0 [x]\n"
            + b"".join(b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 40)),
            "nesting": b"a: " + b"[" * 100_000 + b"]" * 100_000,
            "length": b"a: [1]\n" * (50_000_000 // 7),
        }[kind]
    )


BOMBS = ("aliases", "nesting", "length")


@pytest.mark.parametrize("kind", BOMBS)
def test_a_report_passes_over_a_bomb_beside_a_run(kind, tmp_path):
    write_bomb(make_run(tmp_path) / "recipe.yaml", kind)
    started = time.process_time()
    (record,) = read_runs([tmp_path])
    assert time.process_time() - started < 1 and record.settings == {} and record.problem is not None


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_refused_at_once(kind, tmp_path, command):
    """Within a second, and without its memory."""
    import tracemalloc

    path = tmp_path / "bomb.yaml"
    write_bomb(path, kind)
    started = time.process_time()
    result = command("recipe", "check", path)
    assert time.process_time() - started < 1
    assert result.code == 2 and str(path) in result.err and result.err.count("\n") == 1
    if kind != "nesting":  # which the tracing itself makes slow
        tracemalloc.start()
        command("recipe", "check", path)
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
        tracemalloc.stop()
