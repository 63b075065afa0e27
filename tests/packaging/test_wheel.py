"""What ships is what is here: the wheel, installed into an environment of its own, holds git's files and runs from any folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel. wheel: the file. scripts: the folder of its programs. place: an empty folder to work in."""

    wheel: Path
    scripts: Path
    place: Path

    def run(self, program: str, *words: str) -> str:
        """Standard output of a program of the environment, run far from the repository; a failure fails the test."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VLDISTILL"))}
        done = subprocess.run(
            [self.scripts / program, *words], cwd=self.place, env=kept | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "dist"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    wheel = next((folder / "dist").glob("*.whl"))
    environment = folder / "environment"
    venv.EnvBuilder(with_pip=False).create(environment)
    python = environment / "bin" / "python"
    # The libraries of this environment, without its editable install: a path file within such a path is not read.
    site = next(environment.glob("lib/python*/site-packages"))
    libraries = {path for path in sys.path if path.endswith("site-packages")} | {sysconfig.get_path("purelib")}
    (site / "libraries.pth").write_text("".join(f"{path}\n" for path in sorted(libraries)))
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel],
        check=True,
        capture_output=True,
    )
    (folder / "place").mkdir()
    return Installed(wheel, environment / "bin", folder / "place")


def test_the_wheel_holds_what_git_holds(installed):
    listed = subprocess.check_output(["git", "ls-files", "vldistill", "recipes"], cwd=ROOT, text=True).split()
    there = {name if name.startswith("vldistill/") else f"vldistill/{name}" for name in listed if (ROOT / name).exists()}
    with zipfile.ZipFile(installed.wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        for name in sorted(held & there):
            source = ROOT / (name if (ROOT / name).exists() else name.removeprefix("vldistill/"))
            assert archive.read(name) == source.read_bytes(), name
    assert held == there
    assert len(held) > 300


def test_every_module_of_the_wheel_imports(installed):
    program = (
        "import importlib, pkgutil, vldistill\n"
        "names = [found.name for found in pkgutil.walk_packages(vldistill.__path__, 'vldistill.')]\n"
        "[importlib.import_module(name) for name in names if not name.endswith('__main__')]\n"
        "print(len(names), vldistill.__file__)"
    )
    count, file = installed.run("python", "-c", program).split()
    assert int(count) > 250
    assert Path(file).is_relative_to(installed.scripts.parent)


def test_an_installed_wheel_prepares_trains_and_evaluates(installed):
    installed.run("vldistill", "prepare", "toy", "--scale", "0.01", "--datasets", "nlvr2")
    assert "quickstart_teacher" in installed.run("vldistill", "recipe", "ls")
    assert installed.run("vldistill", "reproduce", "dide", "5", "count") == "75\n"
    installed.run(
        "vldistill",
        "finetune",
        "--recipe",
        "quickstart_teacher",
        "--name",
        "first",
        "student.init=null",
        "train.steps=2",
        "train.batch.pairs=8",
        "train.validate_every=2",
        "train.eval_pairs=64",
        "student.sizes={layers: 1, width: 32, heads: 2}",
    )
    told = installed.run("vldistill", "evaluate", "runs/quickstart_teacher/first/seed0", "--limit", "64")
    assert 0 <= json.loads(told.splitlines()[-1])["accuracy"] <= 1
    installed.run("vldistill", "report", "runs", "--out", "report")
