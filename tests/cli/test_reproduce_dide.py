"""DiDE's tables, by their scripts: which runs they ask for, that each is a valid recipe, and that nothing is trained twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from vldistill.recipe.load import load_recipe
from vldistill.reproduce.dide import DideRun, dide_tables, steps_before
from vldistill.reproduce.dide import runs_of as runs_asked
from vldistill.reproduce.tables import TableRequest
from vldistill.training.stages import for_stage

ROOT = Path(__file__).parents[2]
TABLE, TOYS = ROOT / "bin/reproduce-dide-tables.sh", ROOT / "bin/reproduce-dide-toy.sh"
FULL, TOY = "full", "toy"


def runs_of(table: str, world: str, seeds: list[int], only: str | None) -> list[DideRun]:
    return runs_asked(TableRequest(table, "list", seeds, only), world)


def recipe_of(step):
    return for_stage(step.stage, load_recipe(step.recipe, [f"train.seed={step.seed}", *step.overrides]))


WORLDS = [(name, world) for name, table in dide_tables().tables.items() for world in table.worlds]
NAMED = ["-".join(both) for both in WORLDS]


def test_the_number_of_runs_by_hand():
    """Rows x tasks x seeds, and one teacher a task."""
    counts: dict[str, list[int]] = {}
    for table, world in WORLDS:
        counts.setdefault(table, []).append(len(runs_of(table, world, [0, 1, 2, 3][: 4 if world == FULL else 3], None)))
    six = [6 * 3 * 4 + 3, 6 * 2 * 3 + 2]
    # CLIP, SLIP, DeCLIP, DiDE and UNITER on three tasks, PixelBERT, VisualBERT and LXMERT on two; three rows of each teacher.
    assert counts.pop("2") == [(5 * 3 + 3 * 2) * 4 + 3] and counts.pop("fig3") == [2 * (3 * 4 + 1)]
    assert counts == {"4": [2 * 4 + 1, 2 * 3 + 1], "5": six, "6": six, "7": [4 * 3 * 4 + 3, 4 * 2 * 3 + 2]}


@pytest.mark.parametrize("table, world", WORLDS, ids=NAMED)
def test_every_run_is_a_valid_recipe_and_has_a_place_of_its_own(table, world):
    runs = runs_of(table, world, [2], None)
    folders = [run.step.folder for run in runs]
    assert len(set(folders)) == len(folders)
    for run in runs:
        if run.row.stage:
            assert recipe_of(run.step).train.seed == 2
    for step in steps_before(runs):
        recipe_of(step)


@pytest.mark.parametrize("table, world", WORLDS, ids=NAMED)
def test_what_a_run_builds_on_comes_before_it(table, world):
    """Every run that a recipe names is made by a step, and that step's own come before it."""
    runs = runs_of(table, world, [0], None)
    made: set[str] = set()
    for step in [*steps_before(runs), *(run.step for run in runs if run.row.stage)]:
        recipe = recipe_of(step)
        for source in (recipe.student.init, recipe.teacher.model if recipe.teacher else None):
            if source and source.startswith("runs/"):
                assert any(folder.startswith(source.rstrip("/")) for folder in made), (step, source)
        made.add(str(step.folder))


PAIRS_AND_EPOCHS = {"nlvr2": (128, 20), "snli_ve": (256, 10), "vqa": (256, 10)}


@pytest.mark.parametrize("name", ["clip", "slip", "declip", "dide"])
def test_table_2s_dual_encoders_have_appendix_as_numbers(name):
    found = {run.task.name: recipe_of(run.step) for run in runs_of("2", FULL, [0], name) if run.row.name == name}
    assert found.keys() == PAIRS_AND_EPOCHS.keys()
    for task, recipe in found.items():
        batch = recipe.train.batch
        assert (batch.pairs * batch.accumulate, recipe.train.epochs) == PAIRS_AND_EPOCHS[task]
        assert recipe.data.path == f"artifacts/data/{task}" and recipe.image.augment == "randaugment"
        assert recipe.optim == recipe_of(runs_of("2", FULL, [0], "dide")[list(found).index(task)].step).optim
        assert recipe.student.kind == ("dual_encoder" if name == "dide" else "clip_dual")
        assert (recipe.objective.kind == "labels") == (name != "dide")


def test_table_2s_fusion_rows_learn_from_labels_alone():
    for run in runs_of("2", FULL, [0], None):
        if run.row.name in ("pixelbert", "visualbert", "lxmert", "uniter"):
            recipe = recipe_of(run.step)
            assert recipe.student.kind == run.row.name and recipe.data.path == f"artifacts/data/{run.task.name}"
            assert recipe.objective.kind == "labels" and recipe.teachers.vision is None and not run.before


def test_figure_3_is_the_papers():
    found = {}
    for run in runs_of("fig3", FULL, [0], None):
        if run.row.stage:
            recipe = recipe_of(run.step)
            objective = (recipe.objective.kind, getattr(recipe.objective, "attention", None))
            found[run.row.name] = (recipe.student.kind, *objective, recipe.teacher is not None)
    for kind in ("meter", "oscar"):
        dual, rows = f"{kind}_dual", [found.pop(f"{kind}-{row}") for row in ("labels", "soft-labels", "dide")]
        assert rows == [(dual, "labels", None, False), (dual, "dide", "none", True), (dual, "dide", "cross", True)]
    assert not found


def test_a_table_leaves_empty_what_the_paper_does_not_have(stub):
    stub("2", "run", "--only", "clip", "--seeds", "3", script=TABLE, SLURM_ARRAY_TASK_ID="0")
    lines = stub("2", "table", "--seeds", "3", script=TABLE)[0].stdout.splitlines()
    assert lines[0].startswith("DiDE, Table 2, understanding") and "paper, snli_ve" in lines[1]
    rows = {line.split()[0]: line.split()[1:] for line in lines[2:]}
    assert rows["clip"][:3] == ["46.00", "46.00", "-"] and rows["clip"][-1] == "50.2"
    assert rows["pixelbert"] == ["-", "-", "-", "71.7", "/", "72.4", "71.4"]
    plain = stub("fig3", "table", script=TABLE)[0].stdout
    assert "Fig. 3, METER and OSCAR" in plain and "paper" not in plain and "oscar-soft-labels" in plain


def test_table_6_is_the_papers():
    found = {}
    for run in runs_of("6", TOY, [0], "ve3"):
        if run.row.stage:
            objective = load_recipe(run.step.recipe, list(run.step.overrides)).objective
            found[run.row.name] = (objective.soft_labels, objective.attention, objective.hidden_states)
    assert found == {
        "dide": (True, "cross", False),
        "no-soft-label": (False, "cross", False),
        "no-cross-attention": (True, "none", False),
        "hidden-states": (True, "none", True),
        "uni-attention": (True, "uni", False),
        "whole-attention": (True, "whole", False),
    }


def test_table_5_starts_from_what_it_says():
    for run in runs_of("5", FULL, [0], None):
        if run.row.stage:
            pretraining, tuning = run.row.name.split("-")
            recipe = load_recipe(run.step.recipe, list(run.step.overrides))
            expected = "dandelin/vilt-b32-mlm" if pretraining == "none" else f"runs/dide_vilt_pretrain/{pretraining}/seed0"
            assert recipe.student.init == expected and (run.step.stage == "distill") == (tuning == "kd")
    pretrained = dide_tables().worlds[FULL].pretraining
    standard, distilled = (recipe_of(pretrained[name]).objective for name in ("std", "kd"))
    assert (standard.distils, standard.hard_label_weight) == (False, 1)
    assert (distilled.attention, distilled.soft_labels, distilled.hard_label_weight) == ("cross", True, 0)


def test_table_4_switches_the_attention_alone():
    found = {run.row.name: recipe_of(run.step) for run in runs_of("4", TOY, [0], None) if run.row.stage}
    assert {name: recipe.objective.attention for name, recipe in found.items()} == {"dide": "cross", "no-cross-attention": "none"}
    assert {recipe.student.init for recipe in found.values()} == {"runs/quickstart_dide_pretrain/kd/seed0"}


def test_all_prepares_trains_and_evaluates_and_does_nothing_twice(stub):
    words = ("5", "all", "--only", "kd-kd", "--seeds", "0,1", "train.log_every=7")
    done, calls = stub(*words, script=TOYS)
    assert done.returncode == 0, done.stderr
    kinds = [call.split()[0] for call in calls]
    # Two tasks with two seeds; before them the easy encoder, two teachers, the fusion encoder and one pre-training.
    assert kinds[0] == "prepare" and kinds.count("pretrain") == 2 and kinds.count("finetune") == 3
    assert kinds[6:] == ["distill", "evaluate"] * 4
    assert all("train.log_every=7" in call for call in calls if call.startswith("distill"))
    _, again = stub(*words, script=TOYS)
    assert not {"pretrain", "finetune", "distill"} & {call.split()[0] for call in again}


def test_a_table_shows_means_beside_the_paper(stub):
    stub("7", "all", "--only", "pairmore", "--seeds", "0,1", script=TOYS)
    done, _ = stub("7", "table", "--only", "pairmore", "--seeds", "0,1", script=TOYS)
    lines = done.stdout.splitlines()
    assert "Table 7 in the toy world" in lines[0] and "pairmore test" in lines[1]
    top = next(line for line in lines if line.startswith("top"))
    assert "41.00 ± 1.41 (2)" in top and "66 / 67.3" in top
    assert "teacher" in done.stdout and "75.7 / 76.1" in done.stdout


def test_an_array_task_does_its_own_run(stub):
    done, calls = stub("6", "run", "--only", "dide", script=TABLE, SLURM_ARRAY_TASK_ID="5")
    assert done.returncode == 0, done.stderr
    assert calls[0].startswith("distill --recipe dide_vilt_snli_ve train.seed=1") and len(calls) == 3


@pytest.mark.parametrize(
    "words, expected",
    [
        (("5",), "bin/reproduce-dide-tables.sh 5 list"),
        (("9", "all"), "invalid choice"),
        (("6", "all", "--only", "x"), "mend --only"),
        (("2", "all", "--toy"), "Table 2 is not for the toy world: leave out --toy"),
        (("fig3", "list", "--toy"), "Fig. 3 is not for the toy world"),
        (("6", "run"), "--number 0 to"),
        (("6", "all", "--seeds", "a"), "numbers"),
        (("6", "all", "word"), "is no KEY=VALUE"),
    ],
)
def test_what_cannot_be_is_refused_with_2(stub, words, expected):
    done, calls = stub(*words, script=TABLE)
    assert done.returncode == 2 and expected in done.stderr and not calls
