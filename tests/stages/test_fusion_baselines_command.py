"""Table 2's fusion rows through the command line: fine-tuned on one image and on two, evaluated, asked, continued, refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_oscar import prepare_with_regions
from tiny_teachers import write_bert

RECIPE = """
data: {{path: artifacts/data/toy-{task}}}
image: {{size: 64, long_side: 96}}
text: {{max_length: 30, vocabulary_size: 300}}
student:
  kind: pixelbert
  sizes: {{layers: 2, width: 16, heads: 2, feedforward: 24}}
  dropout: 0.0
  pixels: {{model: test_resnet, weights: random, sample: 1}}
optim: {{lr: 1e-3}}
train: {{steps: 2, batch: {{pairs: 4}}, eval_pairs: 16, log_every: 1}}
"""
REGIONS = (
    "regions={path: artifacts/regions/toy, most: 3}",
    "image.size=384",
    "image.long_side=640",
)
SMALL = "sizes: {layers: 2, width: 16, heads: 2, feedforward: 24}, dropout: 0.0"
TASKS = {"vqa": 1, "nlvr2": 2}


@pytest.fixture(scope="module")
def baselines(tmp_path_factory, well):
    """A folder with toy VQA, SNLI-VE and NLVR2, random regions for all their images, a small BERT, and a recipe for each task."""
    folder = tmp_path_factory.mktemp("baselines")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare_with_regions(folder, well, "vqa,nlvr2")
    write_bert(folder / "bert")
    for task in TASKS:
        (folder / f"{task}.yaml").write_text(RECIPE.format(task=task))
    return folder


@pytest.fixture
def here(baselines, monkeypatch):
    monkeypatch.chdir(baselines)
    return baselines


def losses(run: str) -> list[float]:
    rows = map(json.loads, Path(run, "metrics.jsonl").read_text().splitlines())
    return [row["loss/task"] for row in rows if row["split"] == "train"]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", ["visualbert", "lxmert", "uniter", "pixelbert"])
def test_it_is_fine_tuned_and_evaluated(here, well, tmp_path, kind, task):
    changed = () if kind == "pixelbert" else (f"student={{kind: {kind}, {SMALL}}}", *REGIONS)
    result = well("finetune", "-r", f"{task}.yaml", *changed, "--runs", tmp_path / "runs")
    run = result.last["run"]
    found = losses(run)
    assert len(found) == 2 and all(np.isfinite(found)) and found[0] != found[1]
    config = json.loads(Path(run, "model/config.json").read_text())
    assert config["vldistill"]["images"] == TASKS[task]
    told = "64 x 96 pixels, seen by test_resnet, trained along" if kind == "pixelbert" else "artifacts/regions/toy"
    assert told in Path(run, "log.txt").read_text()
    scored = well("evaluate", run, "--split", "val").last
    assert scored["accuracy"] == pytest.approx(json.loads(Path(run, "manifest.json").read_text())["best"]["accuracy"], abs=1e-4)


def test_pixelbert_starts_from_a_bert_answers_and_is_continued(here, well, tmp_path):
    run = well("finetune", "-r", "vqa.yaml", "student.init=bert", "--runs", tmp_path / "runs").last["run"]
    image = next(path for path in here.glob("artifacts/raw/toy/vqa/**/*") if path.suffix in (".jpg", ".png"))
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
        "student.pixels.sample=0",
    ).last["run"]
    assert "init" in json.loads(Path(further, "manifest.json").read_text())["parents"]


@pytest.mark.parametrize(
    "overrides, part",
    [
        (("student={kind: lxmert}",), "a lxmert student needs `regions`"),
        (("student={kind: vilt}",), "image.long_side is for a student that sees images on a canvas; this one is vilt"),
        (("student.kind=vilt", "image.long_side=640"), "only a student of kind pixelbert has it"),
        (("image.augment=jitter",), "a pixelbert student sees images as they are"),
        (("image.size=128",), "image.size 128 is longer than image.long_side 96"),
        (("objective={kind: advl}",), "a pixelbert student is a baseline"),
        (("student.pixels.model=gone",), "gone: is no model of timm"),
        (("student={kind: vlbert}", *REGIONS), "has 2 images a record, a vlbert student sees one"),
        (("student={kind: uniter}", *REGIONS, "adversarial={image: true}"), "set adversarial.image=false"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(here, command, tmp_path, overrides, part):
    refused = command("finetune", "-r", "nlvr2.yaml", "--runs", tmp_path / "runs", *overrides)
    assert refused.code == 2 and part in refused.err and refused.err.count("\n") == 1, refused.err
    assert not (tmp_path / "runs").exists()
