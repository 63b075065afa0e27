"""A stand-in for `vldistill`, for the scripts that call it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ADVL = Path(__file__).parents[2] / "bin/reproduce-advl.sh"


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """A `vldistill` that notes its words and writes what a training and an evaluation leave behind, but for `reproduce`, which
    is the real one's; `FAIL` names a word that makes it fail with 3."""
    place = tmp_path / "venv/bin"
    place.mkdir(parents=True)
    (place / "vldistill").write_text(f"""#!{sys.executable}
import json, os, pathlib, sys
words = sys.argv[1:]
if words[0] == "reproduce":
    python = pathlib.Path(sys.argv[0]).with_name("python")
    os.execv(python, [python, "-m", "vldistill", *words])
print("STUB", *words, file=open("calls.txt", "a"))
if os.environ.get("FAIL") in words:
    sys.exit(3)
if words[0] in ("finetune", "distill", "pretrain"):
    named = dict(zip(words, words[1:]))
    seed = next(word.partition("=")[2] for word in words if word.startswith("train.seed="))
    run = pathlib.Path("runs", named["--recipe"], named["--name"], "seed" + seed)
    run.mkdir(parents=True, exist_ok=True)
    (run / "manifest.json").write_text(json.dumps({{"complete": True}}))
if words[0] == "prepare":
    pathlib.Path("artifacts/data/toy-visual_genome").mkdir(parents=True)
if words[0] == "evaluate":
    folder = pathlib.Path(words[1], "eval", words[-1])
    folder.mkdir(parents=True, exist_ok=True)
    score = 0.4 + 0.02 * int(words[1][-1])
    (folder / "metrics.json").write_text(json.dumps({{"q_to_a": score, "qa_to_r": score, "accuracy": score}}))
""")
    (place / "vldistill").chmod(0o755)
    (place / "python").symlink_to(sys.executable)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def start(*words: str, script: Path = ADVL, **environment: str) -> tuple[subprocess.CompletedProcess, list[str]]:
        # The stub's python knows the packages of the real one.
        packages = os.pathsep.join(path for path in sys.path if path)
        given = {"PATH": os.environ["PATH"], "PYTHONPATH": packages, "VLDISTILL_VENV": str(place.parent), "COLUMNS": "120"}
        Path("calls.txt").write_text("")
        done = subprocess.run([str(script), *words], capture_output=True, text=True, check=False, env={**given, **environment})
        return done, [line.removeprefix("STUB ") for line in Path("calls.txt").read_text().splitlines()]

    return start
