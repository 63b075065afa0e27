"""Runs to figures: reading what is on disk, grouping by seed, the papers' figures beside them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from vldistill.errors import InputError
from vldistill.evaluation.report.grid import (
    Cell,
    GridColumn,
    _rows,
    columns_of,
    group_runs,
    problems_of,
    published_for,
    remarks_of,
)
from vldistill.evaluation.report.runs import read_runs
from vldistill.evaluation.report.tables import make_grid, text_table, to_csv, to_latex, to_markdown

TEST = GridColumn("test", "accuracy")
METHODS = {
    "hard": {"objective": {"kind": "labels"}},
    "soft": {"objective": {"kind": "dide", "attention": "none", "soft_labels": True, "hidden_states": False, "layers": "last"}},
}


def groups_of(folder: Path):
    return group_runs(read_runs([folder]))


def test_mean_and_deviation_over_seeds(write_run, tmp_path):
    for seed, accuracy in enumerate((0.5, 0.52, 0.6)):
        write_run("soft", seed, scores={"test": {"accuracy": accuracy}})
    (group,) = groups_of(tmp_path / "runs")
    cell = group.cell(TEST)
    assert cell.mean == pytest.approx(54.0) and cell.deviation == pytest.approx(28**0.5) and cell.runs == 3
    assert Cell((1.0,), 1).deviation is None and Cell((), 2).mean is None


def test_seeds_are_in_their_order_and_a_run_named_twice_counts_once(write_run, tmp_path):
    for seed in (10, 2, 1):
        write_run("soft", seed)
    runs = read_runs([tmp_path / "runs", tmp_path / "runs/mine/soft/seed2"])
    assert [run.seed for run in runs] == [1, 2, 10]


def test_runs_that_failed_are_flagged_and_not_counted(write_run, tmp_path):
    write_run("soft", 0, scores={"test": {"accuracy": 0.9}})
    write_run("soft", 1, scores={"test": {"accuracy": 0.1}}, complete=False, status="failed")
    write_run("soft", 2, scores={"test": {"accuracy": 0.1}}, partial=True)
    killed = write_run("soft", 3, complete=False, status="running")
    broken = write_run("soft", 4)
    (broken / "manifest.json").write_text('{"stage": "dist')
    edited = write_run("soft", 5)
    (edited / "recipe.yaml").write_text("student: [")
    (group,) = groups_of(tmp_path / "runs")
    assert group.cell(TEST) == Cell((90.0,), 6)
    told = dict(line.rsplit(": ", 1) for line in problems_of([group]) if "seed1" in line or "seed2" not in line)
    assert told[str(tmp_path / "runs/mine/soft/seed1")] == "failed"
    assert [line.split("seed")[-1] for line in problems_of([group])] == [
        "1: failed",
        "2: partial: not on all data",
        "3: not finished: running, or killed",
        "4: its manifest.json cannot be read",
        "5: its recipe.yaml cannot be read",
    ]
    assert killed.name == "seed3"


def test_an_evaluation_of_a_part_counts_for_nothing(write_run, tmp_path):
    write_run("soft", 0, scores={"test": {"accuracy": 0.9}, "test-limit8": {"accuracy": 0.2, "partial": True}})
    groups = groups_of(tmp_path / "runs")
    assert columns_of(groups) == [GridColumn("validation", "accuracy"), TEST]
    assert problems_of(groups) == [f"{tmp_path}/runs/mine/soft/seed0: evaluated on a part of test-limit8 only"]


def test_different_settings_under_one_name_are_told(write_run, tmp_path):
    def draw(seed: int, rate: float = 1e-3) -> dict:
        return {"data": {"train": f"train-lowshot100-seed{seed}"}, "optim": {"lr": rate}, "train": {"seed": seed}}

    for seed in (0, 1):
        write_run("draws", seed, settings=draw(seed))
        write_run("rates", seed, settings=draw(seed, 1e-3 + seed))
    groups = groups_of(tmp_path / "runs")
    assert problems_of(groups) == [] and len(remarks_of(groups)) == 1
    assert "mine/rates: its runs were made with different settings" in remarks_of(groups)[0]


def test_a_line_that_was_cut_off_is_passed_over(write_run, tmp_path):
    folder = write_run("soft", 0)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "split": "tr')
    (run,) = read_runs([folder])
    assert [row["step"] for row in run.curve] == [1, 2]


def test_what_holds_no_runs_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no runs"):
        read_runs([tmp_path])
    with pytest.raises(InputError, match="no such folder"):
        read_runs([tmp_path / "nothing"])


def test_every_published_row_has_figures_in_percent_and_a_condition():
    figures = [figure for row in _rows() for figure in row.figures.values()]
    assert len(figures) > 300 and all(0 < figure.value < 100 for figure in figures)
    assert all(row.when for row in _rows())
    tables = {(figure.paper, figure.table) for figure in figures}
    assert tables == {("DiDE", number) for number in "24567"} | {("ADVL", number) for number in "12349"}


@pytest.mark.parametrize(
    "variant, settings, task, data, column, expected",
    [
        # DiDE, Table 6: soft labels alone, NLVR2 test-P.
        ("soft", {"student": {"kind": "dual_encoder", "init": "runs/fusion"}}, "nlvr2", "train", "test", ("DiDE", "6", 51.1)),
        ("hard", {"student": {"kind": "vilt"}, "objective": {"kind": "labels"}}, "snli_ve", "train", "val", ("DiDE", "2", 76.6)),
        # ADVL, Table 4: VL-BERT on SNLI-VE with 100 of each type.
        (
            "x",
            {"student": {"kind": "vlbert"}, "objective": {"kind": "labels"}},
            "snli_ve",
            "train-lowshot100-seed1",
            "val",
            ("ADVL", "4", 53.28),
        ),
        ("x", {"student": {"kind": "vlbert"}, "objective": {"kind": "labels"}}, "snli_ve", "train", "val", ("ADVL", "4", 74.66)),
        ("x", {"student": {"kind": "vlbert"}, "objective": {"kind": "labels"}}, "nlvr2", "train", "val", None),
    ],
)
def test_a_paper_s_figure_stands_beside_its_method_task_and_split(write_run, variant, settings, task, data, column, expected):
    write_run("default", recipe="fusion")
    merged = {**METHODS.get(variant, {}), **settings, "data": {"train": data}}
    folder = write_run(variant, settings=merged, task=task, scores={column: {"accuracy": 0.5}})
    (group,) = group_runs(read_runs([folder]))
    found = published_for(group, [GridColumn(column, "accuracy")]).get(GridColumn(column, "accuracy"), [])
    assert [(figure.paper, figure.table, figure.value) for figure in found] == ([expected] if expected else [])


def test_where_a_student_starts_decides_between_tables(write_run, tmp_path, monkeypatch):
    """Table 5 has students from DiDE's pre-training, Table 6 from the fusion encoder."""
    monkeypatch.chdir(tmp_path)
    dide = {"kind": "dide", "attention": "cross", "soft_labels": True, "hidden_states": False, "layers": "last"}
    pretrained = {"student": {"kind": "dual_encoder"}, "objective": {"kind": "pretrain", "attention": "cross"}}
    write_run("kd", recipe="pre", settings=pretrained)
    write_run("default", recipe="fusion", settings={"student": {"kind": "vilt"}, "objective": {"kind": "pretrain"}})
    values = {}
    for start in ("pre", "fusion"):
        settings = {"student": {"kind": "dual_encoder", "init": f"runs/{start}"}, "objective": dide}
        folder = write_run(f"from-{start}", settings=settings, scores={"test": {"accuracy": 0.5}})
        (group,) = group_runs(read_runs([folder]))
        values[start] = [figure.value for figure in published_for(group, [TEST])[TEST]]
    assert values == {"pre": [75.6], "fusion": [68.2]}


def test_the_grid_as_text(write_run, tmp_path):
    for seed, accuracy in enumerate((0.5, 0.52)):
        write_run("soft", seed, scores={"test": {"accuracy": accuracy}} if seed else {}, val=accuracy)
    write_run("a_b%", 0, recipe="other")
    grid = make_grid(groups_of(tmp_path / "runs"))
    table = text_table(grid)
    assert table.head == ("recipe", "variant", "runs", "validation", "test", "s/run")
    assert table.rows == (("mine", "soft", "2", "51.00 ± 1.41", "52.00 (1/2)", "10"), ("other", "a_b%", "1", "50.00", "–", "10"))
    markdown = to_markdown(table).splitlines()
    assert markdown[1] == "| --- | --- | ---: | ---: | ---: | ---: |" and len(markdown) == 4
    latex = to_latex(table)
    assert r"other & a\_b\% & 1 & 50.00 & -- & 10 \\" in latex and r"51.00 $\pm$ 1.41" in latex
    rows = list(csv.DictReader(io.StringIO(to_csv(grid, "toy"))))
    assert len(rows) == 4 and rows[1] | {"std": ""} == {
        "data": "toy",
        "recipe": "mine",
        "variant": "soft",
        "split": "test",
        "metric": "accuracy",
        "mean": "52",
        "std": "",
        "runs_with_figure": "1",
        "runs": "2",
        "published": "",
        "source": "",
    }
    assert float(rows[0]["std"]) == pytest.approx(2**0.5, abs=1e-5)


def test_cost_is_shown_where_it_is_known(write_run, tmp_path):
    write_run("soft", 0, cost={"memory_bytes": 2_500_000_000, "energy_j": 7.2e6, "energy_of": "GPU"})
    write_run("hard", 0)
    table = text_table(make_grid(groups_of(tmp_path / "runs")))
    assert table.head[-3:] == ("s/run", "memory", "energy")
    assert table.rows[1][-3:] == ("10", "2.50 GB", "2.000 kWh") and table.rows[0][-3:] == ("10", "–", "–")
    assert json.loads((tmp_path / "runs/mine/hard/seed0/manifest.json").read_text())["wall_s"] == 10.0
