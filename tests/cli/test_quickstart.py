"""The parts of `bin/quickstart` that are Python: ADVL's runs in the toy world, and the tables of both papers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vldistill.recipe import load_recipe
from vldistill.reproduce.quickstart import jobs
from vldistill.training.stages import for_stage

ON = {  # ADVL, Table 1
    "baseline": (),
    "vision": ("vision",),
    "text": ("text",),
    "both": ("vision", "text"),
    "confidence": ("vision", "text", "confidence"),
    "words": ("vision", "text", "confidence", "words"),
    "two_step": ("vision", "text", "confidence", "words", "itm_fraction"),
}


def left(folder: Path, accuracy: float) -> None:
    """What a run and its evaluation leave behind."""
    (folder / "eval/test").mkdir(parents=True)
    (folder / "eval/test/metrics.json").write_text(json.dumps({"accuracy": accuracy}))
    (folder / "manifest.json").write_text(json.dumps({"wall_s": 7, "best": {"accuracy": accuracy}}))
    (folder / "metrics.jsonl").write_text(json.dumps({"split": "val", "step": 5, "accuracy": accuracy}) + "\n")


def test_the_runs_are_the_rows_of_table_1():
    found = dict(jobs(2))
    assert len(found) == 2 * (1 + 6 * 2 + 2)
    for name, (stage, _, recipe, *words) in found.items():
        row = name.partition("/")[0].removeprefix("untrained_").removesuffix("_learned").removesuffix("_anchored")
        chosen = for_stage(stage, load_recipe(recipe, [word for word in words if "=" in word])).objective
        on = {part for part in ON["two_step"] if getattr(chosen, part, None)}
        assert on == set(ON[row]), name
        assert name.endswith(f"seed{load_recipe(recipe, [word for word in words if '=' in word]).train.seed}")


def test_advls_table_shows_gains_beside_the_papers(tmp_path, well):
    for name, _ in jobs(2):
        left(tmp_path / "runs/quickstart_advl" / name, 0.5 if name.startswith("baseline") else 0.6 + 0.02 * int(name[-1]))
    lines = well("reproduce", "quickstart", "advl", tmp_path).out.splitlines()
    [row] = [line.replace("│", " ").split() for line in lines if "+ two-step" in line and "untrained" not in line]
    assert row == ["+", "two-step", *["61.0", "±", "1.4", "+11.0", "±", "1.4"] * 2, "40.43", "+9.58"]
    assert (tmp_path / "quickstart-advl.png").stat().st_size > 10_000


def test_dides_table_shows_shares_of_the_teachers_accuracy(tmp_path, well):
    left(tmp_path / "runs/quickstart_teacher/default/seed0", 1.0)
    for name, accuracy in (("hard", 0.5), ("soft", 0.5), ("soft_attention", 0.9)):
        left(tmp_path / "runs/quickstart_dide" / name / "seed0", accuracy)
    row = {"variant": "dual, images cached", "speedup": 4.0, "limit": 5.0, "batch": 32}
    (tmp_path / "bench.json").write_text(json.dumps({"rows": [row], "device": "a CPU"}))
    told = well("reproduce", "quickstart", "dide", tmp_path).out
    [line] = [line.replace("│", " ").split() for line in told.splitlines() if "attention" in line]
    assert line[-5:] == ["90.0", "90.0", "%", "1", "7"] and "4.0x the speed" in told
    assert (tmp_path / "quickstart.png").stat().st_size > 10_000


@pytest.mark.parametrize("words", [("grids", "1"), ("grid", "many")])
def test_another_word_is_refused(command, words):
    assert command("reproduce", "quickstart", *words).code == 2
