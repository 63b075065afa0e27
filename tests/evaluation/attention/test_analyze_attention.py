"""`analyze --modality`, `--tokens` and `--attention` on runs of the toy world."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vldistill.data.artifact import open_data
from vldistill.evaluation.attention import attended, modality_importance, open_one_stream, word_attention
from vldistill.evaluation.cross_attention import view_cross
from vldistill.models.base.outputs import Capture
from vldistill.recipe.load import load_recipe

TEACHER, STUDENT = "runs/quickstart_teacher", "runs/quickstart_dide"


@pytest.fixture
def data(world):
    return open_data(Path("artifacts/data/toy-nlvr2"))


def test_importance_of_a_trained_model_adds_up_with_the_image_s_own_token(data):
    records = data.records("val", limit=20)
    found = modality_importance(TEACHER, data, records, first_only=True)
    assert found.vision.shape == found.text.shape == (3, 4)
    whole = found.vision + found.text
    assert (whole < 1).all() and (whole > 0.5).all(), "the rest is on the image's own CLS"
    every = modality_importance(TEACHER, data, records, first_only=False)
    assert abs(every.vision - found.vision).max() > 1e-3
    assert found.averages["gap"] == pytest.approx(found.text.mean() - found.vision.mean())


def test_modality_of_two_runs_goes_to_the_report(world, well, tmp_path):
    result = well("analyze", TEACHER, "--modality", "--before", TEACHER, "--samples", "8", "--out", tmp_path / "m.html")
    assert result.last["gap_before"] == result.last["gap_after"] and result.last["records"] == 8
    kept = json.loads(Path(TEACHER, "default/seed0/figures/modality.json").read_text())
    assert kept["averages"]["after"]["gap"] == pytest.approx(result.last["gap_after"], abs=1e-4)
    assert len(kept["after"]["vision"]) == 3 and len(kept["after"]["vision"][0]) == 4
    page = (tmp_path / "m.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "before: runs/quickstart_teacher" in page
    assert "gap" in well("report", TEACHER).flat
    well("analyze", TEACHER, "--modality", "--samples", "4", "--queries", "all", "--out", tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as picture:
        assert picture.format == "PNG" and len(picture.convert("RGB").getcolors(1 << 24)) > 100


def test_page_picture_and_figures_lie_beside_the_run(world, well):
    assert well("analyze", TEACHER, "--modality", "--samples", "4").last["figure"].endswith("figures/modality.html")
    figures = Path(TEACHER, "default/seed0/figures")
    assert {"modality.html", "modality.png", "modality.json"} <= {path.name for path in figures.iterdir()}


def test_words_get_what_their_tokens_get(data):
    records = data.records("val", limit=3)
    found, layer = word_attention(TEACHER, data, records)
    assert layer == 3 and [len(values) for values in found] == [len(record.text) for record in records]
    assert all((values >= 0).all() and values.sum() <= 4 for values in found), "four heads share one unit of attention each"


def test_tokens_before_and_after(world, well, tmp_path):
    result = well("analyze", TEACHER, "--tokens", "--before", TEACHER, "--samples", "2", "--out", tmp_path / "t.html")
    assert result.last["samples"] == 2
    page = (tmp_path / "t.html").read_text()
    assert "attention without distillation" in page and "attention of the run" in page and "stop word" not in page
    well("analyze", TEACHER, "--tokens", "--samples", "1", "--out", tmp_path / "t.png")


def test_student_and_teacher_side_by_side(data):
    recipe = load_recipe(f"{STUDENT}/default/seed0/recipe.yaml")
    (sample,) = view_cross(STUDENT, recipe, data.images, data.records("val", limit=1)).samples
    assert len(sample.places) == 2 and sample.places[0].grid == (3, 3) and sample.places[0].image.shape == (36, 36, 3)
    assert sample.rows[0].word == "all words" and set(sample.rows[0].maps) == {"teacher", "student"}
    assert all(0 < maps.sum() <= 1.0001 for row in sample.rows for both in row.maps.values() for maps in both)
    assert sample.divergence > 0
    # What the model saw is what is drawn: pixels go to patches and back.
    seen = np.asarray(data.images.open(data.records("val", limit=1)[0].images[0])).astype(int)
    assert seen.shape == (36, 36, 3) and abs(sample.places[0].image.astype(int) - seen).max() <= 1


def test_a_sentence_of_ones_own(world, well, command, tmp_path):
    first, second = sorted(Path("artifacts/raw/toy/nlvr2").rglob("*.png"))[:2]
    own = ["analyze", STUDENT, "--attention", "--text", "the left image has more circles"]
    result = well(*own, "--image", first, "--image", second, "--out", tmp_path / "a.png")
    assert result.last["samples"] == 1 and result.last["kl"] > 0
    assert "takes 2 image(s), 1 were given" in command(*own, "--image", first).err
    assert "--image and --text go together" in command(*own).err


def test_a_page_of_samples(world, well, tmp_path):
    well("analyze", TEACHER, "--attention", "--samples", "2", "--out", tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert page.count("<article>") == 2 and "KL(teacher" not in page, "a run by labels alone has no teacher"


def test_what_cannot_be_shown_is_refused(world, command):
    for arguments, told in (
        ((STUDENT, "--modality"), "whose [CLS] does not attend to both modalities"),
        ((TEACHER, "--modality", "--queries", "some"), "--queries some: no such queries"),
        ((TEACHER, "--words", "--before", TEACHER), "--before means nothing for --words"),
        ((TEACHER, "--modality", "--text", "x"), "--image and --text mean nothing for --modality"),
        ((TEACHER, "--modality", "--tokens"), "several views at once"),
        ((TEACHER,), "nothing to show"),
    ):
        result = command("analyze", *arguments)
        assert result.code == 2 and told in result.err, result.err


def test_only_what_is_asked_for_is_kept(data):
    """A whole model's attention is not held: one layer is captured, a batch at a time."""
    opened = open_one_stream(TEACHER, data)
    (_, output), *_ = list(attended(opened, data, data.records("val", limit=2), Capture(qk=(3,)), 2))
    assert list(output.views[0].qk) == [3]
