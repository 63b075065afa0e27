"""VL-BERT from pixels through the command line: trained with VL-BERT's optimiser, distilled, continued, evaluated, refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_teachers import write_vit

import vldistill
from vldistill.errors import InputError

RECIPE = """
data: {path: artifacts/data/toy-vcr, part: answers, limit: 24}
image: {augment: flip}
text: {max_length: 60, vocabulary_size: 300}
student:
  kind: vlbert
  visual: end_to_end
  sizes: {layers: 2, width: 16, heads: 2, feedforward: 24}
  image_network: {weights: random, blocks: [1, 1, 1, 1], width: 4, short_side: 32, long_side: 64}
optim: {kind: sgd, momentum: 0.9, lr: 1e-2, lr_scale: per_sample, weight_decay: 1e-4, decay: all, warmup: 1, schedule: steps,
        milestones: [0.67], clip: 10.0}
train: {steps: 3, batch: {pairs: 4}, eval_pairs: 16, log_every: 1}
"""


@pytest.fixture
def recipe(world, tmp_path) -> Path:
    (tmp_path / "e2e.yaml").write_text(RECIPE)
    return tmp_path / "e2e.yaml"


def rows(run: str, split: str) -> list[dict]:
    return [row for row in map(json.loads, Path(run, "metrics.jsonl").read_text().splitlines()) if row["split"] == split]


def test_it_trains_is_evaluated_and_goes_on(recipe, well, command, tmp_path):
    runs = tmp_path / "runs"
    result = well("finetune", "-r", recipe, "--runs", runs, "--name", "a")
    assert "images: seen end to end by a ResNet of 1-1-1-1 blocks, 32 to 64 pixels a side; half of them mirrored" in result.out
    found = rows(result.last["run"], "train")
    assert all({"loss/task", "loss/objects"} <= row.keys() for row in found)
    assert [row["lr"] for row in found] == pytest.approx([0.04, 0.04, 0.004])
    assert well("evaluate", result.last["run"]).last["q_to_a"] == result.last["accuracy"]
    photo = next(Path("artifacts/raw").rglob("*.jpg"))
    refused = command("predict", result.last["run"], "--image", photo, "--text", "hi")
    assert refused.code == 2 and "chooses one of several texts" in refused.err and refused.err.count("\n") == 1
    with pytest.raises(InputError, match="needs the boxes of objects"):
        vldistill.load(result.last["run"]).answer(photo, "hi", choices=["one", "two"])
    again = well(
        "finetune",
        "-r",
        recipe,
        f"student.init={result.last['run']}",
        "student.image_network.weights=null",
        "student.keep_head=true",
        "train.steps=1",
        "--runs",
        runs,
        "--name",
        "b",
    )
    before, after = (load_file(Path(run.last["run"]) / "model/model.safetensors") for run in (result, again))
    moved = {name for name, value in after.items() if not value.equal(before[name])}
    assert {"image_feature_extractor.backbone.layer2.0.conv2.weight", "cnn_loss_reg.2.weight", "classifier.1.weight"} <= moved
    still = ("image_feature_extractor.backbone.conv1.", "image_feature_extractor.backbone.layer1.")
    assert not any(name.startswith(still) or ".bn" in name for name in moved)


def test_it_is_distilled_in_two_steps_from_teachers_of_the_clean_image(recipe, well, tmp_path):
    write_vit(tmp_path / "vit")
    result = well(
        "distill",
        "-r",
        recipe,
        "--runs",
        tmp_path / "runs",
        "cache.mode=live",
        f"teachers.vision={{kind: timm, model: {tmp_path / 'vit'}}}",
        "objective={kind: advl, text: false, words: 0, itm_fraction: 0.4}",
    )
    terms = [{name for name in row if name.startswith("loss/")} for row in rows(result.last["run"], "train")]
    assert terms == [{"loss/itm", "loss/vision"}] + 2 * [{"loss/task", "loss/objects", "loss/vision"}]


def test_batches_of_tokens_count_the_objects(recipe, well):
    shown = well("finetune", "-r", recipe, "train.batch={tokens: 900}", "optim.lr_scale=none", "--dry-run").flat
    assert "pairs = batches of at most 900 tokens x 1 accumulated" in shown


@pytest.mark.parametrize(
    "overrides, part",
    [
        (("data.path=artifacts/data/toy-vqa", "data.part=both"), "needs the boxes of objects"),
        (("student.image_network.weights=null",), "has no image network to start from"),
        (("student.image_network.weights=gone.pth",), "gone.pth: no such file"),
        (("student={kind: uniter, visual: end_to_end}",), "unknown key `student.visual` (only a student of kind vlbert has it)"),
        (("regions={path: artifacts/regions}",), "leave out `regions`"),
        (("image.augment=jitter",), "image.augment=jitter does not go with student.visual=end_to_end"),
        (("student.visual=regions", "regions={path: artifacts/regions}"), "image_network needs visual=end_to_end"),
        (("student.image_network.short_side=100",), "short_side 100 is longer than long_side 64"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(recipe, command, tmp_path, overrides, part):
    refused = command("finetune", "-r", recipe, "--runs", tmp_path / "runs", *overrides)
    assert refused.code == 2 and part in refused.err and refused.err.count("\n") == 1, refused.err
    assert not (tmp_path / "runs").exists()
