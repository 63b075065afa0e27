"""The parts of `bin/quickstart` that are Python: ADVL's runs in the toy world, and the tables of both papers."""

from __future__ import annotations

import pytest
from quickstart_runs import write_advl, write_dide

from vldistill.recipe.load import load_recipe
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
    write_advl(tmp_path, 0.5, 0.6, 0.02)
    lines = well("reproduce", "quickstart", "advl", tmp_path).out.splitlines()
    [row] = [line.replace("│", " ").split() for line in lines if "+ two-step" in line and "untrained" not in line]
    assert row == ["+", "two-step", *["61.0", "±", "1.4", "+11.0", "±", "1.4"] * 2, "40.43", "+9.58"]
    assert (tmp_path / "quickstart-advl.png").stat().st_size > 10_000


def test_dides_table_shows_shares_of_the_teachers_accuracy(tmp_path, well):
    write_dide(tmp_path)
    told = well("reproduce", "quickstart", "dide", tmp_path).out
    [line] = [line.replace("│", " ").split() for line in told.splitlines() if "attention" in line]
    assert line[-5:] == ["90.0", "90.0", "%", "1", "7"] and "4.0x the speed" in told
    assert (tmp_path / "quickstart.png").stat().st_size > 10_000


@pytest.mark.parametrize("words", [("grids", "1"), ("grid", "many")])
def test_another_word_is_refused(command, words):
    assert command("reproduce", "quickstart", *words).code == 2
