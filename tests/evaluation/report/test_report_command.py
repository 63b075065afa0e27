"""`vldistill report` on real runs of the toy world."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from programs import draw, with_a_browser


@pytest.fixture(scope="module")
def grid(toy_world, well, few, tmp_path_factory):
    """A folder of runs: two variants with two seeds each, evaluated, and their teacher."""
    folder = tmp_path_factory.mktemp("grid")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(toy_world)
        for stage, name in (("distill", "attention"), ("finetune", "hard")):
            for seed in (0, 1):
                run = well(
                    stage, "-r", "quickstart_dide", *few, f"train.seed={seed}", "--name", name, "--runs", folder / "runs"
                ).last["run"]
                well("evaluate", run, "--split", "test")
        # Without what other tests have left there.
        shutil.rmtree(Path("runs/quickstart_teacher/default/seed0/eval"), ignore_errors=True)
        well("evaluate", "runs/quickstart_teacher", "--split", "test")
    return folder / "runs"


def test_page_and_tables_are_written(grid, world, well, tmp_path):
    result = well("report", grid, "runs/quickstart_teacher", "--out", tmp_path / "report", "--samples", "4")
    # Other tests may have evaluated the shared teacher on a part of its data.
    refused = [line for line in result.out.splitlines() if "not counted" in line and "quickstart_dide" in line]
    assert result.last["runs"] == 5 and not refused
    assert "DiDE, Table 6, dide: 67.6, 68.2" in result.flat and "2 68.20" not in result.flat
    html = (tmp_path / "report/report.html").read_text()
    for title in ("Results", "Learning curves", "Cost", "Sample predictions", "Runs"):
        assert f">{title}</h2>" in html
    assert html.count("<article>") == 4 and html.count("<td>teacher</td>") == 4, "the teacher answers beside the students"
    assert html.count("data:image/jpeg;base64,") == 8, "both images of a pair"
    assert "loss/attention" in html and "http" not in html.replace('http-equiv="Content-Security-Policy"', "")
    markdown = (tmp_path / "report/tables.md").read_text()
    assert "| quickstart_dide | attention | 2 |" in markdown
    assert r"\toprule" in (tmp_path / "report/tables.tex").read_text()
    assert (tmp_path / "report/tables.csv").read_text().count("\n") > 5


def test_a_missing_teacher_is_told_with_the_command(grid, world, well, tmp_path):
    shutil.rmtree(Path("runs/quickstart_teacher/default/seed0/eval"), ignore_errors=True)
    well("report", grid, "--out", tmp_path / "report")
    assert "vldistill evaluate runs/quickstart_teacher --split test" in (tmp_path / "report/report.html").read_text()


def test_nothing_is_written_without_a_folder_or_on_a_dry_run(grid, world, well, command, tree, tmp_path):
    before = tree(world)
    assert "quickstart_dide" in well("report", grid).out
    assert "quickstart_dide/hard" in well("report", grid, "--out", tmp_path / "r", "--dry-run").flat
    assert tree(world) == before and not (tmp_path / "r").exists()
    well("report", grid, "--out", tmp_path / "r", "--samples", "0")
    refused = command("report", grid, "--out", tmp_path / "r")
    assert refused.code == 2 and "already exists (pass --overwrite" in refused.err
    (tmp_path / "file").write_text("mine")
    assert command("report", grid, "--out", tmp_path / "file").code == 2


def test_a_run_tells_its_cost(grid):
    manifest = json.loads((grid / "quickstart_dide/hard/seed0/manifest.json").read_text())
    assert manifest["cost"]["seconds"] == manifest["wall_s"] > 0 and manifest["cost"]["memory_bytes"] > 1e8


@with_a_browser
@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_draws_the_page_without_a_complaint(grid, world, well, tmp_path, width):
    well("report", grid, "--out", tmp_path / "report")
    image = draw(tmp_path / "report/report.html", tmp_path, width)
    assert image.width == width and len(image.getcolors(1 << 24)) > 50
