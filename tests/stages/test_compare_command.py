"""`vldistill compare` on hand-made evaluations and on those of two runs of the toy world."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vldistill.metrics.scores import bootstrap_interval, mcnemar_exact

TEACHER, DIDE = "runs/quickstart_teacher", "runs/quickstart_dide"


def evaluation(folder: Path, rows: list[tuple], **metrics) -> Path:
    """What `evaluate` leaves of rows (id, prediction, score, type)."""
    place = folder / "eval/val"
    place.mkdir(parents=True)
    fields = [
        {"id": name, "prediction": answer, "confidence": 0.5, **({} if score is None else {"score": score}), "type": kind}
        for name, answer, score, kind in rows
    ]
    (place / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in fields))
    (place / "metrics.json").write_text(json.dumps({"data": "d" * 64, "split": "val", **metrics}))
    return folder


def test_counts_and_tests_by_hand(command, well, tmp_path):
    a = evaluation(
        tmp_path / "a",
        [("1", "x", 1.0, "s"), ("2", "x", 1.0, "s"), ("3", "y", 0.0, "s"), ("4", "y", 0.0, "t"), ("5", "z", 0.0, "t")],
    )
    b = evaluation(
        tmp_path / "b",
        [("5", "x", 1.0, "t"), ("4", "w", 0.0, "t"), ("3", "x", 1.0, "s"), ("2", "v", 0.0, "s"), ("1", "x", 1.0, "s")],
    )
    result = well("compare", a, b, "--out", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert {name: found[name] for name in ("count", "changed", "both_right", "only_a", "only_b", "both_wrong")} == {
        "count": 5,
        "changed": 4,
        "both_right": 1,
        "only_a": 1,
        "only_b": 2,
        "both_wrong": 1,
    }
    assert (found["score_a"], found["score_b"]) == (0.4, 0.6) and found["difference"] == pytest.approx(0.2)
    assert found["p"] == mcnemar_exact(1, 2) == 1.0
    assert found["interval"] == pytest.approx(bootstrap_interval([0, -1, 1, 0, 1]))
    assert found["by_type"]["t"] == {
        "count": 2,
        "changed": 2,
        "both_right": 0,
        "only_a": 0,
        "only_b": 1,
        "both_wrong": 1,
        "score_a": 0.0,
        "score_b": 0.5,
        "difference": 0.5,
    }
    # Those that one side alone gets right come first, B's and A's in turn; then the one that both get wrong.
    assert [one["id"] for one in found["examples"]] == ["3", "2", "5", "4"]
    assert found["examples"][1]["a"] == {"answer": "x", "confidence": 0.5, "score": 1.0}
    assert result.last == {
        "a": str(a),
        "b": str(b),
        "split": "val",
        "count": 5,
        "changed": 4,
        "score_a": 0.4,
        "score_b": 0.6,
        "difference": 0.2,
        "p": 1.0,
        "out": str(tmp_path / "found.json"),
    }
    assert "+20.00 points" in result.out and "McNemar p = 1.0000" in result.out
    assert command("compare", a, b, "--out", tmp_path / "found.json").code == 2


def test_fractions_have_an_interval_and_no_mcnemar(well, tmp_path):
    a = evaluation(tmp_path / "a", [("1", "x", 0.3, "s"), ("2", "x", 1.0, "s"), ("3", "y", 0.6, "s")])
    b = evaluation(tmp_path / "b", [("1", "z", 0.9, "s"), ("2", "x", 1.0, "s"), ("3", "z", 0.3, "s")])
    well("compare", a, b)
    found = json.loads((a / "eval/val" / f"against-{'-'.join(b.parts[-3:])}.json").read_text())
    assert "p" not in found and found["difference"] == pytest.approx(0.1)
    assert (found["both_right"], found["only_a"], found["only_b"], found["both_wrong"]) == (1, 1, 1, 0)
    assert found["interval"][0] < 0.1 < found["interval"][1]


def test_the_two_answers_about_a_vcr_question_are_tested_apart(well, tmp_path):
    a = evaluation(tmp_path / "a", [("q", "0", 1.0, "s"), ("q:r", "1", 0.0, "s")], q_to_a=1.0, qa_to_r=0.0)
    b = evaluation(tmp_path / "b", [("q", "0", 1.0, "s"), ("q:r", "2", 1.0, "s")], q_to_a=1.0, qa_to_r=1.0)
    result = well("compare", a, b, "--out", tmp_path / "x.json")
    found = json.loads((tmp_path / "x.json").read_text())
    assert "p" not in found and found["parts"]["q_to_a"]["changed"] == 0 and found["parts"]["qa_to_r"]["only_b"] == 1
    assert result.last["qa_to_r"]["difference"] == 1.0 and "QA -> R: +100.00 points" in result.out


def test_without_labels_only_changes_are_counted(well, tmp_path):
    a = evaluation(tmp_path / "a", [("1", "x", None, "s"), ("2", "x", None, "s")])
    b = evaluation(tmp_path / "b", [("1", "x", None, "s"), ("2", "y", None, "s")])
    result = well("compare", a, b)
    assert result.last["changed"] == 1 and "difference" not in result.last


@pytest.mark.parametrize(
    "other, reason",
    [
        ({"data": "e" * 64}, "was scored on data eeeeeeeeeeee"),
        ({"split": "test"}, "was scored on test"),
    ],
)
def test_evaluations_of_other_records_are_refused(command, tmp_path, other, reason):
    a = evaluation(tmp_path / "a", [("1", "x", 1.0, "s")])
    b = evaluation(tmp_path / "b", [("1", "x", 1.0, "s")], **other)
    result = command("compare", a, b)
    assert result.code == 2 and reason in result.err and len(result.err.splitlines()) == 1
    assert not list((a / "eval/val").glob("against*"))


def test_what_is_missing_is_named_with_its_command(command, world, tmp_path):
    a = evaluation(tmp_path / "a", [("1", "x", 1.0, "s")])
    b = evaluation(tmp_path / "b", [("1", "x", 1.0, "s"), ("2", "x", 1.0, "s")])
    assert "1 records are in one of the two evaluations only" in command("compare", a, b).err
    missing = command("compare", a, TEACHER, "--split", "train")
    assert missing.code == 2 and f"make it with: vldistill evaluate {a} --split train" in missing.err
    assert "runs/nobody: no such run" in command("compare", a, "runs/nobody").err
    assert "is no .json file" in command("compare", a, b, "--out", tmp_path / "x.html").err
    ranks = evaluation(tmp_path / "c", [("1", "x", 1.0, "s")])
    (ranks / "eval/val/predictions.jsonl").write_text('{"id": "1", "image": "i", "image_rank": 1, "text_rank": 1}\n')
    assert "holds ranks of captions" in command("compare", a, ranks).err


def test_two_runs_of_the_toy_world(world, well, tmp_path):
    for name, run in (("teacher", TEACHER), ("dide", DIDE)):
        well("evaluate", run, "--out", tmp_path / name / "eval/val")
    result = well("compare", tmp_path / "teacher", tmp_path / "dide", "--out", tmp_path / "found.json", "--examples", "3")
    given = [
        [json.loads(line) for line in (tmp_path / name / "eval/val/predictions.jsonl").read_text().splitlines()]
        for name in ("teacher", "dide")
    ]
    changed = sum(one["prediction"] != other["prediction"] for one, other in zip(*given, strict=True))
    assert result.last["changed"] == changed and result.last["count"] == len(given[0])
    records = {row["id"]: row for row in map(json.loads, (world / "artifacts/data/toy-nlvr2/val.jsonl").read_text().splitlines())}
    shown = json.loads((tmp_path / "found.json").read_text())["examples"]
    assert len(shown) == min(changed, 3)
    for one in shown:
        record = records[one["id"]]
        assert one["text"] == " ".join(record["text"]) and one["images"] == record["images"]
        assert one["right"] == ["False", "True"][record["label"]] and one["a"]["answer"] != one["b"]["answer"]
        assert one["id"] in result.out
