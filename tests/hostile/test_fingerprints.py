"""Whatever changes a stored value changes what the store is found by. It goes over the recipe's own fields and the commands' own
options: each is shown to change it, or stands here with the reason why it changes no value."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hints import commands, options_of
from workshop import run_of

from vldistill.artifacts import write_manifest
from vldistill.evaluation.image_index import model_fields
from vldistill.models.base.checkpoint import read_spec
from vldistill.recipe.load import all_keys, load_recipe
from vldistill.recipe.schema.teachers import Cache, Teachers
from vldistill.training.caches import TeacherCaches

VISION, TEXT, WORDS = {"images"}, {"texts", "words"}, {"words"}
CHANGING = {
    "teachers.vision.kind": ("teachers.vision={kind: open_clip, model: teachers/clip, weights: random}", VISION),
    "teachers.vision.model": ("teachers.vision.model=teachers/vit2", VISION),
    "teachers.vision.weights": ("teachers.vision.weights=random", VISION),
    "teachers.vision.layer": ("teachers.vision.layer=1", VISION),
    "teachers.text.kind": ("teachers.text={kind: open_clip, model: teachers/clip, weights: random}", TEXT),
    "teachers.text.model": ("teachers.text.model=teachers/bert2", TEXT),
    "teachers.text.weights": ("teachers.text.weights=random", TEXT),
    "teachers.text.layer": ("teachers.text.layer=1", TEXT),
    "teachers.relevance": ("teachers.relevance=null", WORDS),
    "teachers.relevance.kind": ("teachers.relevance={kind: slip, model: teachers/slip}", WORDS),
    "teachers.relevance.model": ("teachers.relevance.model=teachers/clip2", WORDS),
    "teachers.relevance.weights": ("teachers.relevance.weights=teachers/clip.safetensors", WORDS),
    "teachers.precision": ("teachers.precision=bf16", VISION | TEXT),
    "cache.words": ("cache.words=5", WORDS),
}
"""Of a recipe's field: an override, and the caches that are others by it."""
SAME = {
    "teachers.vision": "its parts stand here by themselves",
    "teachers.text": "its parts stand here by themselves",
    "teachers.batch": "a row does not depend on its company, but for rounding",
    "cache.path": "where it lies",
    "cache.versions": "beside which rows new ones may stand; see test_versions.py",
    "cache.mode": "whether it is built",
}
REGIONS = {
    "--format": "tsv or npz of the same numbers give the same rows",
    "--weights": "",
    "--network": "",
    "--grid": "",
    "--threshold": "",
    "--boxes": "",
    "--data": "",
    "--limit": "",
    "--raw": "",
    "--out": "where it lies",
    "--skip-broken": "which images there are, which it lists",
    "--faults": "a list beside it",
    "--dry-run": "nothing is written",
    "--overwrite": "it is written anew",
}
"""Options of `prepare regions import` and `compute`; without a reason it is among what a store is kept by."""
INDEX = {
    "run": "",
    "images": "",
    "limit": "",
    "out": "where it lies",
    "batch": "a vector does not depend on its company, but for rounding",
    "dry_run": "nothing is written",
    "overwrite": "it is written anew",
    "follow_links": "which files are looked at",
    "skip_broken": "which images there are, which it lists",
    "faults": "a list beside it",
    "max_pixels": "which files are read",
    "upright": "",
}
"""Parameters of `index build`; without a reason the index is another by it."""


@pytest.fixture
def recipes(workshop, well, tmp_path, monkeypatch) -> Path:
    """The workshop's teachers beside others that differ in one thing."""
    for name in ("teachers", "data", "raw"):
        shutil.copytree(workshop / name, tmp_path / name)
    shutil.copy(workshop / "advl.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    from tiny_teachers import write_bert, write_vit

    write_vit(Path("teachers/vit2"), seed=1)
    write_bert(Path("teachers/bert2"), seed=1)
    shutil.copytree("teachers/clip", "teachers/clip2")
    config = json.loads(Path("teachers/clip2/open_clip_config.json").read_text())
    config["preprocess_cfg"]["mean"] = [0.5, 0.5, 0.5]
    Path("teachers/clip2/open_clip_config.json").write_text(json.dumps(config))
    Path("teachers/clip.safetensors").write_bytes(b"other weights")
    file, *options = json.loads((workshop / "official/slip.json").read_text())
    well("convert", "slip", file, "teachers/slip", *options)
    return tmp_path


def fields(*overrides: str) -> dict[str, str]:
    return {
        role: json.dumps(part.fields, sort_keys=True)
        for role, part in TeacherCaches(load_recipe("advl.yaml", list(overrides))).parts.items()
    }


def test_every_field_of_teachers_and_caches_is_known():
    keys = {".".join(("teachers", *key)) for key in all_keys(Teachers)} | {f"cache.{name}" for name in Cache.model_fields}
    assert keys == set(CHANGING) | set(SAME)


@pytest.mark.parametrize("name", CHANGING)
def test_a_field_that_changes_values_changes_the_caches_it_concerns(name, recipes):
    override, concerned = CHANGING[name]
    before, after = fields(), fields(override)
    assert {role for role in before if before[role] != after[role]} == concerned


@pytest.mark.parametrize("override", ["teachers.batch=3", "cache.mode=require", "cache.path=elsewhere"])
def test_one_that_changes_none_changes_nothing(override, recipes):
    assert fields() == fields(override)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "config.json", "model.safetensors"])
def test_every_file_of_a_text_teacher_counts(file, recipes):
    before, path = fields()["texts"], Path("teachers/bert") / file
    path.write_bytes(path.read_bytes().replace(b"false", b"true ", 1) + (b" " if file.endswith("json") else b"\0"))
    assert fields()["texts"] != before


def test_stop_words_and_settings_of_the_word_judge_count(recipes, monkeypatch):
    from vldistill.teachers import words

    before = fields()["words"]
    words._settings.cache_clear()
    monkeypatch.setattr(words._yake(), "stopword_set", {"the"})
    try:
        assert fields()["words"] != before
    finally:
        words._settings.cache_clear()


def test_a_cache_of_another_precision_serves_no_recipe_that_names_one(recipes, command, well):
    """`auto` takes what it is on any machine, fp32 or fp16."""
    well("cache", "-r", "advl.yaml", "cache.path=c", "teachers.precision=bf16")
    refused = command("distill", "-r", "advl.yaml", "cache.path=c", "cache.mode=require", "teachers.precision=fp32")
    assert refused.code == 2 and "precision is bf16 there, fp32 is asked for" in refused.err
    assert command("distill", "-r", "advl.yaml", "cache.path=c", "cache.mode=require").code == 2
    well("cache", "-r", "advl.yaml", "cache.path=c", "teachers.precision=fp32")
    well("distill", "-r", "advl.yaml", "cache.path=c", "cache.mode=require", "train.steps=1")


def test_every_option_of_regions_is_known_and_kept_by(workshop, well, command, tmp_path):
    assert set(REGIONS) == options_of()["prepare regions import"] | options_of()["prepare regions compute"]
    build = ("prepare", "regions", "import", "--raw", "features", "--out", tmp_path / "r", "--boxes", "1,100")
    well(*build)
    assert "up to date" in well(*build).out
    for more in (("--threshold", "0.5"), ("--boxes", "1,2"), ("--limit", "2")):
        assert command(*build, *more).code == 2, more
    data = (
        "prepare",
        "regions",
        "compute",
        "--data",
        "data/mine",
        "--out",
        tmp_path / "d",
        "--limit",
        "1",
        "--weights",
        "random",
    )
    import vldistill.data.regions.extract as extraction

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction, "SHORT_SIDE", 32)
        well(*data, "--grid", "2")
        assert "up to date" in well(*data, "--grid", "2").out
        assert command(*data, "--grid", "3").code == 2


def test_every_parameter_of_an_index_is_known():
    assert {option.name for option in commands()["index", "build"].params} <= set(INDEX)


def test_an_index_is_another_models_by_any_number_of_its_configuration(workshop, tmp_path):
    shutil.copytree("runs/dual/a/seed0/model", tmp_path / "m")
    source = str(tmp_path / "m")
    before, path = model_fields(source, read_spec(tmp_path / "m")), tmp_path / "m/config.json"
    config = json.loads(path.read_text())
    numbers = [name for name, value in config.items() if isinstance(value, int | float) and not isinstance(value, bool)]
    assert "layer_norm_eps" in numbers and "hidden_size" in numbers
    for name in ("layer_norm_eps", "image_size"):
        path.write_text(json.dumps({**config, name: config[name] * 2}))
        assert model_fields(source, read_spec(tmp_path / "m")) != before, name


def test_images_are_the_same_in_shards(workshop):
    """`--shards` is another form of the same files, so nothing of it is in a fingerprint."""
    from vldistill.data.artifact import open_data

    plain, packed = open_data(Path("data/mine")), open_data(Path("data/packed"))
    assert plain.fingerprint == packed.fingerprint
    for record in plain.records("train"):
        for path in record.images:
            np.testing.assert_array_equal(plain.images.open(path), packed.images.open(path))


@pytest.mark.parametrize("kept, code", [("0" * 64, 0), ("rows:" + "0" * 64, 2)], ids=["of an earlier layout", "of other rows"])
def test_a_run_is_used_over_the_regions_that_it_was_trained_on(kept, code, workshop, command, tmp_path):
    """A store that was made again has the same rows in other files."""
    run = Path(shutil.copytree(run_of("oscar"), tmp_path / "run"))
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["parents"]["regions"].startswith("rows:")
    manifest["parents"]["regions"] = kept
    write_manifest(run, manifest)
    result = command("evaluate", run, "--out", tmp_path / "eval")
    assert result.code == code and ("holds other regions" in result.err) == bool(code), result
