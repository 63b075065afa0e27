"""Charts, samples and the page, from runs written by hand."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest

from vldistill.evaluation.report.build import build_report, report_page
from vldistill.evaluation.report.grid import group_runs
from vldistill.evaluation.report.runs import read_runs
from vldistill.evaluation.report.samples import choose
from vldistill.evaluation.report.tables import bar_charts, curve_charts, make_grid, points_of


def test_each_logged_quantity_has_a_curve(write_run, tmp_path):
    curve = [
        {"step": step, "split": "train", "epoch": 0, "loss": 1 / step, "loss/attention": 0.1, "w": 0.5, "pairs": 8}
        for step in (1, 2, 3)
    ] + [{"step": 3, "split": "val", "accuracy": 0.5, "count": 9}]
    for seed in (0, 1):
        write_run("soft", seed, curve=curve)
    charts = curve_charts(group_runs(read_runs([tmp_path / "runs"])))
    assert [chart.title for chart in charts] == ["accuracy, validation", "loss", "loss/attention", "w"]
    assert all(ElementTree.fromstring(chart.svg).tag.endswith("svg") for chart in charts)


def test_long_curves_are_thinned_and_keep_their_end(write_run):
    curve = [{"step": step, "split": "train", "loss": 1.0} for step in range(1, 2002)]
    (run,) = read_runs([write_run("soft", curve=curve)])
    points = points_of(run, "train", "loss")
    assert len(points) <= 402 and points[0][0] == 1 and points[-1][0] == 2001


def test_bars_are_drawn_where_there_is_something_to_compare(write_run, tmp_path):
    write_run("soft", scores={"test": {"accuracy": 0.5}})
    write_run("hard")
    grid = make_grid(group_runs(read_runs([tmp_path / "runs"])))
    assert [chart.title for chart in bar_charts(grid)] == ["validation"]


def rows(**scores: float) -> dict[str, dict]:
    return {key: {"id": key, "prediction": "x", "score": score} for key, score in scores.items()}


def test_samples_are_right_and_wrong_ones_and_disagreement_comes_first():
    found = {"good": rows(a=1, b=1, c=1, d=0, e=1), "bad": rows(a=1, b=0, c=1, d=1, e=0)}
    assert set(choose(found, 4)[:2]) == {"b", "e"} and choose(found, 4)[2] in "ac" and choose(found, 4)[3] == "d"
    assert len(set(choose({"one": rows(a=1, b=1, c=1)}, 2))) == 2
    assert choose({"none": {"a": {"id": "a", "prediction": "x"}}}, 3) == ["a"] and choose({}, 3) == []


def test_the_page_escapes_and_stands_alone(write_run, tmp_path):
    folder = write_run("soft")
    write_run("hard", complete=False, status="failed")
    (folder / "figures").mkdir()
    told = {"split": "val", "averages": {"before": {"vision": 0.1, "text": 0.5}, "after": {"vision": 0.25, "text": 0.45}}}
    (folder / "figures/modality.json").write_text(json.dumps(told))
    (folder / "figures/attention.png").write_bytes(b"picture")
    report = build_report([tmp_path / "runs"], title="<b>mine & yours</b>", samples=4)
    html = report_page(report)
    assert "<b>mine" not in html and "&lt;b&gt;mine &amp; yours" in html
    assert "<script" not in html and "http" not in html.replace('http-equiv="Content-Security-Policy"', "")
    assert "0.4000" in html and "0.2000" in html, "the gap between text and vision, before and after"
    assert "data:image/png;base64,cGljdHVyZQ==" in html and "mine/soft/seed0: attention of words over the image" in html
    assert "failed" in html and html.count("<section") == html.count("</section>")
    assert report.shifts[0].before.gap == pytest.approx(0.4) and report.shifts[0].after.gap == pytest.approx(0.2)


def test_records_that_are_gone_are_told(write_run, tmp_path):
    write_run("soft", scores={"test": {"accuracy": 0.5}})
    (found,) = build_report([tmp_path / "runs"], title="t", samples=4).samples
    assert not found.cards and "no such artifact" in found.note
