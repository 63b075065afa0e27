"""`finetune` and `distill` on the toy world: what a run leaves on disk, whatever its objective and task."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from vldistill.artifacts import file_digest
from vldistill.data.sequences import join_parts
from vldistill.models.build import load_student
from vldistill.recipe.load import load_recipe

RUNS = {"pretrain": {"task"}, "teacher": {"task"}, "dide": {"soft_label", "attention"}}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_folder_is_whole(world, name):
    folder = Path(f"runs/quickstart_{name}/default/seed0")
    later = {"eval", "figures"}  # of other tests' commands
    found = {path.name for path in folder.iterdir()} - later
    assert found == {"recipe.yaml", "manifest.json", "metrics.jsonl", "log.txt", "model"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["complete"] is True and manifest["status"] == "complete" and manifest["partial"] is False
    assert manifest["stage"] == ("distill" if name == "dide" else "finetune") and manifest["seed"] == 0
    assert manifest["command"][:2] == ["vldistill", manifest["stage"]] and manifest["wall_s"] > 0
    assert {"torch", "vldistill", "transformers"} <= set(manifest["versions"]) and manifest["device"].startswith("CPU")
    log = (folder / "log.txt").read_text()
    assert "effective batch: 8 pairs" in log and "best: accuracy" in log and "fp32" in log


@pytest.mark.parametrize("name", RUNS)
def test_metrics_hold_every_named_loss_term(world, name):
    rows = [json.loads(line) for line in Path(f"runs/quickstart_{name}/default/seed0/metrics.jsonl").read_text().splitlines()]
    train, val = ([row for row in rows if row["split"] == split] for split in ("train", "val"))
    assert [row["step"] for row in train] == [1, 2] and [row["step"] for row in val] == [2]
    for row in train:
        terms = {key.removeprefix("loss/") for key in row if key.startswith("loss/")}
        assert terms == RUNS[name]
        assert row["loss"] == pytest.approx(sum(row[f"loss/{term}"] for term in terms), rel=1e-5)
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, float))
        assert {"lr", "epoch", "grad_norm", "pairs_per_s"} <= set(row)
    assert 0 <= val[0]["accuracy"] <= 1 and ("consistency" in val[0]) == (name != "pretrain")


def test_a_manifest_names_its_parents_by_what_they_hold(world):
    manifest = json.loads(Path("runs/quickstart_dide/default/seed0/manifest.json").read_text())
    data = json.loads(Path("artifacts/data/toy-nlvr2/manifest.json").read_text())
    assert manifest["parents"] == {
        "data": data["fingerprint"],
        "init": file_digest(Path("runs/quickstart_pretrain/default/seed0/model/model.safetensors")),
        "teacher": file_digest(Path("runs/quickstart_teacher/default/seed0/model/model.safetensors")),
    }
    assert manifest["counts"] == {"train": data["counts"]["train"]["records"], "val": data["counts"]["val"]["records"]}


def test_the_recipe_of_a_run_runs_again_to_the_same_figures(world, well, tmp_path):
    folder = Path("runs/quickstart_dide/default/seed0")
    recipe = load_recipe(str(folder / "recipe.yaml"))
    assert recipe.name == "quickstart_dide" and recipe.train.steps == 2 and recipe.train.batch.pairs == 8
    again = Path(well("distill", "--recipe", folder / "recipe.yaml", "--runs", tmp_path).last["run"])

    def losses(run: Path) -> list[tuple]:
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        return [(row.get("loss"), row.get("grad_norm"), row.get("accuracy")) for row in rows]

    assert losses(again) == losses(folder)
    manifests = [json.loads((run / "manifest.json").read_text()) for run in (again, folder)]
    assert manifests[0]["recipe_hash"] == manifests[1]["recipe_hash"]


def test_a_model_folder_stands_alone(world, well, tmp_path, monkeypatch):
    for name, kind in (("pretrain", "vilt"), ("dide", "dual_encoder")):
        shutil.copytree(world / f"runs/quickstart_{name}/default/seed0/model", tmp_path / name)
        monkeypatch.chdir(tmp_path)
        model, spec, tokenizer = load_student(name)
        assert spec.kind == kind and spec.labels and not model.training
        ids = join_parts(tokenizer, (("is", "there", "a", "red", "circle", "?"),), 16).ids
        assert tokenizer.vocabulary["[UNK]"] not in ids
        assert {path.name for path in (tmp_path / name).iterdir()} == {
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.txt",
        }
    picture = next((world / "artifacts/raw/toy/vqa/val2014").iterdir())
    assert well("predict", "pretrain", "--image", picture, "--text", "is there a red circle?").last["prediction"]


OBJECTIVES = {
    "cross": ([], {"soft_label", "attention"}),
    "uni": (["attention=uni"], {"soft_label", "attention"}),
    "whole": (["attention=whole"], {"soft_label", "attention"}),
    "soft labels": (["attention=none"], {"soft_label"}),
    "hidden states too": (["hidden_states=true"], {"soft_label", "attention", "hidden_state"}),
    "hidden states": (["attention=none", "soft_labels=false", "hidden_states=true"], {"hidden_state"}),
    "all layers": (["layers=all"], {"soft_label", "attention"}),
    "top layers": (["layers=top", "hidden_states=true"], {"soft_label", "attention", "hidden_state"}),
    "bottom layers": (["layers=bottom"], {"soft_label", "attention"}),
    "reverse": (["kl=reverse"], {"soft_label", "attention"}),
    "attention": (["soft_labels=false"], {"attention"}),
    "hard labels too": (["hard_label_weight=1"], {"soft_label", "attention", "task"}),
    "hard labels": (["attention=none", "soft_labels=false", "hard_label_weight=0.5"], {"task"}),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_ablation_trains(train, name):
    overrides, terms = OBJECTIVES[name]
    run = train("distill", "quickstart_dide", *(f"objective.{override}" for override in overrides))
    losses = run.losses()
    assert len(losses) == 2
    for row in losses:
        assert set(row) == {"loss", "grad_norm", *(f"loss/{term}" for term in terms)}
        assert all(math.isfinite(value) and value > 0 for value in row.values())
    assert load_student(str(run.folder))[1].kind == "dual_encoder"


def test_ablations_differ(train):
    """The fields reach the objective: no two of these have the same loss at the first step."""
    first = {}
    for override in ("attention=cross", "attention=uni", "attention=whole", "layers=all", "layers=bottom", "kl=reverse"):
        run = train("distill", "quickstart_dide", f"objective.{override}", runs=override)
        first[override] = run.losses()[0]
    assert len({row["loss/attention"] for row in first.values()}) == len(first)
    assert len({row["loss/soft_label"] for row in first.values()}) == 1
    doubled = train("distill", "quickstart_dide", "objective.attention_weight=2", runs="doubled").losses()[0]
    assert doubled["loss/attention"] == pytest.approx(2 * first["attention=cross"]["loss/attention"], rel=1e-5)


def test_finetune_of_a_distillation_recipe_needs_no_teacher(train):
    """The same student, data and budget on labels alone: the baseline of the tables."""
    run = train("finetune", "quickstart_dide", "teacher.model=runs/nobody")
    assert set(run.losses()[0]) == {"loss", "loss/task", "grad_norm"}
    assert run.manifest["stage"] == "finetune" and set(run.manifest["parents"]) == {"data", "init"}
    assert load_student(str(run.folder))[1].kind == "dual_encoder"
    assert load_recipe(str(run.folder / "recipe.yaml")).teacher is None


def test_snli_ve(train):
    """Three labels, one image: a teacher, then a student of it."""
    data = "data.path=artifacts/data/toy-snli_ve"
    teacher = train("finetune", "quickstart_teacher", data)
    student = train("distill", "quickstart_dide", data, f"teacher.model={teacher.folder}", "objective.hard_label_weight=1")
    assert set(student.losses()[0]) == {"loss", "loss/task", "loss/soft_label", "loss/attention", "grad_norm"}
    spec = load_student(str(student.folder))[1]
    assert spec.labels == ["contradiction", "entailment", "neutral"] and spec.images == 1


def test_vqa(train):
    """Many answers with soft scores: binary cross-entropy against the teacher's sigmoids."""
    teacher = train("finetune", "quickstart_pretrain", "objective.answer_loss=bce", "student.init=runs/quickstart_pretrain")
    student = train(
        "distill",
        "quickstart_dide",
        "data.path=artifacts/data/toy-vqa",
        f"teacher.model={teacher.folder}",
        "objective.hard_label_weight=1",
    )
    assert set(student.losses()[0]) == {"loss", "loss/task", "loss/soft_label", "loss/attention", "grad_norm"}
    names = json.loads(Path("artifacts/data/toy-vqa/answers.json").read_text())["answers"]
    assert load_student(str(student.folder))[1].labels == names
    # Sums over answers: about log 2 for each at the start.
    assert student.losses()[0]["loss/task"] == pytest.approx(len(names) * math.log(2), rel=0.5)


def test_a_teacher_s_answers_are_read_as_it_was_trained(train, command, few):
    """One softmax over all answers says nothing to a sigmoid for each; a run records which it is."""
    arguments = ("quickstart_dide", "data.path=artifacts/data/toy-vqa", "teacher.model=runs/quickstart_pretrain")
    refused = command("distill", "-r", *arguments, "--name", "sigmoid", *few)
    assert refused.code == 2 and "trained with softmax, objective.answer_loss is bce" in refused.err
    assert "set objective.answer_loss=softmax" in refused.err
    student = train("distill", *arguments, "objective.answer_loss=softmax")
    assert load_student(str(student.folder))[1].answer_loss == "softmax"
    # Attention alone does not read them.
    train("distill", *arguments, "objective.soft_labels=false")


def test_only_some_types(train):
    run = train("finetune", "quickstart_pretrain", "data.types=[yes/no]")
    records = [json.loads(line) for line in Path("artifacts/data/toy-vqa/train.jsonl").read_text().splitlines()]
    assert run.manifest["counts"]["train"] == sum(record["type"] == "yes/no" for record in records)


def test_training_in_bfloat16(train):
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    try:
        run = train("distill", "quickstart_dide", "train.precision=bf16", "objective.hidden_states=true")
        assert run.manifest["precision"] == "bf16"
        assert all(math.isfinite(value) for row in run.losses() for value in row.values())
        assert all(value.dtype == torch.float32 for value in load_student(str(run.folder))[0].state_dict().values())
    finally:
        AcceleratorState._reset_state(True)


def test_a_student_continues_with_its_head(train):
    run = train("distill", "quickstart_dide", "student.init=runs/quickstart_dide", "student.keep_head=true", "optim.lr=1e-12")
    old, new = (load_student(str(place))[0].state_dict() for place in ("runs/quickstart_dide", run.folder))
    assert all(torch.allclose(old[name], new[name], atol=1e-6) for name in old)


def test_captions_cannot_be_trained_on_yet(world, command, well, few, tmp_path):
    well("prepare", "coco", "--raw", "artifacts/raw/toy/coco", "--out", tmp_path / "coco")
    refused = command("finetune", "-r", "quickstart_pretrain", f"data.path={tmp_path / 'coco'}", "--runs", tmp_path, *few)
    assert refused.code == 2 and "is a `caption` artifact" in refused.err
