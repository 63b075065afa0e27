"""A run is scored on the data it was trained on, and an answer needs an image and a text only."""

from __future__ import annotations

import json
import shutil

from vldistill.artifacts import write_manifest


def test_data_made_anew_is_not_taken_for_the_run_s_own(world, train, command, well, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(world / "artifacts/data/toy-vqa", data)
    run = train("finetune", "quickstart_pretrain", f"data.path={data}")
    well("evaluate", run.folder)
    manifest = json.loads((data / "manifest.json").read_text())
    trained, manifest["fingerprint"] = manifest["fingerprint"], "f" * 64
    write_manifest(data, manifest)
    refused = command("evaluate", run.folder)
    assert refused.code == 2 and trained[:12] in refused.err and "f" * 12 in refused.err
    well("evaluate", run.folder, "--data", data)


def test_a_run_is_evaluated_from_any_folder(train, well, tmp_path, monkeypatch):
    run = train("finetune", "quickstart_pretrain")
    monkeypatch.chdir(tmp_path)
    assert well("evaluate", run.folder, "--limit", "4").last["count"] == 4


def test_a_bare_model_folder_is_evaluated_on_named_data(world, train, well, tmp_path):
    run = train("finetune", "quickstart_pretrain")
    bare, out = tmp_path / "bare", tmp_path / "out"
    shutil.copytree(run.folder / "model", bare)
    well("evaluate", bare, "--data", world / "artifacts/data/toy-vqa", "--out", out, "--limit", "4")
    assert {path.name for path in out.iterdir()} == {"metrics.json", "predictions.jsonl"}
    well("evaluate", run.folder / "model", "--data", world / "artifacts/data/toy-vqa", "--out", out, "--limit", "4")
    assert json.loads((out / "metrics.json").read_text())["checkpoint"]["step"] == run.manifest["best"]["step"]


def test_edited_answers_are_refused(world, command, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(world / "artifacts/data/toy-vqa", data)
    answers = json.loads((data / "answers.json").read_text())
    (data / "answers.json").write_text(json.dumps(answers) + " ")
    refused = command("finetune", "-r", "quickstart_pretrain", f"data.path={data}", "--runs", tmp_path / "runs")
    assert refused.code == 2 and "answers.json: differs" in refused.err and not (tmp_path / "runs").exists()


def test_pairs_may_carry_answers_or_labels_on_some_lines(world, well, tmp_path):
    image = next((world / "artifacts/raw/toy/vqa/train2014").glob("*.jpg"))
    shutil.copy(image, tmp_path / "a.jpg")
    lines = [
        {"image": "a.jpg", "text": "is there a red circle?", "answers": ["yes"]},
        {"image": "a.jpg", "text": "how many?"},
        {"id": "mine", "image": "a.jpg", "text": "what?", "label": "x"},
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "answers.jsonl"
    well("predict", "runs/quickstart_pretrain", "--pairs", tmp_path / "pairs.jsonl", "--out", out)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["1", "2", "mine"] and all(0 < row["confidence"] <= 1 for row in rows)
