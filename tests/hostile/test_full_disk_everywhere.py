"""Every command that writes, on a disk that is full: by the size that a file may have, and on a small file system. One line, exit
code 1, what was there is as before, and the same command again ends as an undisturbed one does.

It goes over `workshop.WRITERS`, which is held against the command line's own list."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from hints import options_of
from mutations import contents_of, tree_of
from workshop import READ_ONLY, WRITERS, command_of, folder_bytes, in_child

from vldistill.data.regions import extract
from vldistill.recipe.schema.students import official_layouts

TOLD = re.compile(r"vldistill: (?P<where>.+?): (cannot write [\d,]+ bytes|cannot be written|needs [\d,]+ bytes)[^\n]*\n\Z")
PAGE = 4096


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Images of 32 pixels, where features are computed."""
    monkeypatch.setattr(extract, "SHORT_SIDE", 32)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("disk")


@pytest.fixture(scope="module")
def undisturbed(place, command):
    """A function: sizes and contents of what a row writes, from `before` on where it writes over something."""
    known = {}

    def run(name: str) -> tuple:
        if name not in known:
            out = empty(place / "out")
            result = command(*command_of(name, out))
            assert result.code == 0, (name, result.err)
            known[name] = folder_bytes(out), contents(name, out)
        return known[name]

    return run


def empty(folder: Path) -> Path:
    """A new folder in its place."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def contents(name: str, out: Path) -> dict:
    """What must be the same after another call: of a row that writes times, the names alone."""
    return dict.fromkeys(tree_of(out)) if WRITERS[name].timed else contents_of(out)


@contextmanager
def small_disk(place: Path, pages: int) -> Iterator[None]:
    """A file system with room for so many pages."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={(pages + 1) * PAGE}", "none", place], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        (place / "full").write_bytes(bytes(PAGE))
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def grow_disk(place: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=1g", place], check=True)


def check_told(name: str, result: SimpleNamespace, out: Path, before: object) -> None:
    """One line that names what was asked for, and nothing half-written."""
    assert result.code == 1, (name, result)
    assert (told := TOLD.match(result.err)), (name, result.err)
    assert told["where"].startswith(str(out)) and ".building" not in result.err and ".tmp" not in result.err, (name, result.err)
    if not WRITERS[name].grows:
        assert tree_of(out) == before, name


def limits(sizes, count: int, timed: bool) -> list[int]:
    """Of a file's size: from nothing to a byte less than what the largest file needs, or a little less where it holds times."""
    largest = int(sizes[-1]) * 9 // 10 if timed else int(sizes[-1]) - 16  # a manifest holds times
    chosen = [largest - 1, 0, largest // 2, min(int(sizes[len(sizes) // 2]), largest) - 1, largest // 5]
    return sorted(set(chosen[:count]))


def test_the_table_has_every_command():
    """Both are lists of the product: its commands, and the sources and kinds that two of them take."""
    rows = {row.replace("_", "-") for row in (*WRITERS, *READ_ONLY)}
    assert {name for name in options_of() if not any(row == name or row.startswith(f"{name} ") for row in rows)} == set()
    assert {f"convert {kind}" for kind in official_layouts()} <= set(WRITERS)
    from vldistill.commands.analyze import VIEWS

    assert {f"analyze --{view}" for view in VIEWS} <= set(WRITERS)


def on_a_limit(name: str, out: Path, command, undisturbed, count: int) -> int:
    """By the size that a file may have; where the row can write over what is there, also over that."""
    sizes, whole = undisturbed(name)
    refused = 0
    for over in (False, True) if WRITERS[name].overwrites and count > 1 else (False,):
        for limit in limits(sizes, count, WRITERS[name].timed):
            empty(out)
            if over:
                assert command(*command_of(name, out)).code == 0
            before, more = tree_of(out), ("--overwrite",) if over else ()
            check_told(f"{name}", in_child(command, command_of(name, out, *more), limit), out, before)
            refused += 1
            again = command(*command_of(name, out, *more))
            assert again.code == 0 and contents(name, out) == whole, (name, limit, again.err)
    return refused


def on_a_small_disk(name: str, out: Path, command, undisturbed, count: int) -> int:
    sizes, whole = undisturbed(name)
    needed = int(sum(-(-sizes // PAGE)))
    chosen = sorted({0, needed // 2, needed - 1}) if count > 1 else [needed // 2]
    refused = 0
    for pages in chosen:
        with small_disk(empty(out.with_name("disk")), pages):
            out = out.with_name("disk") / "out"
            out.mkdir()
            result = in_child(command, command_of(name, out))
            if result.code == 0:  # a file in a page that another left
                assert 0 < pages >= needed - 1, (name, pages, needed)
            else:
                check_told(name, result, out, tree_of(out) if WRITERS[name].grows else {})
                refused += 1
                grow_disk(out.parent)
                again = command(*command_of(name, out))
                assert again.code == 0, (name, pages, again.err)
            assert contents(name, out) == whole, (name, pages)
            out = out.parents[1] / "out"
    return refused


@pytest.mark.parametrize("name", [name for name, row in WRITERS.items() if not row.slow])
def test_by_the_size_of_a_file(name, workshop, place, command, undisturbed):
    on_a_limit(name, place / "out", command, undisturbed, 1)


@pytest.mark.parametrize("name", ["prepare jsonl", "prepare regions import", "index build", "cache", "finetune", "evaluate"])
def test_on_a_small_disk(name, workshop, place, command, undisturbed):
    on_a_small_disk(name, place / "out", command, undisturbed, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_by_five_sizes_and_over_what_was_there(name, workshop, place, command, undisturbed):
    print(name, on_a_limit(name, place / "out", command, undisturbed, 5), "refused")


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_on_three_small_disks(name, workshop, place, command, undisturbed):
    print(name, on_a_small_disk(name, place / "out", command, undisturbed, 3), "refused")
