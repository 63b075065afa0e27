"""A disk that fails while a file is read: one line that names the file, for every kind of file that every command reads.

The commands are those of `workshop.WRITERS` and READERS; which files they read is found out by listing their reads, so that a new
input is tried on the day it is added. Reads fail by a small library before the C library's own (`failing_reads.c`)."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from workshop import WRITERS, command_of, run_of
from zygote import Zygote

READERS = {
    "predict one": f"predict {run_of('fusion')} --image photos/1.png --text red?",
    "index query": "index query index blue --answer yes --verify",
    "cache --verify": "cache --recipe advl.yaml cache.path=cache --verify",
    "cache --ls": "cache --ls --recipe advl.yaml cache.path=cache",
    "recipe check": "recipe check advl.yaml",
    "evaluate --index": f"evaluate {run_of('dual')} --index index --out {{out}}/eval",
}
HARMLESS = {("compare", "manifest.json")}
"""Answers are compared without the data, which only give the examples their texts."""
LEFT_OUT = {"prepare toy", "recipe cp"}
"""Those that read nothing of the workshop."""
QUICK = (
    "prepare vcr",
    "prepare --unpack",
    "finetune",
    "predict",
    "compare",
    "evaluate --index",
    "convert vilt",
    "index query .html",
    "cache --ls",
)
"""Those that the ordinary suite tries, of each kind one."""


@pytest.fixture(scope="module")
def broken(tmp_path_factory, whole_workshop) -> Iterator[tuple[Path, Zygote]]:
    """The workshop, and a process whose children's reads can fail."""
    if shutil.which("gcc") is None:
        pytest.skip("no compiler")
    folder = tmp_path_factory.mktemp("broken")
    library = folder / "failing.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, Path(__file__).with_name("failing_reads.c"), "-ldl"], check=True)
    (folder / "at").symlink_to(whole_workshop)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(whole_workshop)
        with Zygote(folder / "log.txt", LD_PRELOAD=str(library), COLUMNS="300") as zygote:
            fusion = run_of("fusion")
            for words in (
                f"cache -r advl.yaml cache.path={folder}/warm",
                f"evaluate {fusion} --out {folder}/eval",
                f"analyze {fusion} --tokens --out {folder}/a.png",
                f"distill -r dual.yaml --runs {folder}/r",
            ):
                zygote.warm(whole_workshop, *words.split())
            yield folder, zygote


def words_of(name: str, out: Path) -> list[str]:
    return [word.format(out=out) for word in READERS[name].split()] if name in READERS else command_of(name, out)


def run(broken, name: str, **environment: str) -> tuple[int, str]:
    """Exit code and what was said."""
    folder, zygote = broken
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "out").mkdir()
    zygote.begin(folder / "at", *words_of(name, folder / "out"), **environment)
    return zygote.end(), (folder / "log.txt").read_text()


def inputs_of(broken, name: str) -> list[Path]:
    """The files that the command reads; of images and the like, which are many, one of a suffix."""
    listed = broken[0] / "listed.txt"
    listed.unlink(missing_ok=True)
    code, told = run(broken, name, FAILING_LOG=str(listed))
    assert code == 0, (name, told)
    found = {}
    for line in dict.fromkeys(listed.read_text(errors="replace").splitlines()):
        path = Path(line)
        if path.is_relative_to((broken[0] / "at").resolve()) and path.is_file():
            many = path.suffix in (".jpg", ".png", ".npz") or "vcr1images" in path.parts
            found.setdefault((path.suffix, "") if many else (path.parent, path.name), path)
    return list(found.values())


def faults(broken, name: str) -> tuple[int, list[str]]:
    """Files tried, and what was not said in one line that names the file."""
    found, inputs = [], inputs_of(broken, name)
    for path in inputs:
        if (name, path.name) in HARMLESS:
            continue
        code, told = run(broken, name, FAILING_PATH=str(path))
        lines = [line for line in told.splitlines() if line.startswith("vldistill: ")]
        # Two look at all caches, and say of each what is wrong.
        shown = told if name.startswith("cache --") else lines[0] if len(lines) == 1 else ""
        named = path.name in shown and "/output error" in shown and "Traceback" not in told
        if (code not in (1, 2) and name != "cache --ls") or not named:
            found.append(f"{name}: {path}: exit {code}: {told.strip().splitlines()[-1:]}")
    return len(inputs), found


@pytest.mark.parametrize("name", QUICK)
def test_the_file_is_named(name, broken):
    tried, found = faults(broken, name)
    assert tried and not found, "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in (*WRITERS, *READERS) if name not in LEFT_OUT])
def test_the_file_is_named_by_every_command(name, broken):
    tried, found = faults(broken, name)
    print(f"{name}: {tried} files")
    assert tried and not found, "\n".join(found)
