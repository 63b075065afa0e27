"""Overrides of text fields are taken as they are written, and `~` opens everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from vldistill.cli import _at_home
from vldistill.errors import InputError
from vldistill.recipe.load import load_recipe, models_in
from vldistill.recipe.schema.recipe import Recipe

RECIPES = (
    "quickstart_advl",
    "quickstart_dide",
    "quickstart_retrieval",
    "advl_vlbert_vcr",
    "clip_vil_vqa",
    "clip_nlvr2",
    "pixelbert_vqa",
)


def text_fields(model: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """(dotted name, whether it may be null) of every field that holds a text and nothing else."""
    for name, field in model.model_fields.items():
        kinds = get_args(field.annotation) or (field.annotation,)
        plain = [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in kinds]
        if set(plain) <= {str, type(None)} and get_origin(field.annotation) is not list:
            yield prefix + name, type(None) in plain
        for inner in models_in(field.annotation):
            yield from text_fields(inner, f"{prefix}{name}.")


TEXTS = dict(text_fields())
NAMES = ("x #1", "2014", "a: b", "null", "~", "true", "1e3", "- x", "[a", "{b", "a, b", "*x", "!tag", "%x", "0x10")


def value_of(recipe: Recipe, name: str) -> Any:
    for part in name.split("."):
        recipe = getattr(recipe, part)
    return recipe


def with_field(name: str, given: str) -> Any:
    """Of the first recipe that takes it; a field of a section that is not there needs the others of it, too."""
    faults = []
    for shipped in RECIPES:
        section = name.rpartition(".")[0]
        more = [f"{section}.kind=slip", f"{section}.model=m"] if section.startswith("teachers.") else []
        more += ["regions.path=p"] * (section == "regions")
        try:
            return value_of(load_recipe(shipped, [*more, f"{name}={given}"]), name)
        except InputError as error:
            faults.append(str(error))
    raise AssertionError(faults)


@pytest.mark.parametrize("name", sorted(set(TEXTS) - {"name"}))
def test_a_text_is_taken_as_it_is_written(name):
    for given in NAMES:
        expected = None if TEXTS[name] and given in ("null", "~") else given
        try:
            assert with_field(name, given) == expected
        except AssertionError as error:
            # What a recipe refuses, it refuses for what is said, never for how that is written.
            assert "is not a string" not in str(error) and "should be a valid string" not in str(error), (name, given)


def test_all_kinds_of_text_are_looked_at():
    assert {"data.path", "student.init", "teacher.model", "cache.path", "data.train", "description"} <= TEXTS.keys()
    assert len(TEXTS) > 15
    recipe = load_recipe("quickstart_dide", ["data.path=x #1", "teacher.model='2014'", "optim.lr=1e-3", 'description="a # b"'])
    assert (recipe.data.path, recipe.teacher.model, recipe.optim.lr, recipe.description) == ("x #1", "2014", 1e-3, "a # b")


PLACES = (
    "data.path",
    "regions.path",
    "student.init",
    "teacher.model",
    "cache.path",
    "teachers.vision.model",
    "teachers.text.model",
    "teachers.text.weights",
    "student.image_network.weights",
)


@pytest.mark.parametrize("name", PLACES)
def test_a_home_is_opened_in_a_recipe(name, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    try:
        assert with_field(name, "~/models") == "/home/somebody/models"
    except AssertionError as error:
        assert "/home/somebody/models" in str(error) or "needs" in str(error)


def test_a_home_is_opened_on_the_command_line(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    for given, opened in (
        ("~/x", "/home/me/x"),
        ("--raw=~/x", "--raw=/home/me/x"),
        ("data.path=~/x", "data.path=/home/me/x"),
        ("is it ~/ or ~5?", "is it ~/ or ~5?"),
        ("~", "~"),
        ("a~/x", "a~/x"),
        ("--text", "--text"),
    ):
        assert _at_home(given) == opened
