"""`vldistill evaluate` and `predict` on trained runs: what they write agrees with the records and with each other."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest

DIDE, TEACHER, VQA = "runs/quickstart_dide", "runs/quickstart_teacher", "runs/quickstart_pretrain"


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_accuracy_and_consistency_are_those_of_the_predictions(world, well, tmp_path):
    """Recomputed from predictions.jsonl and the records alone."""
    result = well("evaluate", DIDE, "--split", "test", "--out", tmp_path)
    records, predictions = lines(world / "artifacts/data/toy-nlvr2/test.jsonl"), lines(tmp_path / "predictions.jsonl")
    labels = json.loads((world / "artifacts/data/toy-nlvr2/manifest.json").read_text())["labels"]
    assert [row["id"] for row in predictions] == [record["id"] for record in records]
    right = [row["prediction"] == labels[record["label"]] for row, record in zip(predictions, records, strict=True)]
    assert [row["score"] for row in predictions] == [float(hit) for hit in right]
    groups, types = defaultdict(list), defaultdict(list)
    for record, hit in zip(records, right, strict=True):
        split, number, _, sentence = record["id"].split("-")
        groups[split, number, sentence].append(hit)
        types[record["type"]].append(hit)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["accuracy"] == pytest.approx(sum(right) / len(right)) and metrics["count"] == len(records) == 40
    assert metrics["consistency"] == pytest.approx(sum(map(all, groups.values())) / len(groups)) and len(groups) == 20
    assert {name: part["mean"] for name, part in metrics["by_type"].items()} == {
        name: pytest.approx(sum(hits) / len(hits)) for name, hits in types.items()
    }
    assert metrics["split"] == "test" and metrics["source"] == DIDE and metrics["partial"] is False
    assert metrics["data"] == json.loads((world / "artifacts/data/toy-nlvr2/manifest.json").read_text())["fingerprint"]
    assert all(0 < row["confidence"] <= 1 for row in predictions)
    assert result.last["accuracy"] == round(metrics["accuracy"], 4) and result.last["run"] == DIDE
    assert "accuracy" in result.out and "consistency" in result.out


def test_vqa_accuracy_is_that_of_the_predictions(world, well, tmp_path):
    """Toy annotators agree, so the official accuracy is a plain match."""
    well("evaluate", VQA, "--out", tmp_path)
    records, predictions = lines(world / "artifacts/data/toy-vqa/val.jsonl"), lines(tmp_path / "predictions.jsonl")
    right = [row["prediction"] == record["answers"][0] for row, record in zip(predictions, records, strict=True)]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["accuracy"] == pytest.approx(sum(right) / len(right)) and 0 < metrics["accuracy"] < 1
    assert set(metrics["by_type"]) == {"yes/no", "number", "other"}


def test_the_last_line_is_compact_json(world, well, tmp_path):
    one = well("evaluate", DIDE, "--out", tmp_path).out.splitlines()[-1]
    assert one == json.dumps(json.loads(one), separators=(",", ":"))
    assert {"run", "split", "accuracy", "ece", "consistency", "count", "seconds"} == set(json.loads(one))


def test_two_runs_at_once(train, well):
    student, teacher = train("distill", "quickstart_dide"), train("finetune", "quickstart_teacher")
    result = well("evaluate", student.folder, teacher.folder, "--split", "test")
    rows = result.last["evaluated"]
    assert [row["run"] for row in rows] == [str(student.folder), str(teacher.folder)]
    for run, row in zip((student, teacher), rows, strict=True):
        assert {path.name for path in (run.folder / "eval/test").iterdir()} == {"metrics.json", "predictions.jsonl"}
        metrics = json.loads((run.folder / "eval/test/metrics.json").read_text())
        assert metrics["accuracy"] == pytest.approx(row["accuracy"], abs=1e-4)


def test_one_bad_run_among_two_writes_nothing(train, command, tree):
    student = train("distill", "quickstart_dide")
    before = tree(student.folder)
    assert command("evaluate", student.folder, "runs/nobody").code == 2
    assert command("evaluate", student.folder, "runs/quickstart_dide", "--split", "dev").code == 2
    assert tree(student.folder) == before


def test_the_batch_does_not_change_the_answers(world, well, tmp_path):
    for batch in (1, 7, 64):
        well("evaluate", DIDE, "--batch", batch, "--workers", int(batch == 7), "--out", tmp_path / str(batch))
    answers = [[row["prediction"] for row in lines(tmp_path / str(batch) / "predictions.jsonl")] for batch in (1, 7, 64)]
    assert answers[0] == answers[1] == answers[2]


def test_a_dry_run_writes_nothing(world, well, tree, tmp_path):
    before = tree(world)
    shown = well("evaluate", DIDE, TEACHER, "--split", "test", "--dry-run").flat
    assert shown.count("test: 40 records") == 2 and "runs/quickstart_dide/default/seed0/eval/test" in shown
    assert tree(world) == before


@pytest.fixture(scope="module")
def own(toy_world, well, tmp_path_factory) -> Path:
    """The user's own yes-or-no questions on toy pictures, labels in an order of their own, and an unlabelled test split."""
    raw = tmp_path_factory.mktemp("own")
    questions = [row for row in lines(toy_world / "artifacts/data/toy-vqa/val.jsonl") if row["type"] == "yes/no"][:24]
    folder = toy_world / "artifacts/raw/toy/vqa"
    for number, row in enumerate(questions):
        (raw / f"{number}.jpg").write_bytes((folder / row["images"][0]).read_bytes())
    rows = [
        {"id": row["id"], "image": f"{i}.jpg", "text": " ".join(row["text"]), "label": row["answers"][0]}
        for i, row in enumerate(questions)
    ]
    for split in ("train", "val"):
        (raw / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (raw / "test.jsonl").write_text("".join(json.dumps({k: v for k, v in row.items() if k != "label"}) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(raw)
        for name, order in (("yes-no", "yes,no"), ("no-yes", "no,yes")):
            well("prepare", "jsonl", "--raw", raw, "--labels", order, "--out", raw / name)
    return raw


def test_other_data_is_scored_by_the_names_of_its_labels(world, well, own, tmp_path):
    """A VQA model on yes-or-no data of another label order: the score is a match of names."""
    scores = []
    for name in ("yes-no", "no-yes"):
        well("evaluate", VQA, "--data", own / name, "--out", tmp_path / name)
        predictions = lines(tmp_path / name / "predictions.jsonl")
        truths = [row["label"] for row in lines(own / "val.jsonl")]
        right = [row["prediction"] == truth for row, truth in zip(predictions, truths, strict=True)]
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        assert metrics["accuracy"] == pytest.approx(sum(right) / len(right)) and metrics["accuracy"] > 0
        scores.append(metrics["accuracy"])
    assert scores[0] == scores[1]


def test_a_split_without_labels_gets_predictions_and_no_score(world, well, own, tmp_path):
    result = well("evaluate", VQA, "--data", own / "yes-no", "--split", "test", "--out", tmp_path)
    assert "accuracy" not in result.last and "no labels" in result.out
    predictions = lines(tmp_path / "predictions.jsonl")
    assert len(predictions) == 24 and all(set(row) == {"id", "prediction", "confidence"} for row in predictions)
    assert json.loads((tmp_path / "metrics.json").read_text())["count"] == 24


def test_a_file_without_any_label_is_answered_by_evaluate_and_by_predict(world, well, own, tmp_path):
    """The two ways to predictions on one's own JSONL, with the same answers."""
    pairs = own / "unlabelled.jsonl"
    pairs.write_text((own / "test.jsonl").read_text())
    well("prepare", "jsonl", "--raw", pairs, "--out", tmp_path / "data")
    result = well("evaluate", VQA, "--data", tmp_path / "data", "--split", "test", "--out", tmp_path / "eval")
    assert "no labels" in result.out and "accuracy" not in result.last
    well("predict", VQA, "--pairs", pairs, "--out", tmp_path / "answers.jsonl", "--top", "1")
    one, other = lines(tmp_path / "eval/predictions.jsonl"), lines(tmp_path / "answers.jsonl")
    assert [(row["id"], row["prediction"]) for row in one] == [(row["id"], row["prediction"]) for row in other] and len(one) == 24
    assert [row["confidence"] for row in one] == pytest.approx([row["confidence"] for row in other], abs=1e-5)


def test_a_student_whose_labels_stand_in_another_order_than_its_teachers(train, well, own, tmp_path):
    """The teacher's logits are put into the student's order by name, and both name the same answers."""
    from vldistill.data.loading import make_loader
    from vldistill.data.samplers import CleanBatches
    from vldistill.models.base.outputs import NOTHING
    from vldistill.models.build import load_student
    from vldistill.recipe.load import load_recipe
    from vldistill.training.build import build_parts

    steps = ("train.steps=12", "train.validate_every=12", "image.augment=none", "optim.warmup=0", "optim.lr=1e-2")
    teacher = train("finetune", "quickstart_teacher", f"data.path={own}/yes-no", "student.init=runs/quickstart_pretrain", *steps)
    overrides = (f"data.path={own}/no-yes", f"teacher.model={teacher.folder}", "student.init=runs/quickstart_pretrain")
    student = train("distill", "quickstart_dide", *overrides, runs="student")
    model, spec, _ = load_student(str(teacher.folder))
    assert spec.labels == ["yes", "no"] and load_student(str(student.folder))[1].labels == ["no", "yes"]
    parts = build_parts(load_recipe("quickstart_dide", list(overrides)))
    batch = next(iter(make_loader(parts.train, CleanBatches(len(parts.train), 8))))
    own_order, plain = parts.teacher(batch, NOTHING).logits, model(batch).logits
    assert (own_order == plain[:, [1, 0]]).all() and (plain[:, 0] != plain[:, 1]).all()
    scores = [
        well("evaluate", teacher.folder, "--data", own / name, "--out", tmp_path / f"{name}-teacher").last["accuracy"]
        for name in ("yes-no", "no-yes")
    ]
    assert scores[0] == scores[1]


def test_a_teacher_that_lacks_a_label_is_refused(world, command, few, tmp_path):
    result = command(
        "distill",
        "-r",
        "quickstart_dide",
        "data.path=artifacts/data/toy-snli_ve",
        "teacher.model=" + VQA,
        "--runs",
        tmp_path,
        *few,
    )
    assert result.code == 2 and "does not know 3 of the data's labels: contradiction" in result.err
    assert list(tmp_path.iterdir()) == []


def test_predict_answers_one_pair(world, well):
    record = lines(world / "artifacts/data/toy-vqa/val.jsonl")[0]
    picture = world / "artifacts/raw/toy/vqa" / record["images"][0]
    result = well("predict", VQA, "--image", picture, "--text", " ".join(record["text"]), "--top", "3")
    names = json.loads((world / "artifacts/data/toy-vqa/answers.json").read_text())["answers"]
    assert len(result.out.splitlines()) == 4 and result.last["prediction"] in names
    shares = [float(line.split("%")[0]) for line in result.out.splitlines()[:3]]
    assert shares == sorted(shares, reverse=True) and result.last["confidence"] == pytest.approx(shares[0] / 100, abs=1e-4)


def test_predict_and_evaluate_give_the_same_answers(world, well, tmp_path):
    """Each line of --pairs gets one answer, in its place, two images a line."""
    well("evaluate", DIDE, "--out", tmp_path / "eval", "--limit", "12")
    records = lines(world / "artifacts/data/toy-nlvr2/val.jsonl")[:12]
    root = world / "artifacts/raw/toy/nlvr2"
    pairs = tmp_path / "pairs.jsonl"
    for record in records:
        for image in record["images"]:
            (tmp_path / Path(image).name).write_bytes((root / image).read_bytes())
    rows = [
        {"id": row["id"], "images": [Path(image).name for image in row["images"]], "text": " ".join(row["text"])}
        for row in records
    ]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    printed = [json.loads(line) for line in well("predict", DIDE, "--pairs", pairs, "--batch", "5").out.splitlines()]
    expected = lines(tmp_path / "eval/predictions.jsonl")
    assert [(row["id"], row["prediction"]) for row in printed] == [(row["id"], row["prediction"]) for row in expected]
    assert [row["confidence"] for row in printed] == pytest.approx([row["confidence"] for row in expected], abs=1e-5)
    assert all(row["top"][0] == [row["prediction"], row["confidence"]] and len(row["top"]) == 2 for row in printed)
    result = well("predict", DIDE, "--pairs", pairs, "--out", tmp_path / "answers.jsonl", "--batch", "5")
    assert lines(tmp_path / "answers.jsonl") == printed and "12 answers" in result.out


@pytest.mark.parametrize(
    "faulty, reason",
    [
        ({"image": "0.jpg", "text": "hi"}, "1"),
        ({"images": ["0.jpg", "gone.jpg"], "text": "hi"}, "pairs.jsonl:2: "),
        ({"images": ["0.jpg", "0.jpg"]}, "pairs.jsonl:2: `text` is missing"),
        ("{", "pairs.jsonl:2: not valid JSON"),
    ],
)
def test_faulty_pairs_are_refused(world, command, own, tmp_path, faulty, reason):
    (tmp_path / "0.jpg").write_bytes((own / "0.jpg").read_bytes())
    good = {"images": ["0.jpg", "0.jpg"], "text": "is there a red circle?"}
    rows = [json.dumps(good), faulty if isinstance(faulty, str) else json.dumps(faulty)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows) + "\n")
    result = command("predict", DIDE, "--pairs", tmp_path / "pairs.jsonl", "--out", tmp_path / "answers.jsonl")
    assert result.code == 2 and result.out == "" and reason in result.err
    assert all(line.startswith("vldistill: ") for line in result.err.splitlines()) and not (tmp_path / "answers.jsonl").exists()


def test_answers_are_not_written_over(world, command, own, tmp_path):
    (tmp_path / "answers.jsonl").write_text("mine\n")
    result = command("predict", VQA, "--pairs", own / "test.jsonl", "--out", tmp_path / "answers.jsonl")
    assert result.code == 2 and "already exists" in result.err and (tmp_path / "answers.jsonl").read_text() == "mine\n"
    both = command("predict", VQA, "--pairs", own / "test.jsonl", "--text", "hi")
    assert both.code == 2 and "--pairs" in both.err
