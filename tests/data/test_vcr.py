"""VCR: its official layout into records, and broken files through the command line: one line each, nothing written."""

import json
import os
from pathlib import Path

import pytest
from raw_worlds import Collected, bomb, noise, picture, write_lines

from vldistill.data.sources import vcr
from vldistill.data.sources.table import SourceOptions
from vldistill.errors import Problems


def row(name="train-0", **fields):
    words = [[[0], "eats", "."], ["He", "runs", "."], [[0, 1], "talk", "."], ["No", "."]]
    return {"annot_id": name, "img_fn": "m/1.jpg", "metadata_fn": "m/1.json", "objects": ["person", "car"],
            "question": ["Why", "is", [0], "here", "?"], "answer_choices": words, "rationale_choices": words[::-1],
            "answer_label": 2, "rationale_label": 1, **fields}  # fmt: skip


METADATA = {"width": 8, "height": 6, "names": ["person", "car"], "boxes": [[0, 0, 4, 4, 0.9], [1, 1, 3, 3, 0.5]],
            "segms": [[[[0, 0], [4, 0], [4, 4]]], []]}  # fmt: skip


def world(root, *rows, split="train", metadata=METADATA):
    write_lines(root / f"{split}.jsonl", rows)
    write_lines(root / "vcr1images/m/1.json", [metadata if isinstance(metadata, str) else json.dumps(metadata)])
    picture(root / "vcr1images/m/1.jpg")


def test_records_of_labelled_and_unlabelled_splits(tmp_path):
    world(tmp_path, row())
    world(tmp_path, row("test-0", answer_label=None, rationale_label=None), split="test")
    data, problems = Collected(), Problems()
    vcr.read(tmp_path, SourceOptions(), problems, data)
    problems.raise_if_any()
    answer, rationale = data.splits["train"]
    assert (answer.id, answer.label, rationale.id, rationale.label) == ("train-0", 2, "train-0:r", 1)
    assert answer.images == ["vcr1images/m/1.jpg"] and answer.text == ["Why", "is", [0], "here", "?"]
    assert rationale.given == answer.choices[2] and rationale.choices == answer.choices[::-1] and answer.type == "explanation"
    assert [record.id for record in data.splits["test"]] == ["test-0", *(f"test-0:r{i}" for i in range(4))]
    assert all(record.label is None for record in data.splits["test"])
    assert [(region["image"], region["names"]) for region in data.regions] == [("vcr1images/m/1.jpg", ["person", "car"])]


# --- a second line of train.jsonl, and what must be said of it ----------------------------------------------------------

LINES = {
    "cut off": (json.dumps(row("train-1"))[:-40], "not valid JSON"),
    "NaN": (json.dumps(row("train-1", answer_likelihood=float("nan"))), "NaN is not valid JSON"),
    "a list": ("[]", "a JSON object was expected"),
    "a key twice": ('{"annot_id": "a", "annot_id": "b"}', "appears twice"),
    "no id": (row(None), "`annot_id` is null"),
    "the same id": (row(), "annot_id 'train-0' appears twice"),
    "the id of a rationale": (row("train-0:r"), "annot_id 'train-0:r' appears twice"),
    "tag of no object": (row("train-1", question=["Is", [2], "?"]), "`question` has a tag of object 2, there are 2"),
    "negative tag": (row("train-1", question=["Is", [-1], "?"]), "has a tag of object -1"),
    "tag of a fraction": (row("train-1", question=["Is", [0.5], "?"]), "has a tag of object 0.5"),
    "tag of true": (row("train-1", question=["Is", [True], "?"]), "has a tag of object True"),
    "tag in an answer": (row("train-1", answer_choices=[["a"], ["b"], ["c"], [[7]]]), "`answer_choices[3]` has a tag of"),
    "empty tag": (row("train-1", question=[[]]), "has an empty tag"),
    "no words": (row("train-1", question=[]), "`question` is empty"),
    "an empty choice": (row("train-1", answer_choices=[["a"], ["b"], ["c"], []]), "`answer_choices[3]` is empty"),
    "question is a text": (row("train-1", question="Why?"), "`question` must be a list"),
    "a word is a number": (row("train-1", question=[3]), "`question` holds a number"),
    "a word is an object": (row("train-1", question=[{}]), "`question` holds an object"),
    "half a surrogate": (row("train-1", question=["\ud800"]), "half of a surrogate pair"),
    "three answers": (row("train-1", answer_choices=[["a"]] * 3), "has 3 entries, VCR has 4"),
    "answer is a text": (row("train-1", answer_choices=["a", ["b"], ["c"], ["d"]]), "`answer_choices[0]` must be a list"),
    "label out of range": (row("train-1", answer_label=4), "`answer_label` is 4"),
    "label is a text": (row("train-1", answer_label="2"), "whole number"),
    "label is missing": (row("train-1", rationale_label=None), "`rationale_label` is null"),
    "objects are numbers": (row("train-1", objects=["person", 2]), "`objects[1]` must be a text"),
    "other objects": (row("train-1", objects=["car", "person"]), "are not the names in the image's metadata"),
    "image outside": (row("train-1", img_fn="../../x.jpg"), "leaves the raw folder"),
    "image lost": (row("train-1", img_fn="m/2.jpg"), "no such file"),
    "image cut off": (row("train-1", img_fn="m/cut.jpg"), "truncated"),
    "image is a bomb": (row("train-1", img_fn="m/bomb.png"), "over the cap"),
    "metadata outside": (row("train-1", img_fn="m/3.jpg", metadata_fn="../1.json"), "leaves the raw folder"),
    "metadata lost": (row("train-1", img_fn="m/3.jpg", metadata_fn="m/2.json"), "no such file"),
}
FILES = {
    "boxes fewer than names": ({**METADATA, "boxes": [[0, 0, 4, 4, 1]]}, "has 2 names, 1 boxes and 2 polygon lists"),
    "box of four": ({**METADATA, "boxes": [[0, 0, 4, 4], [1, 1, 3, 3, 1]]}, "`boxes[0]` is not [x1, y1, x2, y2, confidence]"),
    "box inside out": ({**METADATA, "boxes": [[4, 0, 0, 4, 1], [1, 1, 3, 3, 1]]}, "`boxes[0]` ends before it begins"),
    "box of NaN": (json.dumps(METADATA).replace("0.9", "NaN"), "NaN is not valid JSON"),
    "box of infinity": (json.dumps(METADATA).replace("0.9", "1e999"), "`boxes[0]` is not"),
    "box of a text": ({**METADATA, "boxes": [[0, 0, "4", 4, 1], [1, 1, 3, 3, 1]]}, "`boxes[0]` is not"),
    "no width": ({**METADATA, "width": 0}, "`width` is not a positive number"),
    "no polygons": ({k: v for k, v in METADATA.items() if k != "segms"}, "has no list of `segms`"),
    "polygon of single numbers": ({**METADATA, "segms": [[[[0]]], []]}, "`segms[0]` is not a list of polygons"),
    "nameless object": ({**METADATA, "names": ["person", ""]}, "`names[1]` is not a text"),
    "a list": ("[]", "a JSON object was expected"),
    "empty": ("", "not valid JSON"),
}


def refused(command, tree, root, *words) -> str:
    """The only line of a refused `prepare vcr`, without its `vldistill: `; nothing was written."""
    before = tree(root.parent)
    result = command("prepare", "vcr", "--raw", root, "--out", root.parent / "artifacts/vcr", *words)
    assert result.code == 2 and result.out == "" and "Traceback" not in result.err
    assert tree(root.parent) == before
    (line,) = result.err.splitlines()
    assert line.endswith(")"), f"no mend in: {line}"
    return line.removeprefix("vldistill: ")


@pytest.mark.parametrize("name", LINES)
def test_a_faulty_line(command, tree, tmp_path, name):
    root = tmp_path / "raw"
    line, reason = LINES[name]
    world(root, row(), line)
    for image in ("3.jpg", "cut.jpg"):
        noise().save(root / "vcr1images/m" / image)
    cut = root / "vcr1images/m/cut.jpg"
    cut.write_bytes(cut.read_bytes()[:-300])
    bomb(root / "vcr1images/m/bomb.png")
    message = refused(command, tree, root)
    assert message.startswith(f"{root}/train.jsonl:2: ") and reason in message, message


@pytest.mark.parametrize("name", FILES)
def test_faulty_metadata(command, tree, tmp_path, name):
    root = tmp_path / "raw"
    metadata, reason = FILES[name]
    world(root, row(), metadata=metadata)
    message = refused(command, tree, root)
    assert f"{root}/vcr1images/m/1.json: " in message and reason in message, message


@pytest.mark.parametrize("split, suffix", [("train", ":r"), ("test", ":r3")])
def test_a_question_whose_rationale_has_the_id_of_one_before_it(command, tree, tmp_path, split, suffix):
    root = tmp_path / "raw"
    world(root, row(f"a{suffix}"), row("a"), split=split)
    message = refused(command, tree, root)
    assert message.startswith(f"{root}/{split}.jsonl:2: id 'a{suffix}' appears twice (first at {root}/{split}.jsonl:1")


def test_a_file_in_latin_1(command, tree, tmp_path):
    root = tmp_path / "raw"
    world(root, row())
    line = json.dumps(row("train-1", question_orig="caf\xe9"), ensure_ascii=False)
    with (root / "train.jsonl").open("ab") as file:
        file.write(line.encode("latin-1"))
    message = refused(command, tree, root)
    assert message.startswith(f"{root}/train.jsonl:2: not UTF-8 at byte ")


def test_an_empty_file(command, tree, tmp_path):
    root = tmp_path / "raw"
    world(root, row())
    (root / "val.jsonl").touch()
    assert "val.jsonl:1: holds no line" in refused(command, tree, root)


def test_a_file_that_may_not_be_read(command, tree, tmp_path, monkeypatch):
    """The right to read is taken away; root, who reads all, is told so by the system call."""
    root = tmp_path / "raw"
    world(root, row())
    (root / "train.jsonl").chmod(0)
    if os.geteuid() == 0:
        opened = os.open

        def denied(path, *arguments, **options):
            if Path(path) == root / "train.jsonl":
                raise PermissionError(13, "Permission denied", str(path))
            return opened(path, *arguments, **options)

        monkeypatch.setattr(os, "open", denied)
    message = refused(command, tree, root)
    assert message.startswith(f"{root}/train.jsonl: cannot be read: Permission denied")
