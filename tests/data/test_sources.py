"""Each source reads its official layout into records."""

import json

import pytest
from raw_worlds import nlvr2_row, nlvr_world, picture, snli_row, vqa_rows, vqa_world, write_lines, write_vqa

from vldistill.data.sources import jsonl, nlvr, nlvr2, snli_ve, vqa
from vldistill.data.sources.base import SourceData, SourceOptions
from vldistill.errors import InputError, Problems


def load(source, root, **options):
    problems = Problems()
    data = SourceData()
    source.read(root, SourceOptions(**options), problems, data)
    problems.raise_if_any()
    return data


def test_vqa(tmp_path):
    vqa_world(tmp_path)
    write_vqa(tmp_path, "test", vqa_rows("test", 1)[0], None)
    data = load(vqa, tmp_path, min_answer_count=3)
    assert {split: len(records) for split, records in data.splits.items()} == {"train": 4, "val": 2, "test": 1}
    record = data.splits["train"][3]
    assert record.id == "3" and record.images == ["train2014/COCO_train2014_000000000001.jpg"]
    assert record.text == ["Is", "the", "man's", "bike", "red", "?"] and record.answers == ["yes"] * 10
    assert record.type == "yes/no" and record.meta == {"question_type": "is the", "image_id": 1}
    # Two of each in train and one of each in val; the first annotation's answer is "The no".
    assert data.vocabulary.names == ["no", "yes"]
    assert data.splits["test"][0].answers is None
    assert data.where["train"][3].endswith("questions.json#3")


def test_vqa_without_val_and_with_chosen_splits(tmp_path):
    write_vqa(tmp_path, "train", *vqa_rows("train"))
    assert set(load(vqa, tmp_path, min_answer_count=1).splits) == {"train"}
    write_vqa(tmp_path, "val", *vqa_rows("val"))
    data = load(vqa, tmp_path, min_answer_count=4, splits=("val",))
    assert set(data.splits) == {"val"} and len(data.vocabulary) == 2


@pytest.mark.parametrize("folder", ["flickr30k-images", "images", ""])
def test_snli_ve(tmp_path, folder):
    write_lines(tmp_path / "snli_ve_train.jsonl", [snli_row(1), snli_row(2, "-"), snli_row(3, "contradiction")])
    write_lines(tmp_path / "snli_ve_dev.jsonl", [snli_row(4, "neutral", "Flikr30kID", ".jpg")])
    picture(tmp_path / folder / "1.jpg")
    data = load(snli_ve, tmp_path)
    assert [record.label for record in data.splits["train"]] == [1, 0] and data.splits["val"][0].label == 2
    prefix = f"{folder}/" if folder else ""
    assert data.splits["train"][0].images == [f"{prefix}1.jpg"] and data.splits["val"][0].images == [f"{prefix}4.jpg"]
    assert data.splits["train"][0].text == ["An", "animal", "moves", "."]
    assert data.splits["train"][0].meta == {"premise": "A dog runs."}
    assert data.notes == ['train: 1 pairs without an agreed label ("-") left out']


def test_snli_ve_single_file_is_test(tmp_path):
    write_lines(tmp_path / "sample_data.jsonl", [snli_row(1)])
    data = load(snli_ve, tmp_path)
    assert set(data.splits) == {"test"} and "read as test" in data.notes[0]
    write_lines(tmp_path / "other_data.jsonl", [snli_row(1)])
    with pytest.raises(InputError, match=r"does not look like SNLI-VE: found other_data.jsonl, sample_data.jsonl"):
        load(snli_ve, tmp_path)


@pytest.mark.parametrize("folder", ["", "nlvr2/data", "data"])
def test_nlvr2(tmp_path, folder):
    write_lines(tmp_path / folder / "train.json", [nlvr2_row("train-10-0-1", directory=7)])
    write_lines(tmp_path / folder / "dev.json", [nlvr2_row("dev-850-2-0", "False"), nlvr2_row("dev-850-3-0")])
    picture(tmp_path / "dev" / "dev-850-2-img0.png")
    data = load(nlvr2, tmp_path)
    assert data.labels == ["False", "True"]
    assert data.splits["train"][0].images == [f"images/train/7/train-10-0-img{side}.png" for side in (0, 1)]
    record = data.splits["val"][0]
    assert record.images == ["dev/dev-850-2-img0.png", "dev/dev-850-2-img1.png"] and record.label == 0
    assert record.id == "dev-850-2-0" and record.type == "dog"
    assert record.meta == {"set": "850", "pair": "2", "sentence": "0"}


def test_nlvr_holds_directories_out_of_dev(tmp_path):
    nlvr_world(tmp_path)
    data = load(nlvr, tmp_path)
    assert set(data.splits) == {"val"} and len(data.splits["val"]) == 12 and "no train split" in data.notes[0]
    data = load(nlvr, tmp_path, val_directories=("1",))
    assert [len(data.splits[split]) for split in ("train", "val")] == [6, 6]
    record = data.splits["val"][2]
    assert record.id == "dev-1-0-2" and record.images == ["dev/images/1/dev-1-0-2.png"] and record.label == 1
    assert record.meta == {"identifier": "1-0", "directory": "1"} and len(data.where["val"]) == 6
    assert any("dev is read as train" in note for note in data.notes)


def test_nlvr_holds_directories_out_of_train(tmp_path):
    nlvr_world(tmp_path, "train", ("0", "1", "2"))
    nlvr_world(tmp_path, "dev")
    data = load(nlvr, tmp_path, val_directories=("2",))
    assert {split: len(records) for split, records in data.splits.items()} == {"train": 12, "val": 6, "test": 12}
    assert data.splits["val"][0].id.startswith("train-") and data.splits["test"][0].id.startswith("dev-")


@pytest.mark.parametrize(("directories", "reason"), [(("9",), "has no directory 9"), (("0", "1"), "nothing is left")])
def test_nlvr_directories_must_make_sense(tmp_path, directories, reason):
    nlvr_world(tmp_path)
    with pytest.raises(InputError, match=reason):
        load(nlvr, tmp_path, val_directories=directories)


def line(**fields):
    return {"image": "a.png", "text": "A dog.", **fields}


@pytest.mark.parametrize(
    ("fields", "task", "labels"),
    [
        ({"label": "yes"}, "classification", ["yes"]),
        ({"label": True}, "classification", ["true"]),
        ({"label": 3}, "classification", ["3"]),
        ({"image": None, "images": ["a.png", "b.png"], "label": "x"}, "pair_classification", ["x"]),
        ({"answers": ["2", "two"]}, "vqa", None),
        ({}, "classification", None),
    ],
)
def test_jsonl_infers_the_task(tmp_path, fields, task, labels):
    write_lines(tmp_path / "train.jsonl", [line(**fields)])
    data = load(jsonl, tmp_path, min_answer_count=1)
    assert data.task == task and data.labels == labels
    assert data.splits["train"][0].id == "train-1"


def test_jsonl_labels(tmp_path):
    write_lines(tmp_path / "train.jsonl", [line(label=label) for label in (10, 2, 2)])
    # Whole numbers in their own order.
    assert load(jsonl, tmp_path).labels == ["2", "10"]
    data = load(jsonl, tmp_path, labels=("10", "2", "7"))
    assert data.labels == ["10", "2", "7"] and [record.label for record in data.splits["train"]] == [0, 1, 1]
    write_lines(tmp_path / "test.jsonl", [line(type="easy", colour="red")])
    data = load(jsonl, tmp_path)
    assert data.splits["test"][0].label is None and data.splits["test"][0].type == "easy"
    assert data.notes == ["keys not read: colour (1 lines)"]


def test_jsonl_single_answer_stands_for_ten(tmp_path):
    write_lines(tmp_path / "train.jsonl", [line(answer="two"), line(answers=["red"]), line(answers=["a", "b"])])
    data = load(jsonl, tmp_path, min_answer_count=1)
    assert [record.answers for record in data.splits["train"]] == [["two"] * 10, ["red"] * 10, ["a", "b"]]
    assert data.vocabulary.names == ["2", "red", ""] and "fewer than 4 answers" in data.notes[0]


def test_jsonl_single_file(tmp_path):
    path = write_lines(tmp_path / "mine.jsonl", [line(label="b"), line(label="a")])
    data = load(jsonl, path)
    assert set(data.splits) == {"test"} and data.labels == ["a", "b"] and data.root == tmp_path
    assert set(load(jsonl, write_lines(tmp_path / "val.jsonl", [line()])).splits) == {"val"}


def test_jsonl_forced_task(tmp_path):
    write_lines(tmp_path / "train.jsonl", [line()])
    assert load(jsonl, tmp_path, task="caption").task == "caption"
    with pytest.raises(InputError, match=r"train.jsonl:1: has 1 image, the task nlvr2 has 2"):
        load(jsonl, tmp_path, task="nlvr2")
    with pytest.raises(InputError, match=r"not known.*did you mean 'caption'"):
        load(jsonl, tmp_path, task="captions")


@pytest.mark.parametrize("encode", [
    lambda text: b"\xef\xbb\xbf" + text.encode(),
    lambda text: text.replace("\n", "\r\n").encode(),
    lambda text: text.rstrip("\n").encode(),
    lambda text: ("\n\n" + text + "\n  \n").encode(),
])  # fmt: skip
def test_byte_order_mark_line_ends_and_blank_lines_are_read(tmp_path, encode):
    text = "".join(json.dumps(line(label="ä", id=str(i)), ensure_ascii=False) + "\n" for i in range(2))
    (tmp_path / "train.jsonl").write_bytes(encode(text))
    assert [record.id for record in load(jsonl, tmp_path).splits["train"]] == ["0", "1"]


def test_line_separators_inside_strings(tmp_path):
    rows = [json.dumps(line(text=f"one{mark}two", label="x"), ensure_ascii=False) for mark in "\u2028\u2029\x85"]
    write_lines(tmp_path / "train.jsonl", rows)
    assert [record.text for record in load(jsonl, tmp_path).splits["train"]] == [["one", "two"]] * 3
