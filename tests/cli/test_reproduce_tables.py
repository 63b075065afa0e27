"""ADVL's tables, by their script: which runs they ask for, that every one is a valid recipe, and what they do with failures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from vldistill.errors import Problems
from vldistill.recipe.load import load_recipe
from vldistill.recipe.strict_yaml import parse_yaml
from vldistill.reproduce.advl import AdvlRow, AdvlRun, AdvlTables, advl_tables
from vldistill.reproduce.advl import runs_of as runs_asked
from vldistill.reproduce.dide import DideTables
from vldistill.reproduce.tables import TableRequest
from vldistill.training.stages import for_stage

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "bin/reproduce-advl.sh"
SETTINGS = ["100", "1000", "full"]
TABLES = [int(name) for name in advl_tables().names]


def rows_of(table: int) -> list[AdvlRow]:
    return advl_tables().rows_of(str(table))


def runs_of(table: int, settings: list[str], seeds: list[int]) -> list[AdvlRun]:
    return runs_asked(TableRequest(str(table), "list", seeds), settings)


def test_the_number_of_runs_by_hand():
    """Rows x (two low-shot settings x 4 seeds + 1); Table 3's rationales are trained on all data only."""
    counts = {table: len(runs_of(table, SETTINGS, [0, 1, 2, 3])) for table in (1, 2, 3, 4, 9)}
    assert counts == {1: 7 * 9, 2: 3 * 6 * 9, 3: 7 * 9 + 6, 4: 2 * 7 * 9, 9: 9 * 9}


@pytest.mark.parametrize("table", TABLES)
def test_names_are_unique(table):
    names = [row.name for row in rows_of(table)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("table", [1, 2, 3, 4, 9])
def test_every_run_is_a_valid_recipe_for_its_stage(table):
    for row in rows_of(table):
        for setting in ("100", "full"):
            if setting not in row.figures:
                continue
            [run] = [run for run in runs_of(table, [setting], [2]) if run.row == row]
            words = run.training
            fields = [word for word in words[4:] if "=" in word]
            recipe = for_stage(words[1], load_recipe(row.recipe, fields))
            assert recipe.train.seed == 2 and recipe.data.train == ("train" if setting == "full" else "train-lowshot100-seed2")
            assert (recipe.train.epochs == 20 and recipe.train.steps is None) or setting == "full"
            assert (recipe.objective.kind == "advl") == row.teachers


def test_table_1_switches_one_component_after_the_other():
    objectives = {}
    for row in rows_of(1):
        objective = load_recipe(row.recipe, list(row.overrides)).objective
        objectives[row.name] = (objective.vision, objective.text, objective.confidence, objective.words, objective.itm_fraction)
    assert objectives["vision"] == (True, False, False, 0, 0)
    assert objectives["text"] == (False, True, False, 0, 0)
    assert objectives["both"] == (True, True, False, 0, 0)
    assert objectives["confidence"] == (True, True, True, 0, 0)
    assert objectives["words"] == (True, True, True, 2, 0)
    assert objectives["two-step"] == (True, True, True, 2, 0.2)


def test_table_9_sweeps_the_layer():
    found = {row.name: load_recipe(row.recipe, list(row.overrides)).objective.layers for row in rows_of(9) if row.teachers}
    assert {name.rpartition("-layer")[0] for name in found} == {"clip", "swin-roberta"}
    for name, layers in found.items():
        assert layers.vision == layers.text == int(name.rpartition("-layer")[2])


def test_all_runs_in_sequence_and_those_that_are_complete_are_left_as_they_are(stub):
    words = ("9", "all", "--settings", "100", "--seeds", "0,1", "--only", "clip-layer12", "train.log_every=7")
    done, calls = stub(*words)
    assert done.returncode == 0, done.stderr
    assert [call.split()[0] for call in calls] == ["distill", "evaluate"] * 2
    assert all("train.log_every=7" in call for call in calls if call.startswith("distill"))
    assert calls[1] == "evaluate runs/advl_swin_roberta/table9-clip-layer12-100/seed0 --split val"
    done, calls = stub(*words)
    assert [call.split()[0] for call in calls] == ["evaluate"] * 2 and "is complete" in done.stdout


def test_an_array_job_does_its_own_run_from_a_copy_of_the_script(stub, tmp_path):
    copy = tmp_path / "slurm_script"
    shutil.copy(SCRIPT, copy)
    listed = stub("4", "list", "--settings", "full")[0].stdout.splitlines()
    done, calls = stub("4", "run", "--settings", "full", script=copy, SLURM_ARRAY_TASK_ID="3", SLURM_SUBMIT_DIR=str(ROOT))
    assert done.returncode == 0, done.stderr
    assert listed[3].split()[2:5] == calls[0].split()[:3] and len(calls) == 3
    assert calls[2].endswith("--split val-shift")


def test_a_run_that_fails_stops_with_its_code_and_is_replaced_the_next_time(stub):
    words = ("1", "run", "--settings", "100", "--number", "0")
    done, calls = stub(*words, FAIL="finetune")
    assert done.returncode == 3 and len(calls) == 1
    run = Path("runs/advl_vlbert_vcr/table1-baseline-100/seed0")
    run.mkdir(parents=True)
    (run / "manifest.json").write_text(json.dumps({"complete": False}))
    done, calls = stub(*words)
    assert done.returncode == 0 and calls[0].endswith("--resume auto") and "--overwrite" not in calls[0]


def test_the_caches_of_a_table_are_asked_for_once_each(stub):
    done, calls = stub("1", "cache", "--settings", "100", "--seeds", "0,1")
    assert done.returncode == 0 and len(calls) == len(set(calls)) == 12  # six rows with teachers, two draws
    assert all(call.startswith("cache --recipe advl_vlbert_vcr") and "cache.mode" not in call for call in calls)


def test_the_table_shows_mean_and_deviation_beside_the_papers_figure(stub):
    assert stub("1", "all", "--settings", "100", "--seeds", "0,1", "--only", "two-step")[0].returncode == 0
    done, _ = stub("1", "table", "--settings", "100", "--seeds", "0,1", "--only", "two-step")
    assert "41.00 ± 1.41 (2)" in done.stdout and "40.43" in done.stdout
    assert "-" in stub("1", "table", "--only", "vision")[0].stdout


@pytest.mark.parametrize(
    "words, expected",
    [
        ((), "bin/reproduce-advl.sh 1 list"),
        (("5", "list"), "invalid choice"),
        (("1", "run"), "--number 0 to 62"),
        (("1", "run", "--number", "63"), "it is 63"),
        (("1", "list", "--settings", "10"), "--settings 10: one of 100, 1000, full"),
        (("1", "list", "--seeds", "a"), "--seeds a: numbers"),
        (("1", "list", "--only", "nothing"), "no run is left"),
        (("1", "list", "word"), "'word' is no KEY=VALUE"),
    ],
)
def test_nonsense_is_refused(stub, words, expected):
    done, calls = stub(*words)
    assert done.returncode == 2 and expected in done.stderr and not calls


def mappings(value) -> Iterator[dict]:
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from mappings(inner)
    if isinstance(value, dict):
        yield value


@pytest.mark.parametrize("name, kind", [("advl.yaml", AdvlTables), ("dide.yaml", DideTables)])
def test_a_key_that_nothing_reads_is_refused_wherever_it_stands(name, kind):
    values, _ = parse_yaml((ROOT / "vldistill/reproduce" / name).read_text(), name, Problems())
    kind.model_validate(values)
    found = list(mappings(values))
    assert len(found) > 60
    for mapping in found:
        mapping["surprise"] = 1
        with pytest.raises(ValidationError, match="surprise"):
            kind.model_validate(values)
        del mapping["surprise"]
