"""Refusals: one line a fault, naming what is wrong and the mend, exit code 2, no traceback, nothing written."""

from __future__ import annotations

import json
import shlex
import shutil

import pytest
import torch

from vldistill.artifacts import write_manifest

PICTURE = "artifacts/raw/toy/vqa/train2014/COCO_train2014_000001000000.jpg"
DIDE, TEACHER, NLVR2 = "runs/quickstart_dide", "runs/quickstart_teacher", "artifacts/raw/toy/nlvr2"

# What is typed -> what the message must say.
REFUSALS = {
    "no such recipe": ("distill -r quickstart_dibe", ["did you mean recipes/quickstart_dide.yaml?"]),
    "misspelt key": ("distill -r quickstart_dide optim.lrr=1", ["`optim.lrr`", "did you mean `optim.lr`?"]),
    "key of another section": ("distill -r quickstart_dide train.lr=1", ["`train.lr`", "did you mean `optim.lr`?"]),
    "wrong type": ("finetune -r quickstart_dide train.steps=many", ["`train.steps`", "'many'"]),
    "wrong kind": ("finetune -r quickstart_dide student.kind=bert", ["student.kind", "'vilt'"]),
    "no data": ("finetune -r quickstart_teacher data.path=artifacts/data/toy-nothing",
                ["artifacts/data/toy-nothing: no such artifact", "make it with: vldistill prepare toy"]),
    "no data of one's own": ("finetune -r quickstart_teacher data.path=artifacts/data/vqa", ["vldistill prepare vqa --raw"]),
    "no data of that name": ("finetune -r quickstart_teacher data.path=artifacts/data/mine",
                             ["make it with: vldistill prepare DATASET --raw FOLDER --out artifacts/data/mine"]),
    "raw files as data": ("finetune -r quickstart_teacher data.path=artifacts/raw/toy/vqa", ["is an artifact of `toy`"]),
    "a run as data": (f"finetune -r quickstart_teacher data.path={DIDE}/default/seed0", ["`distill`", "`prepare`"]),
    "no such split": ("finetune -r quickstart_teacher data.train=training", ["no split 'training'", "train, val, test"]),
    "no such type": ("finetune -r quickstart_teacher data.types=[circles]", ["no type 'circles'"]),
    "no teacher": ("distill -r quickstart_dide teacher.model=runs/nobody", ["runs/nobody: no such model", "vldistill finetune"]),
    "no teacher in the recipe": ("distill -r quickstart_dide teacher=null", ["needs a `teacher`"]),
    "no encoder to start from": ("finetune -r quickstart_teacher student.init=runs/nobody", ["runs/nobody: no such model"]),
    "a hub name without a network": ("finetune -r quickstart_teacher student.init=dandelin/vilt-b32-mlm",
                                     ["dandelin/vilt-b32-mlm: cannot be fetched", "local folder"]),
    "teacher of another task": ("distill -r quickstart_dide teacher.model=runs/quickstart_pretrain", ["1 image(s)"]),
    "student as teacher": (f"distill -r quickstart_dide teacher.model={DIDE}", ["dual_encoder"]),
    "dual encoder into fusion": (f"finetune -r quickstart_teacher student.init={DIDE}", ["dual_encoder"]),
    "nothing to distil": ("distill -r quickstart_teacher", ["no teacher", "vldistill finetune --recipe quickstart_teacher"]),
    "longer texts than positions": ("finetune -r quickstart_teacher text.max_length=99", ["text.max_length=16"]),
    "fp16 without a GPU": ("finetune -r quickstart_teacher train.precision=fp16", ["fp16 needs a GPU", "bf16"]),
    "existing run": ("distill -r quickstart_dide --name default", ["quickstart_dide/default/seed0: already exists", "--over"]),
    "run name with a slash": ("distill -r quickstart_dide --name a/b", ["'a/b' is not a plain folder name"]),
    "a cache that cannot be": ("distill -r quickstart_dide cache.mode=require --name new", ["cache.mode", "runs live"]),
    "nothing to cache": ("cache -r quickstart_dide", ["nothing to cache", "vldistill distill --recipe quickstart_dide"]),
    "nothing to cache without a teacher": ("cache -r quickstart_teacher", ["nothing to cache", "vldistill finetune"]),
    "pre-train another objective": ("pretrain -r quickstart_dide", ["objective `dide`", "vldistill distill --recipe"]),
    "distil a pre-training": ("distill -r quickstart_advl_student", ["objective `pretrain`", "vldistill pretrain --recipe"]),
    "evaluate no run": ("evaluate runs/nobody", ["runs/nobody"]),
    "evaluate no run on data": ("evaluate runs/nobody --data artifacts/data/toy-nlvr2 --out x", ["runs/nobody: no such model"]),
    "evaluate a folder of many runs": ("evaluate runs", ["holds 4 runs", "name one of them"]),
    "evaluate no split": (f"evaluate {DIDE} --split dev", ["no split 'dev'", "train, val, test"]),
    "evaluate other data": (f"evaluate {DIDE} --data artifacts/data/toy-vqa", ["takes 2 image(s)", "has 1"]),
    "evaluate other labels": ("evaluate runs/quickstart_pretrain --data artifacts/data/toy-snli_ve", ["contradiction"]),
    "evaluate two into one": (f"evaluate {DIDE} {TEACHER} --out x", ["--out with several runs"]),
    "predict one of two images": (f"predict {DIDE} --image {PICTURE} --text hi", ["takes 2 image(s), 1 given"]),
    "predict without text": (f"predict {DIDE} --image {PICTURE}", ["reads a text beside the image", "--text"]),
    "predict an empty text": (f"predict {DIDE} --image {PICTURE} --text ''", ["--text is empty"]),
    "predict no file": ("predict runs/quickstart_pretrain --image no.jpg --text hi", ["no.jpg: no such file"]),
    "predict no image": (f"predict runs/quickstart_pretrain --image {DIDE}/default/seed0/log.txt --text hi", ["not an image"]),
    "predict no run": (f"predict runs/nobody --image {PICTURE} --text hi", ["runs/nobody: no such model"]),
    "predict no pairs": ("predict runs/quickstart_pretrain --pairs no.jsonl", ["no.jsonl: no such file"]),
    "bench a fusion model": (f"bench {TEACHER}", ["is a vilt model", "dual_encoder"]),
    "bench no run": ("bench runs/nobody", ["runs/nobody: no such model"]),
    "bench no number": ("bench --batch many", ["--batch many"]),
    "bench no precision": ("bench --precision fp8", ["fp8", "fp32, bf16, fp16"]),
    "bench half precision on a CPU": ("bench --precision fp16", ["fp16 needs a GPU"]),
    "bench no rows": ("bench --rows everything", ["--rows everything", "speed, pair"]),
    "prepare without raw files": ("prepare vqa", ["--raw is missing", "vldistill prepare vqa --raw"]),
    "prepare from nowhere": ("prepare vqa --raw nowhere", ["nowhere: no such folder"]),
    "prepare what is not known": ("prepare nlvr3 --raw artifacts/raw", ["'nlvr3'", "did you mean 'nlvr"]),
    "prepare another layout": ("prepare vqa --raw artifacts/raw/toy/nlvr2", ["does not look like"]),
    "prepare over an artifact": (f"prepare nlvr2 --raw {NLVR2} --limit 3 --out artifacts/data/toy-nlvr2", ["already exists"]),
    "prepare over a stranger": (f"prepare nlvr2 --raw {NLVR2} --out runs --overwrite", ["not an artifact"]),
    "prepare an option of another": (f"prepare nlvr2 --raw {NLVR2} --labels a,b", ["labels means nothing for nlvr2"]),
    "prepare no such split": (f"prepare nlvr2 --raw {NLVR2} --splits dev", ["split 'dev' is not known", "train, val,"]),
    "prepare low-shot of no such task": (f"prepare nlvr2 --raw {NLVR2} --out new --lowshot 100", ["--lowshot means nothing"]),
    "prepare low-shot of no number": ("prepare vqa --raw x --lowshot many", ["--lowshot many is not a list of whole numbers"]),
    "prepare a shifted toy": ("prepare toy --domain-shift --out x --raw x", ["--domain-shift", "means nothing for toy"]),
    "prepare images somehow": ("prepare jsonl --raw artifacts --images some", ["--images some"]),
    "prepare a toy of no size": ("prepare toy --scale 0 --out x --raw x", ["scale is 0"]),
}  # fmt: skip


def refused(result, *fragments: str) -> list[str]:
    """The lines of a refusal."""
    assert result.code == 2, (result.code, result.err)
    lines = result.err.splitlines()
    assert lines and all(line.startswith("vldistill: ") for line in lines), result.err
    assert "Traceback" not in result.err and result.out == ""
    for fragment in fragments:
        assert fragment in result.err
    return lines


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal(command, world, tree, name):
    line, fragments = REFUSALS[name]
    before = tree(world)
    lines = refused(command(*shlex.split(line)), *fragments)
    assert len(lines) == 1
    assert tree(world) == before


@pytest.mark.parametrize(
    "line",
    [
        "recipe cp quickstart_dide FILE/mine.yaml",
        "recipe cp quickstart_dide NOWHERE/mine.yaml",
        "predict runs/quickstart_pretrain --pairs PAIRS --out NOWHERE/answers.jsonl",
        f"evaluate {DIDE} --out FILE",
        f"bench {DIDE} --rounds 1 --batch 1 --rows pair --out NOWHERE/bench.json",
        "finetune -r quickstart_teacher --runs FILE FEW",
        f"prepare nlvr2 --raw {NLVR2} --out FILE/data",
    ],
    ids=lambda line: " ".join(line.split()[:2]),
)
def test_a_place_that_cannot_be_written_is_one_line(command, world, few, tmp_path, line):
    """A file where a folder should be, or no folder: told in a line that names it, without a traceback."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"image": "a.jpg", "text": "is there a circle?"}) + "\n")
    shutil.copy(world / PICTURE, tmp_path / "a.jpg")
    names = {"FILE": "file", "NOWHERE": "nowhere", "PAIRS": "pairs.jsonl"}
    for name, path in names.items():
        line = line.replace(name, str(tmp_path / path))
    result = command(*line.replace("FEW", " ".join(few)).split())
    assert result.code in (1, 2) and result.err.startswith("vldistill: ") and result.err.count("\n") == 1
    assert str(tmp_path) in result.err and (tmp_path / "file").read_text() == "mine"


def test_bench_on_a_gpu_says_that_there_is_none(command, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert len(refused(command("bench", "--gpu"), "CUDA", "leave out --gpu")) == 1


def test_all_faults_of_a_recipe_are_told_with_their_lines(command, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "data: {path: artifacts/data/toy-nlvr2}\nstudent:\n  kind: vilt\n  dropuot: 0.1\n"
        "optim: {lr: fast}\ntrain: {epochs: 3}\ntrain: {epochs: 4}\n"
    )
    lines = refused(
        command("finetune", "--recipe", recipe),
        f"{recipe}:4: ",
        "did you mean `student.dropout`?",
        f"{recipe}:5: ",
        f"{recipe}:7: ",
        "appears twice",
        "3 problems",
    )
    assert len(lines) == 4
    assert refused(command("recipe", "check", recipe)) == lines


def test_a_small_exponent_is_a_number(command, tmp_path):
    shown = command("recipe", "show", "quickstart_dide", "optim.lr=1e-5").out
    assert "lr: 1.0e-05" in shown


def test_data_that_changed_after_prepare_is_refused(command, world, tmp_path):
    copy = tmp_path / "toy-nlvr2"
    shutil.copytree(world / "artifacts/data/toy-nlvr2", copy)
    rows = (copy / "train.jsonl").read_text().splitlines()
    (copy / "train.jsonl").write_text("\n".join(rows[1:]) + "\n")
    changed = command("finetune", "-r", "quickstart_teacher", f"data.path={copy}", "--runs", tmp_path / "runs")
    refused(changed, "train.jsonl: differs from what its manifest records", "vldistill prepare")
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"complete": False}))
    refused(command("evaluate", DIDE, "--data", copy, "--out", tmp_path / "out"), "manifest.json: was edited")
    write_manifest(copy, manifest | {"complete": False})
    refused(command("evaluate", DIDE, "--data", copy, "--out", tmp_path / "out"), "is not complete", "vldistill prepare")
    (copy / "manifest.json").write_text("{")
    refused(command("evaluate", DIDE, "--data", copy, "--out", tmp_path / "out"), "manifest.json: is not a manifest")
    assert not (tmp_path / "runs").exists() and not (tmp_path / "out").exists()


def test_debugging_shows_the_traceback(command, monkeypatch):
    from vldistill.errors import InputError

    monkeypatch.setenv("VLDISTILL_DEBUG", "1")
    with pytest.raises(InputError, match="no such recipe"):
        command("distill", "-r", "quickstart_dibe")
