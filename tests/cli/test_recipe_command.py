"""`vldistill recipe ls | show | check | cp`, and `doctor`."""

from __future__ import annotations

from types import SimpleNamespace

from vldistill.commands import recipe as module
from vldistill.recipe.load import load_recipe, shipped_recipes


def test_ls_names_every_shipped_recipe(command):
    result = command("recipe", "ls")
    assert result.code == 0 and shipped_recipes()
    for path in shipped_recipes():
        assert f"{path.stem} " in result.out and load_recipe(str(path)).description in result.out


def test_ls_keeps_to_a_terminal_without_cutting_anything(command, monkeypatch):
    monkeypatch.setattr(module, "sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True)))
    monkeypatch.setenv("COLUMNS", "80")
    lines = command("recipe", "ls").out.splitlines()
    assert 40 < max(map(len, lines)) <= 80
    for path in shipped_recipes():
        assert f"{path.stem} " in "\n".join(lines)
        assert set(load_recipe(str(path)).description.split()) <= set(" ".join(lines).split())


def test_show_is_a_recipe_again(command, tmp_path):
    shown = command("recipe", "show", "quickstart_dide", "optim.lr=5e-4", "objective.attention=none")
    assert shown.code == 0
    (tmp_path / "shown.yaml").write_text(shown.out)
    meant = load_recipe("quickstart_dide", ["optim.lr=5e-4", "objective.attention=none"])
    assert load_recipe(str(tmp_path / "shown.yaml")) == meant


def test_check_tells_each_recipe_and_stops_at_a_bad_one(command, tmp_path):
    result = command("recipe", "check", "quickstart_dide", "quickstart_teacher")
    assert result.code == 0 and result.out.count(": ok\n") == 2
    (tmp_path / "bad.yaml").write_text("data: {path: x}\n")
    result = command("recipe", "check", "quickstart_dide", tmp_path / "bad.yaml")
    assert result.code == 2 and "`student` is missing" in result.err and "bad.yaml" in result.err


def test_cp_copies_once(command, tmp_path):
    assert command("recipe", "cp", "quickstart_dide", tmp_path).code == 0
    assert (tmp_path / "quickstart_dide.yaml").read_text() == next(
        path for path in shipped_recipes() if path.stem == "quickstart_dide"
    ).read_text()
    again = command("recipe", "cp", "quickstart_dide", tmp_path)
    assert again.code == 2 and "already exists" in again.err


def test_doctor_finds_its_way_without_gpu_and_network(command):
    result = command("doctor")
    assert result.code == 0
    for subject in ("versions", "torchvision", "CPU", "GPU", "weights", "disk", "SLURM"):
        assert f" {subject} " in result.out
