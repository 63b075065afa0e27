"""`evaluate` with --ensemble, --domain-shift and --leaderboard in the toy world."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

import vldistill
from vldistill.evaluation.leaderboard import faults_of

TEACHER, DIDE, VQA = "runs/quickstart_teacher", "runs/quickstart_dide", "runs/quickstart_pretrain"
RECIPE = """
data: {path: PATH}
image: {size: 36}
text: {max_length: 48, vocabulary_size: 300}
student: {kind: vilt, sizes: {layers: 1, width: 16, heads: 2, feedforward: 24, patch: 12, image_size: 36}, dropout: 0.0}
objective: {kind: labels}
optim: {lr: 1e-2}
train: {steps: 6, batch: {pairs: 8}, eval_pairs: 8, log_every: 6, validate_every: 6}
"""


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


# --- ensembles ---------------------------------------------------------------------------------------------------------------


def test_an_ensemble_of_two_kinds_answers_by_the_mean_of_their_probabilities(world, well, tmp_path):
    """Recomputed record by record through the Python interface."""
    result = well("evaluate", TEACHER, DIDE, "--ensemble", "--limit", "10", "--out", tmp_path)
    records, given = lines(world / "artifacts/data/toy-nlvr2/val.jsonl")[:10], lines(tmp_path / "predictions.jsonl")
    models, root = [vldistill.load(source) for source in (TEACHER, DIDE)], world / "artifacts/raw/toy/nlvr2"
    for record, row in zip(records, given, strict=True):
        images, text = [root / image for image in record["images"]], " ".join(record["text"])
        both = [dict(model.rank(images, text)) for model in models]
        mean = {label: sum(one[label] for one in both) / 2 for label in ("False", "True")}
        best = max(mean, key=mean.get)
        assert (row["id"], row["prediction"]) == (record["id"], best)
        assert row["confidence"] == pytest.approx(mean[best], abs=1e-5)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["ensemble"] == [TEACHER, DIDE] and metrics["partial"] and "source" not in metrics
    assert metrics["accuracy"] == sum(row["score"] for row in given) / 10
    first, second, last = result.last["evaluated"]
    assert (first["run"], second["run"], last["ensemble"]) == (TEACHER, DIDE, [TEACHER, DIDE])
    assert "ece" in last and "ensemble of 2 on" in result.out and "toy-nlvr2, val (partial)" in result.out


def test_an_ensemble_has_a_folder_of_its_own_beside_the_first_run(train, well, command, tree):
    student, teacher = train("distill", "quickstart_dide"), train("finetune", "quickstart_teacher")
    shown = well("evaluate", student.folder, teacher.folder, "--ensemble", "--dry-run").flat
    assert "average 2 runs on val" in shown and "MB of probabilities" in shown and not (student.folder / "eval").exists()
    well("evaluate", student.folder, teacher.folder, "--ensemble")
    (folder,) = student.folder.parent.glob("ensemble-*")
    assert {path.name for path in (folder / "eval/val").iterdir()} == {"metrics.json", "predictions.jsonl"}
    assert (student.folder / "eval/val/metrics.json").exists() and (teacher.folder / "eval/val/metrics.json").exists()
    assert folder.name in well("evaluate", student.folder, teacher.folder, "--ensemble", "--dry-run").out
    # It is no run, so that the only one beside it is still found by their folder's name.
    assert well("evaluate", student.folder.parent, "--limit", "4").last["run"] == str(student.folder.parent)


REFUSED = {
    f"evaluate {TEACHER} --ensemble": "two runs or more",
    f"evaluate {TEACHER} {TEACHER} --ensemble": "each named once",
    f"evaluate {TEACHER} {VQA} --ensemble": "say on which data they are averaged, with --data",
    f"evaluate {TEACHER} {DIDE} --leaderboard x.csv": "average them with --ensemble",
    f"evaluate {TEACHER} --leaderboard x.csv --limit 4": "pass --allow-partial",
    f"evaluate {TEACHER} --leaderboard runs": "runs: already exists",
    f"evaluate {TEACHER} --domain-shift": "has no val-shift (make it with: vldistill prepare",
    f"evaluate {TEACHER} --domain-shift --leaderboard x.csv": "a shifted set has no leaderboard",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_refused_writes_nothing(world, command, tree, words):
    before = tree(world)
    result = command(*words.split())
    assert result.code == 2 and REFUSED[words] in result.err and len(result.err.splitlines()) == 1
    assert tree(world) == before


# --- leaderboards ------------------------------------------------------------------------------------------------------------


def test_a_vqa_file_has_the_answers_of_the_predictions(world, well, tmp_path):
    result = well("evaluate", VQA, "--out", tmp_path, "--leaderboard", tmp_path / "sub/vqa.json")
    rows = json.loads((tmp_path / "sub/vqa.json").read_text())
    given = lines(tmp_path / "predictions.jsonl")
    assert rows == [{"question_id": int(row["id"]), "answer": row["prediction"]} for row in given] and len(rows) > 50
    assert result.last["leaderboard"] == str(tmp_path / "sub/vqa.json") and "vqa records, checked" in result.out
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert sum(part["count"] for part in metrics["by_question_type"].values()) == metrics["count"]
    assert {"is there a", "how many"} <= metrics["by_question_type"].keys() and "by answer type" in result.out


def test_an_nlvr2_file_is_scored_alike_by_the_official_rule(world, well, tmp_path):
    well("evaluate", DIDE, "--split", "test", "--out", tmp_path, "--leaderboard", tmp_path / "nlvr2.csv")
    predictions = dict(line.split(",") for line in (tmp_path / "nlvr2.csv").read_text().splitlines())
    examples = lines(next(world.glob("artifacts/raw/toy/nlvr2/**/test1.json")))
    right = [predictions[row["identifier"]].lower() == row["label"].lower() for row in examples]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["accuracy"] == pytest.approx(sum(right) / len(right)) and len(predictions) == len(examples)
    assert metrics["by_label"].keys() == {"False", "True"}


@pytest.fixture(scope="module")
def vcr(toy_world, well, tmp_path_factory) -> Path:
    """A folder with toy VCR as `data`, its shifted val, and as `blind` with the questions of val as an unlabelled test split; and
    a run on the first."""
    folder = tmp_path_factory.mktemp("vcr")
    raw = toy_world / "artifacts/raw/toy/vcr"
    shutil.copytree(raw / "vcr1images", folder / "raw/vcr1images")
    hidden = [{key: value for key, value in row.items() if not key.endswith("_label")} for row in lines(raw / "val.jsonl")]
    (folder / "raw/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in hidden))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        well("prepare", "vcr", "--raw", raw, "--out", "data", "--domain-shift")
        well("prepare", "vcr", "--raw", "raw", "--out", "blind")
        (folder / "vcr.yaml").write_text(RECIPE.replace("PATH", str(folder / "data")))
        well("finetune", "-r", "vcr.yaml", "--name", "first")
    return folder


@pytest.fixture
def here(vcr, monkeypatch) -> Path:
    monkeypatch.chdir(vcr)
    return vcr


def numbers(path: Path) -> dict[str, list[float]]:
    return {
        row.pop("annot_id"): [float(value) for value in row.values()] for row in csv.DictReader(path.read_text().splitlines())
    }


def test_a_vcr_file_of_labelled_data_is_that_of_the_same_questions_without_labels(here, well, tmp_path):
    """So all four rationale questions are asked as `prepare` asks them of the test split, though val has only one of them."""
    seen, blind = tmp_path / "val.csv", tmp_path / "test.csv"
    result = well("evaluate", FIRST, "--out", tmp_path / "val", "--leaderboard", seen)
    well(
        "evaluate",
        FIRST,
        "--data",
        "blind",
        "--split",
        "test",
        "--batch",
        "7",
        "--out",
        tmp_path / "test",
        "--leaderboard",
        blind,
    )
    one, other = numbers(seen), numbers(blind)
    ids = [row["annot_id"] for row in lines(here / "raw/test.jsonl")]
    assert list(one) == ids == list(other) and faults_of("vcr", blind.read_text(), ids) == []
    assert all(one[name] == pytest.approx(other[name], abs=1e-5) and len(one[name]) == 20 for name in ids)
    predictions = {row["id"]: row for row in lines(tmp_path / "test/predictions.jsonl")}
    for name in ids:
        for place, group in enumerate([name, *(f"{name}:r{i}" for i in range(4))]):
            part = other[name][4 * place : 4 * place + 4]
            assert str(part.index(max(part))) == predictions[group]["prediction"]
            assert max(part) == pytest.approx(predictions[group]["confidence"], abs=1e-5)
    # The records that only the file asks for are neither scored nor written.
    assert len(lines(tmp_path / "val/predictions.jsonl")) == 2 * len(ids) == result.last["count"]


def test_a_partial_vcr_file_holds_whole_questions_and_says_what_it_is(here, well, tmp_path):
    some = ("--limit", "5", "--allow-partial")
    result = well("evaluate", FIRST, *some, "--out", tmp_path, "--leaderboard", tmp_path / "x.csv")
    assert len(numbers(tmp_path / "x.csv")) == 2 and "partial: not to be submitted" in result.out


@pytest.fixture(scope="module")
def answering(vcr, well) -> str:
    """A run on Q->A alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(vcr)
        well("finetune", "-r", "vcr.yaml", "--name", "answers", "data.part=answers")
    return "runs/vcr/answers/seed0"


FIRST = "runs/vcr/first/seed0"


def test_a_run_is_evaluated_on_the_part_that_it_was_trained_on(here, answering, well):
    told = well("evaluate", answering)
    val = lines(here / "data/val.jsonl")
    asked = [row["id"] for row in val if row.get("given") is None]
    assert [row["id"] for row in lines(f"{answering}/eval/val/predictions.jsonl")] == asked and 0 < len(asked) < len(val)
    assert told.last["count"] == len(asked) and "q_to_a" in told.last and "qa_to_r" not in told.last
    assert "val, answers only" in told.out
    own = json.loads(Path(f"{answering}/manifest.json").read_text())["best"]
    assert told.last["accuracy"] == pytest.approx(own["accuracy"], abs=1e-4)
    whole = well("evaluate", answering, "--part", "both")
    assert whole.last["count"] == len(val) and "qa_to_r" in whole.last
    assert len(lines(f"{answering}/eval/val-both/predictions.jsonl")) == len(val)


def test_a_part_that_was_not_trained_is_neither_submitted_nor_averaged_unasked(here, answering, command, well, tmp_path):
    for arguments, words in (
        ((answering, "--leaderboard", "x.csv"), "trained on answers alone, and the leaderboard wants rationales"),
        ((FIRST, answering, "--ensemble", "--out", "x"), "different parts of VCR"),
        ((FIRST, "--part", "questions"), "no such part"),
    ):
        told = command("evaluate", *arguments)
        assert told.code == 2 and words in told.err and not Path("x.csv").exists() and not Path("x").exists()
    averaged = well("evaluate", FIRST, answering, "--ensemble", "--part", "answers", "--out", tmp_path)
    assert averaged.last["evaluated"][-1]["count"] == len(lines(tmp_path / "predictions.jsonl"))
    assert all(not row["id"].endswith(":r") for row in lines(tmp_path / "predictions.jsonl"))


# --- domain shift ------------------------------------------------------------------------------------------------------------


def test_a_shifted_set_stands_beside_the_same_records_of_the_standard_one(here, well, tmp_path):
    result = well("evaluate", FIRST, "--domain-shift", "--out", tmp_path)
    plain, shifted = (lines(tmp_path / split / "predictions.jsonl") for split in ("val", "val-shift"))
    kept = {row["id"] for row in shifted}
    assert 0 < len(kept) < len(plain)
    metrics = json.loads((tmp_path / "val-shift/metrics.json").read_text())
    asked = {name for name in kept if not name.endswith(":r")}
    questions = [[row["score"] for row in rows if row["id"] in asked] for rows in (plain, shifted)]
    before, after = (sum(scores) / len(scores) for scores in questions)
    assert metrics["shift"]["same_records"]["q_to_a"] == pytest.approx(before)
    assert metrics["shift"]["shifted"]["q_to_a"] == pytest.approx(after) == metrics["q_to_a"]
    assert metrics["shift"]["drop"]["q_to_a"] == pytest.approx(before - after)
    assert metrics["shift"]["count"] == len(kept) and result.last["drop"].keys() == metrics["shift"]["drop"].keys()
    assert sum(part["count"] for part in metrics["by_shift"].values()) == len(questions[0])
    standard = json.loads((tmp_path / "val/metrics.json").read_text())
    assert metrics["shift"]["standard"]["q_to_a"] == standard["q_to_a"] and "shift" not in standard
    assert "val, same records" in result.out and "on " + str(here / "data") + ", val-shift" in result.out
    assert well("evaluate", FIRST, "--split", "val-shift", "--out", tmp_path / "alone").last["q_to_a"] == round(after, 4)


def test_vcr_is_told_by_part_and_type(here, well, tmp_path):
    found = well("evaluate", FIRST, "--out", tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    rows = lines(tmp_path / "predictions.jsonl")
    for part, chosen in (("q_to_a", False), ("qa_to_r", True)):
        scores = [row["score"] for row in rows if row["id"].endswith(":r") == chosen]
        assert metrics[part] == pytest.approx(sum(scores) / len(scores))
        types = metrics[f"{part}_by_type"]
        assert sum(one["mean"] * one["count"] for one in types.values()) == pytest.approx(sum(scores))
        assert 0 <= metrics[f"{part}_ece"] <= 1
    scores = {row["id"]: row["score"] for row in rows}
    both = [score * scores[f"{name}:r"] for name, score in scores.items() if not name.endswith(":r")]
    assert metrics["q_to_ar"] == pytest.approx(sum(both) / len(both))
    assert all(heading in found.out for heading in ("Q -> AR", "QA -> R by type", "ECE %"))


def test_other_data_gets_a_folder_of_its_own(here, well):
    well("evaluate", FIRST, "--data", "blind", "--split", "test")
    assert (here / "runs/vcr/first/seed0/eval/test-on-blind/predictions.jsonl").exists()
    assert not (here / "runs/vcr/first/seed0/eval/test").exists()


def test_choices_are_given_from_python(here, well, command, tmp_path):
    image = next((here / "raw/vcr1images").rglob("*.jpg"))
    model = vldistill.load(FIRST)
    ranked = model.rank(image, "why is [person1] here?", choices=["to eat", "to sleep", "by chance", "to eat a lot"])
    assert sum(one.probability for one in ranked) == pytest.approx(1) and len(ranked) == 4
    assert model.answer(image, "why is [person1] here?", choices=["to sleep", "by chance"]).label in ("to sleep", "by chance")
    with pytest.raises(vldistill.api.InputError, match="chooses one of several texts"):
        model.answer(image, "why?")
    with pytest.raises(vldistill.api.InputError, match="at most 4, 5 are given"):
        model.answer(image, "why?", choices=list("abcde"))
    assert "chooses one of several texts" in command("predict", FIRST, "--image", image, "--text", "why?").err
