"""CLIP-ViL through the command line: fine-tuned, evaluated, asked, continued, distilled; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_teachers import write_bert, write_grid_clip, write_vit

RECIPE = """
data: {{path: artifacts/data/toy-{task}}}
image: {{size: 32, long_side: 64}}
text: {{max_length: 30, vocabulary_size: 300}}
student:
  kind: clip_vil
  init: {init}
  sizes: {{layers: 2, width: 16, heads: 2, feedforward: 24}}
  dropout: 0.0
  clip: {{model: teachers/clip}}
optim: {{lr: 1e-3}}
train: {{steps: 2, batch: {{pairs: 4}}, eval_pairs: 16, log_every: 1}}
"""


@pytest.fixture(scope="module")
def clip_world(tmp_path_factory, well):
    """A folder with toy VQA, SNLI-VE and VCR, small BERT, CLIP and ViT, and a recipe for each task."""
    folder = tmp_path_factory.mktemp("clip_vil")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        well("prepare", "toy", "--scale", "0.01", "--datasets", "vqa,snli-ve,vcr")
        well("prepare", "vcr", "--raw", "artifacts/raw/toy/vcr", "--out", "artifacts/data/toy-vcr")
    for name, write in (("bert", write_bert), ("clip", write_grid_clip), ("vit", write_vit)):
        write(folder / "teachers" / name)
    for task, init in (("vqa", "null"), ("snli_ve", "teachers/bert"), ("vcr", "teachers/bert")):
        (folder / f"{task}.yaml").write_text(RECIPE.format(task=task, init=init))
    return folder


@pytest.fixture
def here(clip_world, monkeypatch):
    monkeypatch.chdir(clip_world)
    return clip_world


def rows(run, split: str) -> list[dict]:
    lines = Path(run, "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == split]


@pytest.mark.parametrize("task", ["vqa", "snli_ve", "vcr"])
def test_it_is_fine_tuned_and_evaluated(here, well, tmp_path, task):
    run = well("finetune", "-r", f"{task}.yaml", "--runs", tmp_path / "runs").last["run"]
    losses = [row["loss/task"] for row in rows(run, "train")]
    assert len(losses) == 2 and losses[0] != losses[1]
    config = json.loads(Path(run, "model/config.json").read_text())
    assert config["model_type"] == "clip_vil" and config["tower"]["width"] == 4 and config["long_side"] == 64
    assert "32 x 64 pixels, seen by teachers/clip (its own weights), trained along" in Path(run, "log.txt").read_text()
    found = well("evaluate", run, "--split", "val").last
    assert found["accuracy"] == pytest.approx(json.loads(Path(run, "manifest.json").read_text())["best"]["accuracy"], abs=1e-4)


def test_a_run_answers_and_is_continued(here, well, tmp_path):
    run = well("finetune", "-r", "vqa.yaml", "--runs", tmp_path / "runs").last["run"]
    image = next(here.glob("artifacts/raw/toy/vqa/**/*.jpg"), None) or next(here.glob("artifacts/raw/toy/vqa/**/*.png"))
    assert 0 < well("predict", run, "--image", image, "--text", "is there a red circle?").last["confidence"] <= 1
    further = well(
        "finetune",
        "-r",
        "vqa.yaml",
        "--runs",
        tmp_path / "runs",
        "--name",
        "further",
        f"student.init={run}",
        "student.keep_head=true",
        "student.clip={frozen: true}",
    ).last["run"]
    first, second = (json.loads(Path(one, "manifest.json").read_text()) for one in (run, further))
    assert "init" in second["parents"] and "init" not in first["parents"]
    assert "seen by the image network of student.init, frozen" in Path(further, "log.txt").read_text()


def test_it_is_distilled_in_two_steps(here, well, tmp_path):
    result = well(
        "distill",
        "-r",
        "vqa.yaml",
        "--runs",
        tmp_path / "runs",
        "cache.mode=live",
        "train.steps=3",
        "teachers.vision={kind: timm, model: teachers/vit}",
        "teachers.text={kind: transformers, model: teachers/bert}",
        "objective={kind: advl, words: 1, itm_fraction: 0.4}",
    )
    terms = [{name for name in row if name.startswith("loss/")} for row in rows(result.last["run"], "train")]
    assert {"loss/itm", "loss/vision", "loss/text"} <= terms[0] and {"loss/task", "loss/vision", "loss/words"} <= terms[-1]


@pytest.mark.parametrize(
    "overrides, part",
    [
        (("student.clip.model=null",), "a clip_vil student from scratch needs student.clip.model"),
        (("student.init=teachers/bert", "student.clip.model=null"), "needs CLIP's image network"),
        (("student.kind=vilt",), "unknown key `student.clip` (only a student of kind clip_dual or clip_vil has it"),
        (("image.augment=jitter",), "image.augment must be none"),
        (("image.size=40",), "a canvas of 40 x 64 pixels does not fit cells of 32"),
        (("student.clip.model=teachers/gone",), "teachers/gone: is no model of open_clip, and no folder"),
        (("student.init=teachers/vit",), "teachers/vit/config.json: is a None model"),
        (("objective={kind: dide}", "teacher.model=runs/x"), "objective `dide` needs a student that sees its teacher's patches"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(here, command, tmp_path, overrides, part):
    refused = command("finetune", "-r", "vqa.yaml", "--runs", tmp_path / "runs", *overrides)
    assert refused.code == 2 and part in refused.err and refused.err.count("\n") == 1, refused.err
    assert not (tmp_path / "runs").exists()
