"""No kind of student mixes devices or types under any method that a recipe may give it; the pairs come from the product's own
tables.

Each runs in a process of its own, since the virtual device changes torch (see `virtual_device`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from programs import ENVIRONMENT
from pydantic import ValidationError

from vldistill.models.families import FAMILIES
from vldistill.recipe.schema.recipe import Recipe
from vldistill.recipe.schema.students import STUDENTS
from vldistill.training.methods.table import METHODS

PROGRAM = Path(__file__).with_name("every_student.py")
PRECISIONS = ("fp32", "bf16")
UNIMODAL = {"vision": {"kind": "timm", "model": "x"}, "text": {"kind": "transformers", "model": "x"}}
# One of each method, over patches, regions, canvases and one modality, for every run of the suite.
SAMPLE = ["dual_encoder/retrieval", "uniter/advl", "clip_vil/labels", "text_encoder/pretrain", "meter/dide"]
LOWERED = SAMPLE[:3]
"""Of them in bf16: two towers, teachers beside a student, and convolutions."""


def allowed(kind: str, method: str) -> bool:
    """Whether there is a recipe of the two: refused is the pair alone, and by the student's name."""
    recipe = {
        "name": "x",
        "data": {"path": "x"},
        "student": {"kind": kind, "dropout": 0.0},
        "image": {"augment": "none"},
        "objective": {"kind": method},
        "train": {"steps": 1},
    }
    teacher = STUDENTS[kind].fusion
    if method in ("dide", "pretrain") and teacher:
        recipe["teacher"] = {"kind": teacher, "model": "runs/x"}
    if method == "advl":
        recipe["teachers"] = UNIMODAL
    if method == "pretrain" and kind == "text_encoder":
        recipe["objective"] |= {"tasks": ["mlm"], "attention": "none", "soft_labels": False}
    if STUDENTS[kind].sees == "regions":
        recipe["regions"] = {"path": "x"}
    if kind in ("clip_vil", "clip_dual"):
        recipe["student"]["clip"] = {"model": "x"}
    try:
        Recipe.model_validate(recipe)
    except ValidationError as error:
        (fault,) = error.errors()
        assert fault["type"] == "value_error" and "student" in fault["msg"] and kind in fault["msg"], fault["msg"]
        return False
    return True


PAIRS = [f"{kind}/{method}" for kind in FAMILIES for method in METHODS if allowed(kind, method)]


def rows_of(pairs: list[str]) -> list[dict]:
    paths = os.pathsep.join([ENVIRONMENT["PYTHONPATH"], *(str(PROGRAM.parents[1] / own) for own in ("", "models"))])
    done = subprocess.run(
        [sys.executable, PROGRAM, *pairs],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def check(pairs: list[str]) -> None:
    rows = rows_of(pairs)
    assert {row["pair"] for row in rows} == set(pairs) and pairs
    assert [row for row in rows if "error" in row] == []
    assert all(row["loss"] > 0 and row["launches"] > 100 for row in rows)


def test_the_pairs_are_of_every_kind_and_every_method():
    assert {pair.split("/")[0] for pair in PAIRS} == set(FAMILIES) and {pair.split("/")[1] for pair in PAIRS} == set(METHODS)
    assert set(SAMPLE) <= set(PAIRS) and {pair.split("/")[1] for pair in SAMPLE} == set(METHODS)


def test_a_sample_of_students_and_methods():
    """The first case of each."""
    check([*(f"fp32/{pair}/1" for pair in SAMPLE), *(f"bf16/{pair}/1" for pair in LOWERED)])


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", FAMILIES)
def test_every_student_with_every_method(kind, precision):
    check([f"{precision}/{pair}" for pair in PAIRS if pair.startswith(f"{kind}/")])
