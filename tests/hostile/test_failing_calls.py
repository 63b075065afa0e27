"""A disk that fails while a file is read, or that has no locks: one line that names the file, for every kind of file that every
command reads, and commands that work, or say in one line which lock they cannot have.

The commands are those of `workshop.WRITERS` and READERS; which files they read and lock is found out by listing that, so that a
new one is tried on the day it is added. Calls fail by a small library before the C library's own (`failing_calls.c`), which
HDF5 and LMDB call, too."""

from __future__ import annotations

import ast
import errno
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from workshop import WRITERS, command_of, run_of
from zygote import Zygote

import vldistill

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
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, Path(__file__).with_name("failing_calls.c"), "-ldl"], check=True)
    (folder / "at").symlink_to(whole_workshop)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(whole_workshop)
        # HDF5 reads its variable when it is loaded: as where a site's profile asks for its locks.
        with Zygote(folder / "log.txt", LD_PRELOAD=str(library), COLUMNS="300", HDF5_USE_FILE_LOCKING="TRUE") as zygote:
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
        # Three look at all caches, or at all runs, and say of each what is wrong; a report's page what it could not show.
        goes_on = name.startswith(("cache --", "report"))
        page = broken[0] / "out/report/report.html"
        shown = told + (page.read_text() if page.exists() else "") if goes_on else lines[0] if len(lines) == 1 else ""
        named = path.name in shown and "/output error" in shown and "Traceback" not in told
        if (code not in (1, 2) and name not in ("cache --ls", "report")) or not named:
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


# --- locks -------------------------------------------------------------------------------------------------------------------

PACKAGE = Path(vldistill.__file__).resolve().parent
AGAIN = {
    "prepare, a variant more": ("prepare variants", "--lowshot 2"),
    "prepare, from a copy": ("prepare jsonl", "--raw {out}/copy"),
}
"""Of commands that do something else to what another one made: that one, and what is given in addition."""
STAGED = {"distill, staged": "distill"}
"""Those that read a copy on the node."""
LOCKERS = {
    "artifacts": ["convert vilt"],
    "data.prepare": ["prepare, a variant more", "prepare, from a copy"],
    "data.prepare_toy": ["prepare toy"],
    "store.staging": ["distill, staged"],
    "store.writer": ["cache"],
    "training.run": ["finetune"],
}
"""Of each module that takes locks, the commands by which it does."""
LOCKING = list(dict.fromkeys(name for names in LOCKERS.values() for name in names))
OF_LIBRARIES = ("cache --verify", "index query", "evaluate --index", "prepare regions import")
"""Commands whose files a library opens that would lock them itself."""
NONE = ("ENOLCK", "ENOSYS", "EOPNOTSUPP")
"""What a file system says that has no locks."""


def locks(path: Path) -> bool:
    """Whether a module takes or looks at locks, by ours or by any way of its own."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("exclusive", "held", "NamedLock"):
            return True
        if isinstance(node, ast.Import | ast.ImportFrom) and {"fcntl", "filelock", "portalocker"} & {
            getattr(node, "module", None),
            *(one.name for one in node.names),
        }:
            return True
    return False


def test_every_module_that_locks_is_tried():
    modules = {path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", "."): path for path in PACKAGE.rglob("*.py")}
    assert {name for name, path in modules.items() if locks(path)} == {*LOCKERS, "locking"}
    # HDF5 is shown files in memory and open ones, LMDB is told not to lock.
    users = {name for name, path in modules.items() if "h5py.File(" in path.read_text() or "lmdb.open(" in path.read_text()}
    assert users == {"store.shard", "data.regions.lmdb_entries"}


def locking(broken, name: str, **environment: str) -> tuple[int, str, set[str]]:
    """Exit code of a command, what was said, and the names of the files that it locked, or tried to."""
    folder, zygote = broken
    listed, out = folder / "locked.txt", folder / "out"
    for left in (out, folder / "node"):
        shutil.rmtree(left, ignore_errors=True)
        left.mkdir()
    listed.unlink(missing_ok=True)
    if name in AGAIN:
        first, more = AGAIN[name]
        zygote.run(folder / "at", *words_of(first, out))
        shutil.copytree(folder / "at/raw/mine", out / "copy", copy_function=shutil.copy)
        words = [word for word in words_of(first, out) if "lowshot" not in more or word not in ("--lowshot", "1")]
        words += more.format(out=out).split()
    else:
        words = words_of(STAGED.get(name, name), out)
    staged = {"VLDISTILL_STAGE": str(folder / "node")} if name in STAGED else {"VLDISTILL_STAGE": ""}
    environment = {"LOCKING_LOG": str(listed), **staged, **environment}
    zygote.begin(folder / "at", *words, **environment)
    code, told = zygote.end(), (folder / "log.txt").read_text()
    found = listed.read_text().splitlines() if listed.exists() else []
    return code, told, {Path(line.removesuffix(" (deleted)")).name for line in found}


def faults_of_locks(broken, name: str, *errors: str) -> list[str]:
    """What was done wrong where the locks of a command fail by these errors."""
    code, told, locked = locking(broken, name)
    assert code == 0 and (locked or name not in LOCKING), (name, told)
    found = []
    for error in errors:
        # A lock that another has for a moment is waited for where it is held for moments.
        times = {"FAILING_TIMES": "3"} if error == "EAGAIN" else {}
        code, told, _ = locking(broken, name, FAILING_LOCK=str(getattr(errno, error)), **times)
        lines = [line for line in told.splitlines() if line.startswith("vldistill: ")]
        said = lines[0] if len(lines) == 1 else ""
        if error in NONE:
            right = code == 0
        elif error == "EIO":
            named = "cannot be locked: Input/output error" in said and any(one in said for one in locked)
            right = code == 1 and named if locked else code == 0
        else:
            right = code == 0 or (code == 2 and "is being written by" in said)
        if not right or "Traceback" in told:
            found.append(f"{name}: {error}: exit {code}: {told.strip().splitlines()[-2:]}")
    return found


@pytest.mark.parametrize("name", [*LOCKING, *OF_LIBRARIES])
def test_commands_work_where_there_are_no_locks(name, broken):
    assert faults_of_locks(broken, name, "ENOLCK") == []


@pytest.mark.parametrize("name", ["cache", "finetune"])
def test_a_lock_that_fails_is_named(name, broken):
    assert faults_of_locks(broken, name, "EIO", "EAGAIN") == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [*WRITERS, *READERS, *AGAIN, *STAGED])
def test_every_command_where_locks_fail(name, broken):
    assert faults_of_locks(broken, name, *NONE, "EIO", "EAGAIN") == []
