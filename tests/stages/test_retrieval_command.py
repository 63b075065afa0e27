"""Image-text retrieval through the command line: training with and without attention, ViLT's own, and their evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vldistill.data.artifact import open_data
from vldistill.data.batch import Batch
from vldistill.data.loading import make_loader
from vldistill.data.samplers import CLEAN
from vldistill.metrics.retrieval import ranks_of_scores
from vldistill.models.base.inputs import plain_dataset
from vldistill.models.build import load_retriever
from vldistill.training.vectors import caption_set


@pytest.fixture(scope="module")
def runs(toy_world, well, few, tmp_path_factory) -> dict[str, Path]:
    """A ranking fusion encoder, a student with its attention and one without."""
    folder, found = tmp_path_factory.mktemp("retrieval"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(toy_world)
        teacher = folder / "quickstart_retrieval_teacher"
        for name, stage, recipe, extra in (
            ("teacher", "finetune", "quickstart_retrieval_teacher", ["objective.false_texts=5"]),
            ("attention", "distill", "quickstart_retrieval", [f"teacher.model={teacher}"]),
            ("none", "distill", "quickstart_retrieval", ["objective.attention=none"]),
            ("plain", "finetune", "quickstart_retrieval", []),
        ):
            result = well(stage, "-r", recipe, "--runs", folder, *few, *extra, "--name", "default" if name == "teacher" else name)
            found[name] = Path(result.last["run"])
    return found


def rows(run: Path, split: str) -> list[dict]:
    return [row for line in (run / "metrics.jsonl").read_text().splitlines() if (row := json.loads(line))["split"] == split]


def test_the_recipes_plan(world, well, runs):
    teacher = f"teacher.model={runs['teacher']}"
    plan = well("distill", "-r", "quickstart_retrieval", teacher, "--dry-run").flat
    assert "cross-modal contrast + attention (cross, last layer)" in plan and "parameters frozen" in plan
    plain = well("finetune", "-r", "quickstart_retrieval", teacher, "--dry-run").flat
    assert "cross-modal contrast" in plain and "attention" not in plain and "teacher none" in plain
    assert "above 7 texts of other images" in well("finetune", "-r", "quickstart_retrieval_teacher", "--dry-run").flat
    usual = well("finetune", "-r", "quickstart_retrieval_teacher", "objective.false_texts=null", "--dry-run").flat
    assert "above 15 texts of other images" in usual


def test_what_training_logs(runs):
    for name, terms in (("teacher", {"rank"}), ("attention", {"cmc", "attention"}), ("none", {"cmc"}), ("plain", {"cmc"})):
        for row in rows(runs[name], "train"):
            assert {key.removeprefix("loss/") for key in row if key.startswith("loss/")} == terms
            assert row["loss"] == pytest.approx(sum(row[f"loss/{term}"] for term in terms), rel=1e-5)
            assert name == "teacher" or (0 < row["negatives"] <= 7 and row["temperature"] == pytest.approx(0.07, rel=0.1))
    assert rows(runs["none"], "train")[0]["loss"] == rows(runs["plain"], "train")[0]["loss"]
    [valid] = rows(runs["attention"], "val")
    assert valid["accuracy"] == pytest.approx((valid["ir_r1"] + valid["tr_r1"]) / 2) and valid["count"] == 5 * valid["images"]
    config = json.loads((runs["teacher"] / "model/config.json").read_text())
    assert config["vldistill"]["pretraining"] == ["rank"]


def test_a_temperature_that_starts_below_its_floor_comes_back(world, well, few, tmp_path):
    set_up = [*few, "train.steps=6", "objective.temperature=0.0099", "optim.warmup=0"]
    run = well("finetune", "-r", "quickstart_retrieval", "--runs", tmp_path, *set_up).last["run"]
    first, *later = [row["temperature"] for row in rows(Path(run), "train")]
    assert first == pytest.approx(0.0099, abs=1e-4) and later[0] == pytest.approx(0.01, rel=1e-6) and later[-1] > 0.01002


def test_validation_and_evaluation_agree(world, well, runs, tmp_path):
    found = well("evaluate", runs["attention"], "--split", "val", "--out", tmp_path, "--batch", "3").last
    [valid] = rows(runs["attention"], "val")
    for name in ("accuracy", "ir_r1", "ir_r10", "tr_r5", "mean_recall", "count", "images"):
        assert found[name] == pytest.approx(valid[name], abs=1e-4), name


def test_a_dual_encoders_evaluation_writes_ranks(world, well, runs, tmp_path):
    result = well("evaluate", runs["plain"], "--split", "test", "--out", tmp_path)
    assert "image retrieval" in result.out and "R@10 %" in result.out
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    ranks = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert metrics["count"] == len(ranks) == 5 * metrics["images"] and not metrics["partial"]
    assert metrics["ir_r5"] == pytest.approx(sum(row["image_rank"] <= 5 for row in ranks) / len(ranks))
    by_image = {row["image"]: row["text_rank"] for row in ranks}
    assert metrics["tr_r1"] == pytest.approx(sum(rank == 1 for rank in by_image.values()) / len(by_image))
    assert set(metrics["seconds"]) == {"images", "texts", "ranking"} and metrics["checkpoint"]["step"] == 2


@torch.no_grad()
def test_a_fusion_encoder_reads_every_pair(world, well, runs, tmp_path):
    result = well("evaluate", runs["teacher"], "--split", "test", "--out", tmp_path, "--limit", "12", "--batch", "5")
    assert "36 pairs on CPU" in result.out and "by a measured sample" in result.out and "(partial)" in result.out
    found = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    model, spec, tokenizer = load_retriever(str(runs["teacher"]))
    data = open_data(Path("artifacts/data/toy-coco"))
    records = data.records("test", limit=12)
    dataset = plain_dataset(records, data.images, tokenizer, spec)
    captions = caption_set(records)
    [batch] = make_loader(dataset, [[(CLEAN, row) for row in range(12)]])
    scores = torch.cat(
        [model(Batch(batch.ids, batch.text, [batch.images[0][torch.full((12,), row)]], None)).logits for row in captions.first],
        dim=1,
    )
    expected = ranks_of_scores(scores, captions.owner)
    assert [row["image_rank"] for row in found] == expected.image.tolist()
    assert [row["text_rank"] for row in found] == expected.text[captions.owner].tolist()


def test_the_bench_of_a_run(world, well, runs, tmp_path):
    result = well(
        "bench",
        "--retrieval",
        runs["attention"],
        "--images",
        "7",
        "--texts",
        "20",
        "--pairs",
        "5",
        "--batch",
        "3",
        "--rounds",
        "1",
        "--out",
        tmp_path / "bench.json",
    )
    assert "extrapolated from 5 pairs to 140" in result.flat and "2,509x" in result.flat and "36x36 pixels" in result.flat
    [ratio] = result.last["speedup"].values()
    measured = {row["variant"]: row for row in json.loads((tmp_path / "bench.json").read_text())["rows"]}
    assert ratio == pytest.approx(measured["dual, end to end"]["speedup"], abs=0.01)


REFUSALS = {
    "a ranking student has no teacher": ("distill -r quickstart_retrieval_teacher", "vldistill finetune --recipe"),
    "pretrain": ("pretrain -r quickstart_retrieval", "vldistill finetune --recipe quickstart_retrieval"),
    "labels": ("finetune -r quickstart_retrieval data.path=artifacts/data/toy-vqa", "has no captions to retrieve by"),
    "too many": ("finetune -r quickstart_retrieval_teacher objective.false_texts=500", "texts of other images"),
    "false texts": ("finetune -r quickstart_retrieval objective.false_texts=3", "false_texts is for a vilt student"),
    "no teacher": ("distill -r quickstart_retrieval teacher=null", "objective.attention needs a `teacher`"),
    "attention of one tower": ("finetune -r quickstart_retrieval_teacher objective.attention=cross", "is for a dual encoder"),
    "another student": ("finetune -r quickstart_retrieval student.kind=text_encoder", "text_encoder"),
    "no rank head": ("evaluate runs/quickstart_pretrain --data artifacts/data/toy-coco", "has neither rank_output nor"),
    "a fusion model's bench": ("bench --retrieval runs/quickstart_pretrain", "has neither rank_output nor"),
    "two images": ("evaluate runs/quickstart_dide --data artifacts/data/toy-coco", "takes 2 images a record"),
}


@pytest.mark.parametrize("words, expected", REFUSALS.values(), ids=REFUSALS)
def test_what_cannot_be_is_refused_in_one_line(world, command, tmp_path, words, expected):
    extra = (
        ["--out", tmp_path / "out"] if words.startswith("evaluate") else [] if words.startswith("bench") else ["--runs", tmp_path]
    )
    result = command(*words.split(), *extra)
    assert result.code == 2 and expected in result.err and len(result.err.splitlines()) == 1
    assert not any(tmp_path.iterdir())
