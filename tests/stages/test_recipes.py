"""Every recipe that ships: loads, says what it is, plans without error, and its header's commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from vldistill.recipe.load import RECIPES, dump_recipe, load_recipe, shipped_recipes
from vldistill.recipe.schema.recipe import Recipe

FILES = sorted(RECIPES.rglob("*.yaml"))


def test_there_are_recipes():
    assert len(FILES) >= 3 and shipped_recipes() == FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_recipe_is_consistent(path, tmp_path):
    recipe = load_recipe(str(path))
    assert recipe.name == path.stem and recipe.description
    distils = recipe.objective.kind == "dide" or getattr(recipe.objective, "attention", "none") != "none"
    assert distils == (recipe.teacher is not None)
    assert (recipe.objective.kind == "advl") == (recipe.teachers.vision is not None)
    assert recipe.data.path.startswith("artifacts/data/")
    assert recipe.student.init is None or "/" in recipe.student.init
    (tmp_path / f"{path.stem}.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(str(tmp_path / f"{path.stem}.yaml")) == recipe


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_runs_that_a_recipe_builds_on_are_other_recipes(path):
    recipe = load_recipe(str(path))
    sources = [recipe.student.init, recipe.teacher.model if recipe.teacher else None]
    for source in sources:
        if source and source.startswith("runs/"):
            other = load_recipe(source.split("/")[1])
            assert (other.image.size, other.text.max_length) == (recipe.image.size, recipe.text.max_length)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_header_carries_its_command(command, path):
    header = [line.lstrip("# ") for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    typed = [shlex.split(re.split(r"\s{3,}", line)[0]) for line in header if line.startswith("vldistill ")]
    own = [words for words in typed if {f"recipes/{path.name}", path.stem} & set(words)]
    assert own, "no command names this recipe"
    for words in own:
        overrides = [word for word in words if "=" in word]
        stage = words[1]
        recipe = load_recipe(words[words.index("--recipe") + 1] if "--recipe" in words else path.stem, overrides)
        assert isinstance(recipe, Recipe) and stage in ("finetune", "distill", "pretrain", "cache")
        assert stage != "distill" or recipe.objective.kind != "labels"


def test_check_accepts_all_of_them_from_anywhere(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = command("recipe", "check", *(path.stem for path in FILES))
    assert result.code == 0 and result.out.count(": ok\n") == len(FILES)
    assert list(tmp_path.iterdir()) == []


# Those of the second toy world are run in test_pretrain_command.py, those of retrieval in test_retrieval_command.py.
ELSEWHERE = ("quickstart_advl", "quickstart_retrieval")
FIRST_WORLD = [path for path in FILES if path.stem.startswith("quickstart") and not path.stem.startswith(ELSEWHERE)]


@pytest.mark.parametrize("path", FIRST_WORLD, ids=lambda path: path.stem)
def test_a_quickstart_recipe_plans(world, well, path):
    stage = {"labels": "finetune", "pretrain": "pretrain"}.get(load_recipe(str(path)).objective.kind, "distill")
    assert "optimiser steps" in well(stage, "--recipe", f"recipes/{path.name}", "--dry-run").out
    assert Path("artifacts").exists()
