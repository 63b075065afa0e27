"""Broken input: one line each, naming file and line and the mend; all of them at once; nothing written."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from raw_worlds import (
    bomb,
    jsonl_world,
    nlvr2_row,
    nlvr_world,
    noise,
    picture,
    snli_row,
    vqa_rows,
    vqa_world,
    write_lines,
    write_vqa,
)

from vldistill.data.prepare import prepare
from vldistill.data.sources.jsonl import Jsonl
from vldistill.data.sources.vqa import Vqa
from vldistill.errors import MAX_PROBLEMS_SHOWN, InputError

ROW = {"id": "new", "image": "images/a.png", "text": "A new line.", "label": "yes"}


def changed(**fields):
    return json.dumps({**ROW, **fields})


def without(key):
    return json.dumps({k: v for k, v in ROW.items() if k != key})


# A fifth line of train.jsonl -> what the message must say.
LINES = {
    "cut off": ('{"id": "new", "image": ', "not valid JSON"),
    "single quotes": ("{'id': 'new'}", "not valid JSON"),
    "two objects": (changed() + " " + changed(id="other"), "not valid JSON"),
    "trailing comma": ('{"id": "new",}', "not valid JSON"),
    "a list": ('["new"]', "object was expected"),
    "a bare text": ('"new"', "object was expected"),
    "NaN": ('{"id": "new", "label": NaN}', "NaN"),
    "infinity": ('{"id": "new", "label": -Infinity}', "Infinity"),
    "duplicate key": ('{"id": "new", "id": "newer"}', "appears twice"),
    "endless number": ('{"id": ' + "9" * 5000 + "}", "digits"),
    "deep nesting": ("[" * 100_000, "nested too deeply"),
    "duplicate id": (changed(id="t1"), "'t1' appears twice.*train.jsonl:2"),
    "id is half a number": (changed(id=7.5), "`id` must be a text"),
    "empty id": (changed(id=" "), "`id` is empty"),
    "text is a number": (changed(text=5), "`text` must be a text"),
    "text is a list": (changed(text=["a"]), "`text` must be a text"),
    "text is null": (changed(text=None), "`text` is null"),
    "empty text": (changed(text=""), "`text` is empty"),
    "blank text": (changed(text=" \t\n"), "`text` is empty"),
    "half a surrogate": (changed(text="a \ud800"), "surrogate"),
    "no text": (without("text"), "`text` is missing"),
    "misspelt key": (without("text")[:-1] + ', "texts": "A."}', "did you mean `texts`"),
    "no image": (without("image"), "`image` is missing"),
    "image is a number": (changed(image=1), "`image` must be a text"),
    "image and images": (changed(images=["images/a.png"]), "`image` and `images`"),
    "three images": (changed(image=None, images=["images/a.png"] * 3), "1 to 2 texts, found 3"),
    "images hold a number": (changed(image=None, images=[1]), r"`images\[0\]` must be a text"),
    "images is a text": (changed(image=None, images="images/a.png"), "must be a list"),
    "two images in a task of one": (changed(image=None, images=["images/a.png"] * 2), "has 2 images"),
    "unknown label": (changed(label="yess"), "did you mean 'yes'"),
    "label is a fraction": (changed(label=0.5), "`label` must be"),
    "label is a list": (changed(label=["yes"]), "`label` must be"),
    "label of another type": (changed(label=1), "write all labels the same way"),
    "label with a space": (changed(label="yes "), "spaces around"),
    "no label": (without("label"), "has no label"),
    "label and answers": (changed(answers=["yes"]), "a label and answers"),
    "answers in a task of labels": (without("label")[:-1] + ', "answers": ["yes"]}', "has answers"),
    "answers hold half a number": (
        without("label")[:-1] + ', "answers": [2.5]}',
        r"`answers\[0\]` must be a text.*put it in quotes",
    ),
    "no answers": (without("label")[:-1] + ', "answers": []}', "one text or more"),
    "half a surrogate in an answer": (without("label")[:-1] + ', "answers": ["a", "\\ud800"]}', "surrogate"),
    "type is a number": (changed(type=3), "`type` must be a text"),
    "missing image": (changed(image="images/none.png"), "no such file"),
    "missing folder": (changed(image="pictures/a.png"), "no such folder"),
    "folder as image": (changed(image="images"), "is not a file"),
    "path escape": (changed(image="../images/a.png"), "leaves the raw folder"),
    "absolute path": (changed(image="/etc/passwd"), "leaves the raw folder"),
    "empty image": (changed(image="images/empty.png"), "is empty"),
    "not an image": (changed(image="images/text.png"), "not an image"),
    "truncated image": (changed(image="images/cut.jpg"), "truncated"),
    "bomb": (changed(image="images/bomb.png"), "over the cap"),
    "gif": (changed(image="images/x.gif"), "not an image"),
    "link outwards": (changed(image="images/link.png"), "link that leaves"),
    "endless path": (changed(image="x" * 5000 + "/a.png"), "no such folder"),
    "endless name": (changed(image="images/" + "x" * 5000), "no such file"),
    "loop of links": (changed(image="images/loop.png"), "is not a file"),
    "loop of folders": (changed(image="images/loop.png/a.png"), "no such folder"),
    "control character in a path": (changed(image="images/a\n.png"), "no such file"),
}
LABELS = Jsonl(labels=("no", "yes"))


def faulty_images(root: Path) -> None:
    folder = root / "images"
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("not found")
    noise().save(folder / "whole.jpg")
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:-300])
    bomb(folder / "bomb.png")
    Image.new("P", (2, 2)).save(folder / "x.gif")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "link.png").symlink_to(picture(root.parent / "outside.png"))


def refused(dataset, root, **arguments) -> str:
    """The message of a refused `prepare`, each line `file:line: reason` (or a count); nothing was written."""
    out = root.parent / "artifacts" / "out"
    before = sorted(root.parent.rglob("*"))
    with pytest.raises(InputError) as caught:
        prepare(dataset, root, out, **arguments)
    assert sorted(root.parent.rglob("*")) == before
    message = str(caught.value)
    *lines, last = message.split("\n")
    for line in lines or [last]:
        if not line.startswith("... and "):
            assert re.match(rf"{re.escape(str(root))}/[^ ]+?(:\d+|#\d+|:\w+\[\d+\]): \S.*", line)
            assert line.endswith(")"), f"no mend in: {line}"
            assert "Traceback" not in line and len(line) < 600
    return message


@pytest.mark.parametrize("name", LINES)
def test_faulty_line(tmp_path, name):
    root = tmp_path / "raw"
    rows = jsonl_world(root)
    faulty_images(root)
    faulty, reason = LINES[name]
    write_lines(root / "train.jsonl", [*rows, faulty])
    message = refused("jsonl", root, options=LABELS)
    assert "\n" not in message and message.startswith(f"{root}/train.jsonl:5: ") and re.search(reason, message)


def test_file_that_is_not_utf8_or_empty(tmp_path):
    root = tmp_path / "raw"
    jsonl_world(root)
    (root / "val.jsonl").write_bytes(b'{"image": "images/a.png", "text": "ok", "label": "yes"}\n{"text": "caf\xe9"}\n')
    assert "val.jsonl:2: not UTF-8" in refused("jsonl", root)
    (root / "val.jsonl").write_bytes(b"")
    assert "val.jsonl:1: holds no line" in refused("jsonl", root)


def test_all_faults_are_told_at_once(tmp_path):
    root = tmp_path / "raw"
    rows = jsonl_world(root)
    faulty_images(root)
    few = ["cut off", "text is a number", "unknown label", "missing image", "truncated image"]
    write_lines(root / "train.jsonl", [*rows, *(LINES[name][0].replace('"new"', f'"{name}"') for name in few)])
    message = refused("jsonl", root, options=LABELS)
    assert message.count("train.jsonl:") == 5 and message.endswith(f"5 problems in {root}, nothing was written")
    assert {int(n) for n in re.findall(r"train\.jsonl:(\d+)", message)} == {5, 6, 7, 8, 9}


def test_many_faults_are_capped_with_their_total(tmp_path):
    root = tmp_path / "raw"
    jsonl_world(root)
    write_lines(root / "train.jsonl", ["{"] * 30 + [changed(id=str(i), image=f"images/{i}.png") for i in range(20)])
    message = refused("jsonl", root)
    lines = message.split("\n")
    assert len(lines) == MAX_PROBLEMS_SHOWN + 2
    assert lines[-2] == "... and 30 more" and lines[-1].startswith("50 problems in")


VQA = {
    "duplicate question": (lambda q, a: q.append(dict(q[0])), "question_id 0 appears twice"),
    "duplicate annotation": (lambda q, a: a.append(dict(a[0])), "question_id 0 appears twice"),
    "question without annotation": (lambda q, a: a.pop(), "#3: the question has no annotation"),
    "annotation without question": (lambda q, a: q.pop(), "#3: the annotation has no question"),
    "id is a text": (lambda q, a: q.append({**q[0], "question_id": "0"}), "whole number"),
    "id is true": (lambda q, a: q.append({**q[0], "question_id": True}), "whole number"),
    "negative image": (lambda q, a: q[0].update(image_id=-1), "whole number"),
    "another image": (lambda q, a: a[0].update(image_id=1), "the annotation has 1"),
    "empty question": (lambda q, a: q[0].update(question=" "), "is empty"),
    "nine answers": (lambda q, a: a[0]["answers"].pop(), "has 9 entries"),
    "answers are texts": (lambda q, a: a[0].update(answers=["yes"] * 10), "must hold objects"),
    "answer is half a number": (lambda q, a: a[0]["answers"][3].update(answer=2.5), "`answer` must be a text"),
    "no majority answer": (lambda q, a: a[0].pop("multiple_choice_answer"), "is missing"),
    "an entry is a text": (lambda q, a: q.append("what?"), "object was expected"),
}


@pytest.mark.parametrize("name", VQA)
def test_faulty_vqa(tmp_path, name):
    root = tmp_path / "raw"
    vqa_world(root)
    questions, annotations = vqa_rows("train")
    VQA[name][0](questions, annotations)
    (root / "v2_OpenEnded_mscoco_train2014_questions.json").write_text(json.dumps({"questions": questions}))
    (root / "v2_mscoco_train2014_annotations.json").write_text(json.dumps({"annotations": annotations}))
    message = refused("vqa", root, options=Vqa(min_answer_count=1))
    assert "\n" not in message and re.search(VQA[name][1], message)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ('{"questions": [\n{"question_id": 1,}\n]}', 2, "not valid JSON"),
        ('{"questions": []}', 1, "no list of `questions`"),
        ('{"question": [1]}', 1, "no list of `questions`"),
        ("[]", 1, "no list of `questions`"),
        ("", 1, "not valid JSON"),
        ('{"questions": NaN}', 1, "NaN"),
    ],
)
def test_faulty_vqa_document(tmp_path, text, line, reason):
    root = tmp_path / "raw"
    vqa_world(root)
    (root / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(text)
    message = refused("vqa", root, options=Vqa(min_answer_count=1))
    assert f"val2014_questions.json:{line}: " in message and reason in message and "\n" not in message


OTHERS = {
    "snli_ve": ("snli_ve_train.jsonl", [
        (snli_row(1, "entails"), "did you mean 'entailment'"),
        ({**snli_row(1), "gold_label": None}, "is null"),
        (snli_row(1, key="image"), "`Flickr30K_ID` is missing"),
        ({**snli_row(1), "Flickr30K_ID": "../../1"}, "not an image number"),
        ({**snli_row(1), "Flickr30K_ID": 1.5}, "put it in quotes"),
        ({**snli_row(1), "sentence2": ""}, "is empty"),
        (snli_row(0), "appears twice"),
    ]),
    "nlvr2": ("dev.json", [
        (nlvr2_row("dev-1-2"), "split-set-pair-sentence"),
        (nlvr2_row("train-1-2-3"), "expected it to begin with dev-"),
        (nlvr2_row("dev-1-0-0", "true"), "did you mean 'True'"),
        (nlvr2_row("dev-1-0-0", True), "`label` must be a text"),
        (nlvr2_row("dev-1-0-0", directory="../x"), "is not a number"),
        (nlvr2_row("dev-0-0-0"), "appears twice"),
    ]),
    "nlvr": ("dev/dev.json", [
        ({"sentence": "A.", "identifier": "1-0", "directory": "x", "label": "true"}, "is not a number"),
        ({"sentence": "A.", "identifier": "1-0", "label": "true"}, "is not a number"),
        ({"sentence": "A.", "identifier": "one", "directory": "0", "label": "true"}, "expected one like 72-0"),
        ({"sentence": "A.", "identifier": "5-0", "directory": "0", "label": "True"}, "did you mean 'true'"),
    ]),
}  # fmt: skip


ROWS = [(name, i) for name, (_, rows) in OTHERS.items() for i in range(len(rows))]


@pytest.mark.parametrize(("dataset", "case"), ROWS)
def test_faulty_row(tmp_path, dataset, case):
    root = tmp_path / "raw"
    file, rows = OTHERS[dataset]
    row, reason = rows[case]
    if dataset == "nlvr":
        nlvr_world(root, directories=("0",))
        first = json.loads((root / file).read_text())
    else:
        first = snli_row(0) if dataset == "snli_ve" else nlvr2_row("dev-0-0-0")
        for name in ("images/0.jpg", "images/dev/dev-0-0-img0.png", "images/dev/dev-0-0-img1.png"):
            picture(root / name)
    write_lines(root / file, [first, row])
    message = refused(dataset, root)
    assert "\n" not in message and f"{file}:2: " in message and re.search(reason, message)


def test_missing_image_of_vqa_names_the_question(tmp_path):
    root = tmp_path / "raw"
    vqa_world(root)
    (root / "train2014" / "COCO_train2014_000000000001.jpg").unlink()
    message = refused("vqa", root, options=Vqa(min_answer_count=1))
    assert message.startswith(f"{root}/v2_OpenEnded_mscoco_train2014_questions.json#2: image train2014/COCO")


def test_lost_annotations_file(tmp_path):
    root = tmp_path / "raw"
    write_vqa(root, "train", *vqa_rows("train"))
    (root / "v2_mscoco_train2014_annotations.json").unlink()
    with pytest.raises(InputError, match=r"v2_mscoco_train2014_annotations.json: no such file"):
        prepare("vqa", root, tmp_path / "out")
