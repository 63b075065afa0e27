"""What a name in a recipe meant when a run began is what it means later: to a run that goes on, to what is drawn and reported of
it; and data whose raw files were moved are found at their new place."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from vldistill.artifacts import read_manifest, write_manifest
from vldistill.recipe.load import load_recipe
from vldistill.training.references import FIELDS, pinned, resolved

TEACHER = "runs/quickstart_teacher/default/seed0"


def another(source: Path, target: Path) -> None:
    """A run like `source` with other weights, sealed."""
    from vldistill.artifacts import file_digest

    shutil.copytree(source, target)
    weights = load_file(target / "model/model.safetensors")
    for name in weights:
        weights[name] = weights[name] * 1.5
    save_file(weights, target / "model/model.safetensors", {"format": "pt"})
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["files"]["model/model.safetensors"] = file_digest(target / "model/model.safetensors")
    write_manifest(target, manifest)


@pytest.fixture
def place(world, tmp_path, monkeypatch) -> Path:
    """A working folder with one teacher run, from which a student of three steps was preempted after two."""
    shutil.copytree(world / "runs/quickstart_teacher", tmp_path / "runs/quickstart_teacher")
    shutil.copytree(world / "runs/quickstart_pretrain", tmp_path / "runs/quickstart_pretrain")
    (tmp_path / "artifacts").symlink_to(world / "artifacts")
    monkeypatch.chdir(tmp_path)
    return tmp_path


STUDENT = (
    "distill",
    "-r",
    "quickstart_dide",
    "--name",
    "x",
    "train.steps=4",
    "train.batch.pairs=8",
    "train.validate_every=4",
    "train.eval_pairs=32",
    "train.checkpoint_every=2",
    "--resume",
    "auto",
)
RUN = Path("runs/quickstart_dide/x/seed0")


@pytest.fixture
def preempted(place, command, monkeypatch) -> Path:
    from vldistill.training import preemption

    saved = preemption.PreemptionGuard.saved
    monkeypatch.setattr(preemption.PreemptionGuard, "saved", lambda self: (os.kill(os.getpid(), signal.SIGTERM), saved(self)))
    assert command(*STUDENT).code == 85
    monkeypatch.undo()
    monkeypatch.chdir(place)
    return place


def test_a_run_goes_on_with_the_teacher_that_it_meant(preempted, command, well):
    meant = read_manifest(RUN, "distill", make_it="", partial=True)["references"]
    assert meant["teacher"] == {"name": "runs/quickstart_teacher", "folder": str(preempted / TEACHER / "model")}
    another(Path(TEACHER), Path("runs/quickstart_teacher/second/seed0"))
    told = well(*STUDENT)
    assert told.last["step"] > 0 and read_manifest(RUN, "distill", make_it="")["references"] == meant
    assert command("evaluate", RUN, "--limit", "8").code == 0
    assert command(*(word if word != "x" else "y" for word in STUDENT)).code == 2  # a new run has to say which


def test_a_teacher_that_is_another_one_by_now_is_told(preempted, command):
    taught = shutil.move(TEACHER, preempted / "taught")
    another(Path(taught), Path(TEACHER))
    told = command(*STUDENT)
    assert told.code == 2 and "teacher has changed since" in told.err


def test_no_other_model_is_drawn_or_shown_as_the_teacher(place, command, well):
    well(*STUDENT)
    assert well("analyze", RUN, "--attention", "--samples", "1").last["samples"] == 1
    another(Path(TEACHER), Path("runs/other"))
    shutil.rmtree("runs/quickstart_teacher/default/seed0")
    shutil.move("runs/other", TEACHER)
    told = command("analyze", RUN, "--attention", "--samples", "1", "--overwrite")
    assert told.code == 2 and "another model than the one that taught it" in told.err
    for run in (RUN, TEACHER):
        well("evaluate", run)
    well("report", RUN, "--out", "report")
    assert "is another model by now" in Path("report/report.html").read_text()


def test_every_field_that_names_a_run_is_pinned(place):
    recipe = load_recipe(
        "quickstart_advl", [f"{'.'.join(path)}=runs/quickstart_teacher" for path in FIELDS.values() if path[0] != "teacher"]
    )
    recipe = recipe.model_copy(update={"teacher": load_recipe("quickstart_dide").teacher})
    found = resolved(recipe)
    assert set(found) == set(FIELDS)
    names = pinned(recipe, found)
    assert names.teacher.model == names.student.init == names.teachers.vision.model == str(place / TEACHER / "model")
    shutil.rmtree("runs/quickstart_teacher/default")
    assert pinned(recipe, found) == recipe


# --- raw files ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def moved(world, well, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(world / "artifacts/raw/toy/nlvr2", "old")
    well("prepare", "nlvr2", "--raw", "old", "--out", "data")
    return tmp_path


def test_a_raw_folder_that_was_renamed_is_taken_over_by_what_the_hint_says(moved, command, well, world):
    fingerprint = read_manifest(Path("data"), "prepare", make_it="")["fingerprint"]
    Path("old").rename("new place")
    run = world / TEACHER
    told = command("evaluate", run, "--data", "data", "--out", "out")
    assert told.code == 2 and "old is gone" in told.err
    hint = told.err.split("its new place: vldistill ")[1].rstrip(")\n")
    assert hint == "prepare nlvr2 --raw NEW_PLACE --out data"
    told = well(*(word.replace("NEW_PLACE", "new place") for word in hint.split()))
    assert f"reads its raw files from {moved / 'new place'} now, no more from {moved / 'old'}" in told.out
    manifest = read_manifest(Path("data"), "prepare", make_it="")
    assert manifest["raw_root"] == str(moved / "new place") and manifest["fingerprint"] == fingerprint
    assert "moved_from" not in manifest and "unchanged" not in manifest
    well("evaluate", run, "--data", "data", "--out", "out")
    assert "up to date" in well("prepare", "nlvr2", "--raw", "new place", "--out", "data").out


def test_a_copy_on_another_disk_is_taken_over_though_its_times_are_new(moved, well, command):
    shutil.copytree("old", "copy", copy_function=shutil.copyfile)
    future = time.time() + 100
    for path in Path("copy").rglob("*.*"):
        os.utime(path, (future, future))
    told = well("prepare", "nlvr2", "--raw", "copy", "--out", "data", "--dry-run")
    assert "would read its raw files" in told.out
    assert read_manifest(Path("data"), "prepare", make_it="")["raw_root"] == str(moved / "old")
    assert "reads its raw files" in well("prepare", "nlvr2", "--raw", "copy", "--out", "data").out
    assert read_manifest(Path("data"), "prepare", make_it="")["raw_root"] == str(moved / "copy")


def test_another_folder_with_files_of_the_same_sizes_is_no_copy(moved, command):
    shutil.copytree("old", "other", copy_function=shutil.copyfile)
    for path in Path("other").rglob("*.png"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    told = command("prepare", "nlvr2", "--raw", "other", "--out", "data")
    assert told.code == 2 and "data: already exists" in told.err
    assert read_manifest(Path("data"), "prepare", make_it="")["raw_root"] == str(moved / "old")
