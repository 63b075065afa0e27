"""`--resume auto`: a run that was told to leave, or died, goes on as if it had never stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from resumed import curve, weights

from vldistill.artifacts import sealed, write_json, write_manifest
from vldistill.training import checkpoint
from vldistill.training.checkpoint import newest
from vldistill.training.methods.base import Method
from vldistill.training.preemption import PREEMPTED, PreemptionGuard
from vldistill.training.validation import by_answers

# Two epochs of three batches.
STEPS = (
    "train.steps=6",
    "train.batch.pairs=8",
    "data.limit=24",
    "train.log_every=4",
    "train.validate_every=2",
    "train.eval_pairs=64",
)
DIDE = ("distill", "-r", "quickstart_dide", "--name", "a", *STEPS)


@pytest.fixture(scope="module")
def whole(toy_world, well, tmp_path_factory):
    """The run that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(toy_world)
        return Path(well(*DIDE, "--runs", tmp_path_factory.mktemp("whole")).last["run"])


@pytest.mark.parametrize(
    "step, number", [(1, signal.SIGUSR2), (3, signal.SIGTERM), (4, signal.SIGUSR2), (5, signal.SIGTERM), (6, signal.SIGUSR2)]
)
def test_what_was_told_to_leave_goes_on_bit_by_bit(world, command, well, whole, leaving, tmp_path, step, number):
    runs = ("--runs", tmp_path, "--resume", "auto")
    with leaving(step, number):
        left = command(*DIDE, *runs)
    run = tmp_path / "quickstart_dide/a/seed0"
    assert left.code == PREEMPTED and f"left after step {step}: {number.name}" in left.err and "--resume auto" in left.err
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["status"] == "preempted" and not manifest["complete"]
    assert newest(run).name == f"step-{step:08d}"
    told = well(*DIDE, *runs)
    assert f"going on after step {step}" in told.out and "6 (2.0 epochs)" in told.out
    assert curve(run) == curve(whole) and weights(run) == weights(whole)
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["complete"] and [part["step"] for part in manifest["resumed"]] == [step]
    assert not (run / "checkpoints").exists(), "a run that is complete needs none"


def test_a_signal_in_the_middle_of_a_checkpoint_is_heard_after_the_next_step(world, command, well, whole, tmp_path, monkeypatch):
    write, told = checkpoint.save_tensors, []

    def interrupted(path, tensors, **more):
        if not told:
            told.append(path.parent.name)
            os.kill(os.getpid(), signal.SIGTERM)
        write(path, tensors, **more)

    arguments = (*DIDE, "--runs", tmp_path, "--resume", "auto", "train.checkpoint_every=2")
    monkeypatch.setattr(checkpoint, "save_tensors", interrupted)
    left = command(*arguments)
    run = tmp_path / "quickstart_dide/a/seed0"
    assert left.code == PREEMPTED and "left after step 3: SIGTERM" in left.err and told == [".step-00000002.tmp"]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-00000002", "step-00000003"]
    well(*arguments)
    assert curve(run) == curve(whole) and weights(run) == weights(whole)


@pytest.mark.parametrize("stage, recipe", [("pretrain", "quickstart_dide_pretrain"), ("finetune", "quickstart_retrieval")])
def test_pre_training_and_retrieval_go_on_too(world, command, well, leaving, tmp_path, stage, recipe):
    own = ("teacher.model=runs/quickstart_fusion",) if stage == "pretrain" else ("objective.attention=none",)
    arguments = (stage, "-r", recipe, "--name", "a", "student.init=runs/quickstart_pretrain", *own, *STEPS)
    whole = Path(well(*arguments, "--runs", tmp_path / "whole").last["run"])
    with leaving(5):
        assert command(*arguments, "--runs", tmp_path, "--resume", "auto").code == PREEMPTED
    run = Path(well(*arguments, "--runs", tmp_path, "--resume", "auto").last["run"])
    assert curve(run) == curve(whole) and weights(run) == weights(whole)


def test_a_run_that_died_goes_on_from_its_last_checkpoint(world, command, well, whole, tmp_path, monkeypatch):
    runs = ("--runs", tmp_path, "train.checkpoint_every=2")
    ask = PreemptionGuard.ask

    def dies(self, step):
        if step == 5:
            raise RuntimeError("died")
        return ask(self, step)

    monkeypatch.setattr(PreemptionGuard, "ask", dies)
    with pytest.raises(RuntimeError):
        command(*DIDE, *runs)
    monkeypatch.setattr(PreemptionGuard, "ask", ask)
    run = tmp_path / "quickstart_dide/a/seed0"
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-00000002", "step-00000004"]
    half = run / "checkpoints/.step-00000006.tmp"
    half.mkdir()
    assert "going on after step 4" in well(*DIDE, *runs, "--resume", "auto").out
    assert curve(run) == curve(whole) and weights(run) == weights(whole) and not half.exists()


def test_the_first_start_and_a_complete_run_take_the_same_command(world, command, well, whole, tmp_path):
    arguments = (*DIDE, "--runs", tmp_path, "--resume", "auto")
    first = well(*arguments)
    assert "going on" not in first.out
    before = (tmp_path / "quickstart_dide/a/seed0/manifest.json").read_bytes()
    again = well(*arguments)
    assert "is complete" in again.out and again.last["run"] == first.last["run"] and again.last["step"] == first.last["step"]
    well(*arguments, "data.workers=1")
    other = command(*arguments, "optim.lr=5e-4")
    assert other.code == 2 and "optim.lr was 0.0012, is 0.0005" in other.err and "another --name" in other.err
    assert (tmp_path / "quickstart_dide/a/seed0/manifest.json").read_bytes() == before


def test_before_the_first_step_it_leaves_at_once(world, command, tmp_path, monkeypatch):
    def told(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("vldistill.training.run.build_parts", told)
    left = command(*DIDE, "--runs", tmp_path, "--resume", "auto")
    assert left.code == PREEMPTED and "left before the first step: SIGTERM" in left.err and not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "the process is as it was"


@pytest.fixture
def left(world, command, leaving, tmp_path):
    """A run that left after two steps, and the command that goes on with it."""
    arguments = (*DIDE, "--runs", tmp_path, "--resume", "auto")
    with leaving(2):
        assert command(*arguments).code == PREEMPTED
    return tmp_path / "quickstart_dide/a/seed0", arguments


def test_what_would_make_another_run_is_refused_by_name(left, command, tree, tmp_path):
    run, arguments = left
    data, other = "artifacts/data/toy-nlvr2", tmp_path / "data"
    other.symlink_to(Path(data).resolve())
    before = tree(run)
    for field, told in (
        ("optim.lr=5e-4", "optim.lr was 0.0012, is 0.0005"),
        ("train.batch.pairs=4", "train.batch.pairs was 8, is 4"),
        ("student.init=runs/quickstart_fusion", "init has changed since"),
        (f"data.path={other}", f"data.path was '{data}', is '{other}'"),
    ):
        refused = command(*arguments, field)
        assert refused.code == 2 and told in refused.err and "start anew with --overwrite" in refused.err, refused.err
    assert tree(run) == before
    manifest = json.loads((run / "manifest.json").read_text())
    write_manifest(run, {**manifest, "parents": {**manifest["parents"], "data": "f" * 64}})
    refused = command(*arguments)
    assert refused.code == 2 and "was begun otherwise: data has changed since" in refused.err


def test_another_number_of_threads_is_told_and_of_processes_refused(left, command, well):
    run, arguments = left
    file = newest(run) / "state.json"

    def begun_with(**given: int) -> None:
        state = json.loads(file.read_text())
        write_json(file, sealed({**state, "run": {**state["run"], **given}}))

    begun_with(processes=2)
    refused = command(*arguments)
    assert refused.code == 2 and "was begun with 2 process(es), this is 1 (start as many, " in refused.err
    begun_with(processes=1, threads=3)
    assert "computed with 3 thread(s) before, now with 1: sums may round otherwise" in well(*arguments).out


def test_what_changes_nothing_may_differ(left, well, whole):
    run, arguments = left
    well(*arguments, "data.workers=1", "train.checkpoint_minutes=0")
    assert curve(run) == curve(whole) and weights(run) == weights(whole)


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_serves(left, command, well, whole):
    run, arguments = left
    file = newest(run) / "state.safetensors"
    shutil.copytree(newest(run), run / "checkpoints/step-00000001")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    refused = command(*arguments)
    assert refused.code == 2 and "is damaged: its tensors differ" in refused.err and "step-00000002" in refused.err
    shutil.rmtree(newest(run))
    well(*arguments)
    assert curve(run)[-1]["step"] == 6


def test_other_words_are_refused(world, command, tmp_path):
    assert "--resume always: only auto is known" in command(*DIDE, "--resume", "always").err
    assert "--resume and --overwrite" in command(*DIDE, "--resume", "auto", "--overwrite").err
    run = tmp_path / "quickstart_dide/a/seed0"
    run.mkdir(parents=True)
    (run / "mine.txt").write_text("notes")
    refused = command(*DIDE, "--runs", tmp_path, "--resume", "auto")
    assert refused.code == 2 and "is not an artifact" in refused.err and (run / "mine.txt").exists()


@pytest.mark.parametrize("damage", [False, True], ids=["whole", "flipped"])
def test_a_run_that_died_after_a_new_best_ends_with_its_checkpoints_best(world, command, well, tmp_path, monkeypatch, damage):
    """What it computes again is worse, as it may be on a GPU; the best model is that of step 2, and is written anew from the
    checkpoint of that step where it was damaged meanwhile."""
    ask, scores = PreemptionGuard.ask, [0.1, 0.2, 0.3]

    def dies(self, step):
        if step == 3:
            raise RuntimeError("died")
        return ask(self, step)

    def scored(asked):
        return by_answers(asked) | {"accuracy": scores.pop(0) if scores else 0.0}

    arguments = (*DIDE, "--runs", tmp_path, "train.validate_every=1", "train.checkpoint_every=2", "--resume", "auto")
    monkeypatch.setattr(Method, "judge", lambda self, parts: scored)
    monkeypatch.setattr(PreemptionGuard, "ask", dies)
    with pytest.raises(RuntimeError):
        command(*arguments)
    monkeypatch.setattr(PreemptionGuard, "ask", ask)
    run = tmp_path / "quickstart_dide/a/seed0"
    kept = run / "best/step-00000002/model.safetensors"
    whole = kept.read_bytes()
    assert (run / "best/step-00000003/model.safetensors").read_bytes() != whole and not (run / "model").exists()
    if damage:
        kept.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    told = well(*arguments).last
    assert told["step"] == 2 and weights(run) == whole and not (run / "best").exists()


def test_a_run_of_an_earlier_version_has_its_best_model_in_place(world, command, well, whole, leaving, tmp_path):
    """Checkpoints of an earlier version know of no digests."""
    arguments = (*DIDE, "--runs", tmp_path, "--resume", "auto")
    with leaving(3):
        assert command(*arguments).code == PREEMPTED
    run = tmp_path / "quickstart_dide/a/seed0"
    path = newest(run) / "state.json"
    state = json.loads(path.read_text())
    state["values"]["best"].pop("files")
    state["values"].pop("curve_sha256")
    write_json(path, sealed(state))
    [best] = (run / "best").iterdir()
    best.rename(run / "model")
    well(*arguments)
    assert curve(run) == curve(whole) and weights(run) == weights(whole)


def test_a_notice_that_was_held_while_python_started_is_heard(world, tmp_path):
    """As bin/train.sbatch starts a training; the signal is there before the interpreter is."""
    held = ("bash", "-c", 'kill -USR2 $$; exec "$@"', "held", sys.executable, "-m", "vldistill", *DIDE, "--runs", str(tmp_path))
    done = subprocess.run(["env", "--block-signal=USR2", *held], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == PREEMPTED and "left before the first step: SIGUSR2" in done.stderr, done.stderr
    assert not (tmp_path / "quickstart_dide/a/seed0").exists()


BOTH = {
    "answers": ("distill", "quickstart_dide"),
    "recalls": ("finetune", "quickstart_retrieval"),
    "pretext": ("pretrain", "quickstart_dide_pretrain"),
}
OWN = {
    "answers": (),
    "recalls": ("objective.attention=none", "student.init=runs/quickstart_pretrain"),
    "pretext": ("teacher.model=runs/quickstart_fusion", "student.init=runs/quickstart_pretrain"),
}


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("step", [2, 6], ids=["early", "last"])
def test_a_validation_that_is_left_begins_anew(world, command, well, tmp_path, monkeypatch, kind, step):
    """By every way of validating, which may take longer than the notice. The signal comes before its second batch; the last
    step's validation is the run's end."""
    stage, recipe = BOTH[kind]
    arguments = (stage, "-r", recipe, "--name", "a", *OWN[kind], *STEPS, "train.eval_pairs=4")
    whole = Path(well(*arguments, "--runs", tmp_path / "whole").last["run"])
    watch, read = PreemptionGuard.watch, []

    def watched(self, batches):
        def told():
            for number, batch in enumerate(batches):
                read.append(number)
                if at.get("due") and number == 1:
                    os.kill(os.getpid(), signal.SIGUSR2)
                yield batch

        return watch(self, told())

    at: dict[str, bool] = {}
    ask = PreemptionGuard.ask
    monkeypatch.setattr(PreemptionGuard, "watch", watched)
    # What is asked after the step before.
    monkeypatch.setattr(PreemptionGuard, "ask", lambda self, now: (at.update(due=now == step - 1), ask(self, now))[1])
    runs = ("--runs", tmp_path, "--resume", "auto")
    left = command(*arguments, *runs)
    assert left.code == PREEMPTED and f"left after step {step}, before its validation: SIGUSR2" in left.err, left.err
    assert read[-1] == 1, "no further batch was read"
    run = tmp_path / whole.relative_to(tmp_path / "whole")
    monkeypatch.undo()
    monkeypatch.chdir(world)
    gone_on = well(*arguments, *runs)
    assert f"going on after step {step}" in gone_on.out
    assert curve(run) == curve(whole) and weights(run) == weights(whole)
