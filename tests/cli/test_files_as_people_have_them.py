"""Files that are right and were refused, or wrong and badly told: answers by number, wrapped and split checkpoints, tables and
lists for JSON lines, numbers for names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from vldistill.artifacts import read_manifest
from vldistill.data.records import read_records
from vldistill.errors import InputError
from vldistill.models.base.checkpoint import read_weights
from vldistill.models.base.converter import read_answers
from vldistill.models.base.weights import INDEX, digest_of_weights, unwrapped
from vldistill.teachers.encoders import weights_digest

ANSWERS = ["net", "pitcher", "orange"]


@pytest.mark.parametrize(
    "written",
    [
        {"0": "net", "1": "pitcher", "2": "orange"},
        {"2": "orange", "0": "net", "1": "pitcher"},
        {"net": 0, "pitcher": 1, "orange": 2},
        {"id2label": {"0": "net", "1": "pitcher", "2": "orange"}},
        {"min_count": 9, "answers": ANSWERS},
        ANSWERS,
    ],
)
def test_answers_are_read_in_every_published_form(tmp_path, written):
    (tmp_path / "a.json").write_text(json.dumps(written))
    assert read_answers(tmp_path / "a.json") == ANSWERS


@pytest.mark.parametrize(
    "written, told",
    [
        ({"0": "net", "2": "orange", "3": "a", "6": "b"}, "has 4 answers, but none of number 1"),
        ({"id2label": {"0": "net", "2": "orange"}}, "has 2 answers, but none of number 1"),
        (["net", None, "orange"], "has no answer 1 of 0 to 2"),
        ({"net": 0, "a": 2}, "none of number 1"),
        (["net", "net"], "does not name each answer once"),
        ({"0": 3}, "does not name each answer once"),
        ({}, "does not name each"),
    ],
)
def test_what_is_missing_of_answers_is_told(tmp_path, written, told):
    (tmp_path / "a.json").write_text(json.dumps(written))
    with pytest.raises(InputError, match=told):
        read_answers(tmp_path / "a.json")


# --- checkpoints --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_a_wrappers_prefix_is_taken_off_where_all_names_have_it(prefix):
    assert unwrapped({f"{prefix}a.b": 1, f"{prefix}c": 2}) == {"a.b": 1, "c": 2}
    assert unwrapped({f"{prefix}a": 1, "b": 2}) == {f"{prefix}a": 1, "b": 2} and unwrapped({}) == {}


def sharded(source: Path, target: Path) -> Path:
    """A model folder with its weights in three files, as the libraries split them."""
    target.mkdir()
    for path in source.iterdir():
        if path.name not in ("model.safetensors", "manifest.json"):
            (target / path.name).write_bytes(path.read_bytes())
    weights, names = load_file(source / "model.safetensors"), {}
    for number in range(3):
        name = f"model-{number + 1:05d}-of-00003.safetensors"
        part = dict(sorted(weights.items())[number::3])
        save_file(part, target / name, {"format": "pt"})
        names |= dict.fromkeys(part, name)
    (target / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": names}))
    return target


TEACHER, DIDE = "runs/quickstart_teacher/default/seed0", "runs/quickstart_dide/default/seed0"


def test_weights_in_several_files_or_with_a_prefix_are_the_same_model(world, well, few, tmp_path):
    source = Path(DIDE) / "model"
    folder = sharded(source, tmp_path / "parts")
    whole, found = load_file(source / "model.safetensors"), read_weights(folder)
    assert found.keys() == whole.keys() and all(torch.equal(found[name], value) for name, value in whole.items())
    wrapped = tmp_path / "wrapped"
    wrapped.mkdir()
    for path in source.iterdir():
        (wrapped / path.name).write_bytes(path.read_bytes())
    save_file({f"module.{name}": value for name, value in whole.items()}, wrapped / "model.safetensors")
    data, metrics = "artifacts/data/toy-nlvr2", []
    for number, model in enumerate((DIDE, folder, wrapped)):
        well("evaluate", model, "--data", data, "--split", "val", "--limit", "8", "--out", tmp_path / f"e{number}")
        metrics.append((tmp_path / f"e{number}/predictions.jsonl").read_text())
    assert metrics[0] == metrics[1] == metrics[2]
    well("index", "build", folder, data, "--out", tmp_path / "i", "--limit", "4")
    assert read_manifest(tmp_path / "i", "index", make_it="")["model"]["weights"] == digest_of_weights(folder)
    run = well("finetune", "-r", "quickstart_dide", f"student.init={folder}", "--runs", tmp_path / "runs", *few).last["run"]
    assert read_manifest(Path(run), "finetune", make_it="")["parents"]["init"] == digest_of_weights(folder)
    before = weights_digest(folder, None)
    name = "model-00002-of-00003.safetensors"
    save_file({key: value + 1 for key, value in load_file(folder / name).items()}, folder / name)
    assert weights_digest(folder, None) != before


@pytest.mark.parametrize(
    "damage, told",
    [
        ("missing", "no such file"),
        ("outside", "which is no file beside it"),
        ("other", "is not what"),
        ("index", "is no index"),
        ("cut", "cannot be read"),
    ],
)
def test_a_broken_set_of_files_is_told(world, command, tmp_path, damage, told):
    folder = sharded(Path(TEACHER) / "model", tmp_path / "parts")
    first = folder / "model-00001-of-00003.safetensors"
    index = json.loads((folder / INDEX).read_text())
    if damage == "missing":
        first.unlink()
    elif damage == "outside":
        index["weight_map"]["x"] = "../x.safetensors"
    elif damage == "other":
        save_file({"x": torch.zeros(1)}, first)
    elif damage == "cut":
        first.write_bytes(first.read_bytes()[:-9])
    (folder / INDEX).write_text("[]" if damage == "index" else json.dumps(index))
    result = command("evaluate", folder, "--data", "artifacts/data/toy-nlvr2", "--split", "val", "--out", tmp_path / "e")
    assert result.code == 2 and told in result.err and len(result.err.splitlines()) == 1


# --- JSON lines ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, told",
    [
        ("image,text,label\na.png,is it?,yes\nb.png,is it,no\n", "looks like a table (CSV)"),
        ("image\ttext\tlabel\na.png\tis it, or\tyes\n", "looks like a table (TSV)"),
        ('"image","text"\n"a.png","b"\n', "looks like a table (CSV)"),
        ('[{"image": "a.png", "text": "b", "label": "yes"}]\n', "is a JSON list"),
        ('\n [\n{"image": "a.png"}]', "is a JSON list"),
        ('{\n  "image": "a.png",\n  "text": "b"\n}\n', "has its objects spread over several lines"),
        ('{"image": "a.png", "text": "a, b, c"\n', "not valid JSON"),
        ("hello\n", "not valid JSON"),
    ],
)
def test_what_is_no_json_lines_is_called_what_it_is(command, tmp_path, text, told):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    (tmp_path / "train.jsonl").write_text(text)
    result = command("prepare", "jsonl", "--raw", tmp_path, "--out", tmp_path / "out")
    assert result.code == 2 and told in result.err and result.err.count("train.jsonl:") == 1


def prepared(well, folder: Path, rows: list[dict], *more: str):
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (32, 32)).save(folder / "a.png")
    (folder / "train.jsonl").write_text("".join(json.dumps({"image": "a.png", "text": "is it?", **row}) + "\n" for row in rows))
    return well("prepare", "jsonl", "--raw", folder, "--out", folder / "out", "--overwrite", *more)


def test_numbers_are_taken_for_names_and_answers(well, command, tmp_path):
    prepared(well, tmp_path, [{"id": 7, "answers": [2, "two", 2]}, {"id": "x", "answer": 3}] * 1, "--min-count", "1")
    records = read_records(tmp_path / "out/train.jsonl")
    assert [(record.id, record.answers[:3]) for record in records] == [("7", ["2", "two", "2"]), ("x", ["3"] * 3)]
    (tmp_path / "train.jsonl").write_text('{"image": "a.png", "tags": [1, "b"]}\n')
    well("prepare", "jsonl", "--raw", tmp_path, "--out", tmp_path / "out", "--overwrite")
    assert read_manifest(tmp_path / "out", "prepare", make_it="")["labels"] == ["1", "b"]
    for row, told in (
        ({"id": 1.5, "label": "a"}, "`id` must be a text"),
        ({"id": True, "label": "a"}, "`id` must be a text"),
        ({"answer": 2.50}, "`answer` must be a text"),
        ({"answers": [True]}, "must be a text"),
    ):
        (tmp_path / "train.jsonl").write_text(json.dumps({"image": "a.png", "text": "b", **row}) + "\n")
        result = command("prepare", "jsonl", "--raw", tmp_path, "--out", tmp_path / "out", "--overwrite")
        assert result.code == 2 and told in result.err
    lines = [json.dumps({"id": name, "image": "a.png", "text": "b", "label": "c"}) for name in (1, "1")]
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n")
    assert "id '1' appears twice" in command("prepare", "jsonl", "--raw", tmp_path, "--out", tmp_path / "o").err


def test_one_label_is_warned_of_and_a_label_may_have_a_comma(well, command, tmp_path):
    told = prepared(well, tmp_path, [{"label": "yes"}] * 2).flat
    assert "WARNING: 'yes' is the only label" in told
    rows = [{"label": "yes, sir"}, {"label": "no"}]
    told = prepared(well, tmp_path, rows, "--labels", 'no,"yes, sir"').flat
    assert "WARNING" not in told
    assert read_manifest(tmp_path / "out", "prepare", make_it="")["labels"] == ["no", "yes, sir"]
    result = command("prepare", "jsonl", "--raw", tmp_path, "--labels", '"no')
    assert result.code == 2 and "quote that does not end" in result.err


# --- VQA's server -------------------------------------------------------------------------------------------------------------


def test_a_file_of_test_dev_has_all_test_questions(world, well, command, few, tmp_path):
    words = ("data.path=artifacts/data/toy-vqa", "--runs", tmp_path / "runs", *few)
    run = well("finetune", "-r", "quickstart_teacher", *words).last["run"]
    raw = Path(read_manifest(Path("artifacts/data/toy-vqa"), "prepare", make_it="")["raw_root"])
    mine = tmp_path / "raw"
    mine.mkdir()
    for path in raw.iterdir():
        (mine / path.name).symlink_to(path.resolve())
    [image] = list((raw / "val2014").iterdir())[:1]
    (mine / "test2015").mkdir()
    questions = []
    for number in range(1, 6):
        (mine / "test2015" / f"COCO_test2015_{number:012d}.jpg").write_bytes(image.read_bytes())
        questions.append({"image_id": number, "question": "is it red?", "question_id": 9_000_000 + number})
    for name, some in (("test", questions), ("test-dev", questions[:2])):
        (mine / f"v2_OpenEnded_mscoco_{name}2015_questions.json").write_text(json.dumps({"questions": some}))
    common = ("prepare", "vqa", "--raw", mine, "--min-count", "1", "--follow-links")
    well(*common, "--out", tmp_path / "data")
    result = well("evaluate", run, "--data", tmp_path / "data", "--split", "test-dev", "--leaderboard", tmp_path / "vqa.json")
    rows = json.loads((tmp_path / "vqa.json").read_text())
    assert sorted(row["question_id"] for row in rows) == [one["question_id"] for one in questions]
    assert "the server scores test-dev among them" in result.out
    well(*common, "--splits", "train,val,test-dev", "--out", tmp_path / "part")
    result = command("evaluate", run, "--data", tmp_path / "part", "--split", "test-dev", "--leaderboard", tmp_path / "no.json")
    assert result.code == 2 and "has no split `test`" in result.err and not (tmp_path / "no.json").exists()
