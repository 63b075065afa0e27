"""`analyze --words` through the command line: scores cached or computed, text of any kind, choices and tags, and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_teachers import write_bert, write_clip

from vldistill.data.artifact import open_data
from vldistill.data.records import Record
from vldistill.evaluation.words import view_words
from vldistill.recipe.load import load_recipe
from vldistill.teachers.words import importance

RECIPE = """
data: {path: data}
image: {size: 36}
text: {max_length: 24, vocabulary_size: 200}
student: {kind: vilt, sizes: {layers: 2, width: 16, heads: 2, feedforward: 24, patch: 12, image_size: 36}}
teachers:
  text: {kind: transformers, model: bert}
  relevance: {kind: open_clip, model: clip, weights: random}
objective: {kind: advl, vision: false, text: false, words: 2, itm_fraction: 0}
train: {steps: 1, batch: {pairs: 4}}
"""
TEXTS = [
    "a red dog <script>alert(1)</script> sleeps",
    'the blue boat & the "harbour"',
    "is a child painting a bridge ?",
    "two horses $x^2$ cross a river",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory, well):
    """A folder with the data, the teachers, and `run`: trained on two words, so that the cache knows the training split alone."""
    folder = tmp_path_factory.mktemp("analyze")
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        rows = []
        for number, text in enumerate(TEXTS):
            name = f"{split}{number}.png"
            (folder / "raw").mkdir(exist_ok=True)
            Image.fromarray(random.integers(0, 256, (36, 48, 3), dtype=np.uint8)).save(folder / "raw" / name)
            rows.append(json.dumps({"id": f"{split}-{number}", "image": name, "text": text, "label": "ny"[number % 2]}))
        (folder / "raw" / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    write_bert(folder / "bert")
    write_clip(folder / "clip")
    (folder / "words.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        well("prepare", "jsonl", "--raw", "raw", "--out", "data")
        shutil.move(well("distill", "-r", "words.yaml").last["run"], "run")
    return folder


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def test_a_page_is_written_into_the_run(here, well):
    result = well("analyze", "run", "--words", "--samples", "3").last
    assert result == {"figure": "run/figures/words.html", "samples": 3, "from_cache": 0}
    page = Path("run/figures/words.html").read_text()
    assert page.count("<article>") == 3 and page.count("data:image/jpeg;base64,") == 3
    assert "<script" not in page and "answer: n" in page and "3 of 4 records" in page
    # Again, and not asked whether it may.
    assert well("analyze", "run", "--words", "--samples", "1").last["samples"] == 1


def test_what_the_cache_holds_is_what_its_teachers_say(here, well):
    assert well("analyze", "run", "--words", "--split", "train").last["from_cache"] == 4
    recipe, data = load_recipe("run/recipe.yaml"), open_data(Path("data"))
    live = recipe.model_copy(update={"cache": recipe.cache.model_copy(update={"mode": "live"})})
    stored, fresh = (view_words(Path("run"), each, data, data.records("train"), "train", 4).samples for each in (recipe, live))
    assert [sample.stored for sample in (*stored, *fresh)] == [True] * 4 + [False] * 4
    for one, other in zip(stored, fresh, strict=True):
        assert one.text.sentence == other.text.sentence and one.text.selected == other.text.selected
        for symbol, values in one.text.scores.items():
            assert values == pytest.approx(other.text.scores[symbol], abs=2e-3)
        assert one.text.scores["S"] == pytest.approx(importance(one.text.scores["S_v"], one.text.scores["S_l"]))


def test_a_name_in_png_is_a_picture(here, well, tmp_path):
    well("analyze", "run", "--words", "--out", tmp_path / "new/words.png")
    with Image.open(tmp_path / "new/words.png") as picture:
        assert picture.format == "PNG" and picture.width == 1200


def test_a_record_with_choices_shows_the_right_one_and_its_tags_as_words(here):
    recipe, data = load_recipe("run/recipe.yaml"), open_data(Path("data"))
    common = {"id": "q", "task": "vcr", "images": ["val0.png"], "objects": ["person", "person", "cup"]}
    text, choices = ["why", "is", [0], "smiling", "?"], [[[0, 1], "dance"], ["because", "of", [2]]]
    records = [
        Record(text=text, choices=choices, label=1, **common),
        Record(text=text, choices=choices, **common),
        Record(text=text, choices=choices, given=["she", "won"], label=0, **common),
    ]
    right, unknown, reason = view_words(Path("run"), recipe, data, records, "val", 3).samples
    assert right.text.sentence == (("why", "is", "person1", "smiling", "?"), ("because", "of", "cup3"))
    assert right.facts == "choice 2 of 2, the right one" and unknown.facts == "choice 1 of 2"
    assert unknown.text.sentence[1] == ("person1 and person2", "dance")
    assert [len(part) for part in reason.text.shaded("S")] == [5, 2, 2]
    assert {"person1", "smiling", "cup3"} >= {right.text.shaded("S")[place // 5][place % 5].word for place in right.text.selected}


def test_without_clip_yake_alone_judges(here):
    recipe, data = load_recipe("run/recipe.yaml"), open_data(Path("data"))
    alone = recipe.model_copy(update={"teachers": recipe.teachers.model_copy(update={"relevance": None})})
    view = view_words(Path("run"), alone, data, data.records("val"), "val", 1)
    assert view.symbols == ["S", "S_l"] and "Scores by yake" in view.summary


def test_a_dry_run_writes_nothing(here, well, tmp_path):
    result = well("analyze", "run", "--words", "--dry-run", "--out", tmp_path / "a.html")
    assert "4 of 4 records" in result.flat and not list(tmp_path.iterdir())


def test_a_run_that_selected_no_words_is_refused(here, command, tmp_path):
    run = shutil.copytree("run", tmp_path / "run")
    recipe = run / "recipe.yaml"
    before = recipe.read_text()
    recipe.write_text(before.replace("text: false\n  words: 2", "text: true\n  words: 0"))
    assert recipe.read_text() != before
    refused = command("analyze", run, "--words")
    assert refused.code == 2 and "objective.words=0" in refused.err and len(refused.err.splitlines()) == 1


def test_a_run_of_another_objective_is_refused(here, well, command, tmp_path):
    run = well("finetune", "-r", "words.yaml", "--runs", tmp_path).last["run"]
    refused = command("analyze", run, "--words")
    assert refused.code == 2 and "was trained by `labels`, not by `advl`" in refused.err and "vldistill distill" in refused.err
    assert len(refused.err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments, part",
    [
        (("run",), "nothing to show (say what: --words, --tokens, --modality, --attention)"),
        (("nobody", "--words"), "nobody: no such run"),
        (("bert", "--words"), "bert: holds no complete run"),
        (("words.yaml", "--words"), "holds no complete run"),
        (("run", "--words", "--split", "dev"), "no split 'dev'"),
        (("run", "--words", "--data", "raw"), "is not an artifact"),
        (("run", "--words", "--out", "words.pdf"), "ends neither in .html nor in .png"),
        (("run", "--words", "--out", "taken.html"), "already exists"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(here, command, tree, arguments, part):
    Path("taken.html").write_text("mine")
    before = tree(here)
    refused = command("analyze", *arguments)
    assert refused.code == 2 and part in refused.err and len(refused.err.splitlines()) == 1, refused.err
    assert tree(here) == before


def test_a_file_of_ones_own_is_replaced_on_request(here, well, tmp_path):
    (tmp_path / "a.html").write_text("mine")
    well("analyze", "run", "--words", "--out", tmp_path / "a.html", "--overwrite")
    assert "<article>" in (tmp_path / "a.html").read_text()
