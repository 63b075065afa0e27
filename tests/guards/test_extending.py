"""Adding a thing from outside changes one line of the package, or none: a copy of it is given a data set, a loss, a method and a
family of models from `added/`, and prepares, trains and evaluates with them."""

from __future__ import annotations

import difflib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import vldistill

PACKAGE, ADDED = Path(vldistill.__file__).resolve().parent, Path(__file__).parent / "added"
SMOOTHED = '("recipe.schema.smoothed:SmoothedObjective", "training.methods.smoothed:Smoothed")'
THINGS = {
    "a data set": (["data/sources/signs.py"], "data/sources/table.py", "SOURCES = {", '    "signs": "signs:SIGNS",'),
    "a loss": (["objectives/smoothed.py"], None, None, None),
    "a method": (
        ["training/methods/smoothed.py", "recipe/schema/smoothed.py"],
        "training/methods/table.py",
        "METHODS = {",
        f'    "smoothed": {SMOOTHED},',
    ),
    "a family": (
        [f"models/bag/{name}.py" for name in ("__init__", "section", "model", "family")],
        "models/families.py",
        "FAMILIES = {",
        '    "bag": "bag:Bag",',
    ),
}
"""Of each its new files, and of the table that lists its like: the line that opens it, and the new one below that."""
RECIPE = """
data: {path: data}
image: {size: 24}
text: {max_length: 12}
student: {kind: bag, sizes: {width: 24, patch: 12}}
objective: {kind: smoothed, share: 0.2}
optim: {lr: 0.05, warmup: 0}
train: {steps: 60, batch: {pairs: 8}, validate_every: 60}
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The package with all four, beside raw data of the new data set and a recipe of the rest."""
    place = tmp_path_factory.mktemp("extended")
    shutil.copytree(PACKAGE, place / "vldistill", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ADDED, place / "vldistill", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for _, table, opening, line in THINGS.values():
        if table is not None:
            path = place / "vldistill" / table
            text = path.read_text(encoding="utf-8")
            assert text.count(f"{opening}\n") == 1
            path.write_text(text.replace(f"{opening}\n", f"{opening}\n{line}\n"), encoding="utf-8")
    for folder in ("raw", "recipes"):
        (place / folder).mkdir()
    rows = []
    for number in range(32):
        red, asked = number % 2, number // 2 % 2
        Image.new("RGB", (24, 24), (220, 0, 0) if red else (0, 0, 220)).save(place / f"raw/{number}.png")
        rows.append(f"{number}.png\tthe sign is {'red' if asked else 'round'}\t{'yes' if red else 'no'}\n")
    (place / "raw/signs.tsv").write_text("".join(rows))
    (place / "mine.yaml").write_text(RECIPE)
    return place


def run(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(place), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "vldistill", *words], cwd=place, env=environment, capture_output=True, text=True, check=False
    )


def files_of(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py"))}


def test_a_thing_is_its_own_files_and_a_line_at_most(copy):
    before, after = files_of(PACKAGE), files_of(copy / "vldistill")
    new = {name for files, *_ in THINGS.values() for name in files}
    assert after.keys() - before.keys() == new and before.keys() <= after.keys() and len(before) > 200
    changed = {}
    for name, text in before.items():
        lines = difflib.unified_diff(text.splitlines(), after[name].splitlines(), n=0, lineterm="")
        if rows := [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]:
            changed[name] = rows
    assert changed == {table: [f"+{line}"] for _, table, _, line in THINGS.values() if table is not None}
    page = (PACKAGE / "README.md").read_text(encoding="utf-8")
    assert all(f"--- {table}\n {opening}\n+{line}\n" in page for _, table, opening, line in THINGS.values() if table is not None)


def test_a_new_data_set_is_prepared(copy):
    shown = run(copy, "prepare", "signs", "--help")
    assert shown.returncode == 0 and "Hold out every Nth line as val." in shown.stdout and "--lowshot" not in shown.stdout
    made = run(copy, "prepare", "signs", "--raw", "raw", "--out", "some", "--every", "8")
    assert made.returncode == 0 and "wrote some" in made.stdout, made.stderr
    assert len((copy / "some/train.jsonl").read_text().splitlines()) == 28
    refused = run(copy, "prepare", "nlvr2", "--raw", "raw", "--every", "8")
    assert refused.returncode == 2 and "--every means nothing for nlvr2 (leave it out; it is for signs)" in refused.stderr


def test_a_new_method_with_its_loss_trains_a_new_family(copy):
    for words in (["prepare", "signs", "--raw", "raw", "--out", "data"], ["finetune", "--recipe", "mine.yaml", "--name", "a"]):
        done = run(copy, *words)
        assert done.returncode == 0, done.stderr
    scored = run(copy, "evaluate", "runs/mine")
    assert scored.returncode == 0 and '"accuracy":1.0' in scored.stdout.replace(" ", ""), scored.stdout + scored.stderr
    refused = run(copy, "finetune", "--recipe", "mine.yaml", "objective.shares=0.1")
    assert refused.returncode == 2 and "did you mean" in refused.stderr
