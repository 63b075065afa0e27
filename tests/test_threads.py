"""How many threads compute: by the size of the model, unless the user says so."""

from __future__ import annotations

import os
import subprocess
import sys
from unittest import mock

import pytest
from programs import ENVIRONMENT

from vldistill import runtime
from vldistill.models.base.family import families
from vldistill.recipe.load import load_recipe
from vldistill.runtime import choose_threads, own_cores, wait_without_spinning

QUICK, VILT = (64, 3), (768, 12)


@pytest.fixture
def unset(monkeypatch):
    for name in (*runtime.POLICY, *runtime.COUNT, "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_by_size(unset):
    unset.setattr(runtime, "own_cores", lambda: 6)
    assert choose_threads(*QUICK).count == 1 and choose_threads(*VILT).count == 6
    unset.setenv("LOCAL_WORLD_SIZE", "4")
    assert choose_threads(*VILT).count == 1
    sizes = load_recipe("quickstart_pretrain").student.sizes
    assert sizes.width * sizes.width * sizes.layers < runtime.SMALL


def test_a_run_that_goes_on_keeps_its_number(unset):
    unset.setattr(runtime, "own_cores", lambda: 4)
    assert choose_threads(*VILT, before=2).count == 2 and choose_threads(*QUICK, before=4).count == 4
    assert choose_threads(*VILT, before=8).count == 4  # of a machine that had them


@pytest.mark.parametrize("name", runtime.COUNT)
def test_the_user_wins(name, unset):
    unset.setenv(name, "3")
    assert choose_threads(*QUICK).count == choose_threads(*VILT, before=2).count == 3
    assert name in choose_threads(*QUICK).reason


@pytest.mark.parametrize("name", runtime.POLICY)
def test_how_threads_wait_is_the_users_too(name, unset):
    unset.setenv(name, "ACTIVE")
    wait_without_spinning()
    assert [os.environ.get(one) for one in runtime.POLICY if one != name] == [None, None]


def test_threads_sleep_while_they_wait(unset):
    with mock.patch.dict(os.environ):
        wait_without_spinning()
        assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert 1 <= own_cores() <= (os.cpu_count() or 1)


def test_a_command_says_what_it_chose(world, tmp_path):
    """The policy is set before torch is there, since OpenMP reads it then."""
    kept = {name: value for name, value in os.environ.items() if name not in (*runtime.POLICY, *runtime.COUNT)}
    program = (
        "import os, sys\nfrom vldistill.cli import main\n"
        "try:\n    main(sys.argv[1:])\nfinally:\n    print(os.environ['OMP_WAIT_POLICY'], file=sys.stderr)\n"
    )
    words = (
        "finetune",
        "-r",
        "quickstart_pretrain",
        "--name",
        "x",
        "--runs",
        str(tmp_path),
        "train.steps=1",
        "train.batch.pairs=4",
        "train.validate_every=1",
        "train.eval_pairs=64",
        "data.limit=16",
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        env=kept | {"PYTHONPATH": ENVIRONMENT["PYTHONPATH"]},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "1 thread(s) of" in done.stdout and "(the model is small)" in done.stdout and "PASSIVE" in done.stderr


def test_every_student_has_a_size():
    for family in families():
        kind, student = family.kind, family.model
        assert all(hasattr(student, name) or name in student.__init__.__code__.co_names for name in ("width", "layers")), kind
