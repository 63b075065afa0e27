"""Each source reads its official layout into records."""

import json
import re

import pytest
from raw_worlds import Collected, nlvr2_row, nlvr_world, picture, snli_row, vqa_rows, vqa_world, write_lines, write_vqa

from vldistill.data.sources import vqa
from vldistill.data.sources.table import ALL_SPLITS, SPLITS, source_of
from vldistill.errors import InputError, Problems


def load(source, root, **options):
    """What a source, by its name, makes of a folder."""
    problems, found = Problems(), source_of(source)
    data = Collected(found.task or "")
    found.options(**options).check()
    found.read(root, found.options(**options), problems, data)
    problems.raise_if_any()
    return data


def refused(source, root, place, reason, **options):
    """One fault: `<root>/<place>: <reason> (<mend>)`, in one line."""
    with pytest.raises(InputError) as caught:
        load(source, root, **options)
    message = str(caught.value)
    assert message.startswith(f"{root}/{place}: ") and re.search(reason, message), message
    assert "\n" not in message and message.endswith(")")


def test_splits_in_order():
    assert [split for split in ALL_SPLITS if split in SPLITS] == list(SPLITS) and len(set(ALL_SPLITS)) == len(ALL_SPLITS)
    assert all(ALL_SPLITS.index(split.partition("-")[0]) <= ALL_SPLITS.index(split) for split in ALL_SPLITS)


def test_vqa(tmp_path):
    vqa_world(tmp_path)
    write_vqa(tmp_path, "test", vqa_rows("test", 1)[0], None)
    data = load("vqa", tmp_path, min_answer_count=3)
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
    assert set(load("vqa", tmp_path, min_answer_count=1).splits) == {"train"}
    write_vqa(tmp_path, "val", *vqa_rows("val"))
    data = load("vqa", tmp_path, min_answer_count=4, splits=("val",))
    assert set(data.splits) == {"val"} and len(data.vocabulary) == 2


def test_vqa_test_dev(tmp_path):
    vqa_world(tmp_path)
    write_vqa(tmp_path, "test", vqa_rows("test")[0], None)
    questions = {"questions": [{"image_id": 1, "question": "Is it?", "question_id": 2}]}
    (tmp_path / "v2_OpenEnded_mscoco_test-dev2015_questions.json").write_text(json.dumps(questions))
    data = load("vqa", tmp_path, min_answer_count=1)
    assert list(data.splits) == ["train", "val", "test", "test-dev"] and len(data.splits["test"]) == 4
    record = data.splits["test-dev"][0]
    assert record.id == "2" and record.images == ["test2015/COCO_test2015_000000000001.jpg"] and record.answers is None
    assert set(load("vqa", tmp_path, min_answer_count=1, splits=("test-dev",)).splits) == {"test-dev"}


def trainval_world(root, images, questions_each=2):
    """One question in train; in val `images` images with questions of their own, ids from 1000."""
    questions, annotations = vqa_rows("val", 1)
    write_vqa(root, "train", questions, annotations)
    rows = [{"image_id": i, "question_id": 1000 + questions_each * i + k} for i in range(images) for k in range(questions_each)]
    for key, values, name in (("questions", questions, vqa.questions_file), ("annotations", annotations, vqa.annotations_file)):
        (root / name("val")).write_text(json.dumps({key: [{**values[0], **row} for row in rows]}))


def by_image(records):
    return {record.meta["image_id"] for record in records if record.images[0].startswith("val2014/")}


def test_vqa_trainval_holds_a_thousand_images_out(tmp_path):
    trainval_world(tmp_path, 2100)
    data = load("vqa", tmp_path, min_answer_count=1, vqa_split="trainval")
    held, moved = by_image(data.splits["val"]), by_image(data.splits["train"])
    assert len(held) == 1000 and len(moved) == 1100 and not held & moved
    assert len(data.splits["val"]) == 2000 and len(data.splits["train"]) == 2201 and data.splits["train"][0].id == "0"
    assert data.notes == ["trainval: 1,100 images of val with 2,200 questions are train; 1,000 with 2,000 questions stay val"]
    # The choice is part of what an artifact is: it must not change.
    assert sorted(held)[:8] == [0, 1, 2, 3, 12, 13, 15, 18]
    assert data.vocabulary.names == load("vqa", tmp_path, min_answer_count=1).vocabulary.names
    only = load("vqa", tmp_path, min_answer_count=1, vqa_split="trainval", splits=("val",))
    assert set(only.splits) == {"val"} and by_image(only.splits["val"]) == held


@pytest.mark.parametrize(("images", "stay"), [(1999, 1000), (10, 5), (3, 2), (1, 1)])
def test_vqa_trainval_of_little_data(tmp_path, images, stay):
    trainval_world(tmp_path, images, 1)
    data = load("vqa", tmp_path, min_answer_count=1, vqa_split="trainval")
    assert len(by_image(data.splits["val"])) == stay and len(data.splits["train"]) == 1 + images - stay
    assert "half of them: there are fewer than 2,000" in data.notes[0]


def test_vqa_trainval_refusals(tmp_path):
    trainval_world(tmp_path, 4)
    with pytest.raises(InputError, match=r"vqa_split 'train' is not known \(did you mean 'trainval'"):
        load("vqa", tmp_path, vqa_split="train")
    questions, annotations = vqa_rows("train", 1)
    write_vqa(tmp_path, "train", [{**questions[0], "question_id": 1000}], [{**annotations[0], "question_id": 1000}])
    refused("vqa", tmp_path, f"{vqa.questions_file('val')}#1000", "appears twice", min_answer_count=1, vqa_split="trainval")
    for name in (vqa.questions_file("val"), vqa.annotations_file("val")):
        (tmp_path / name).unlink()
    with pytest.raises(InputError, match=r"trainval needs train and val: v2_OpenEnded_mscoco_val2014_questions.json is missing"):
        load("vqa", tmp_path, vqa_split="trainval")


@pytest.mark.parametrize("folder", ["flickr30k-images", "images", ""])
def test_snli_ve(tmp_path, folder):
    write_lines(tmp_path / "snli_ve_train.jsonl", [snli_row(1), snli_row(2, "-"), snli_row(3, "contradiction")])
    write_lines(tmp_path / "snli_ve_dev.jsonl", [snli_row(4, "neutral", "Flikr30kID", ".jpg")])
    picture(tmp_path / folder / "1.jpg")
    data = load("snli_ve", tmp_path)
    assert [record.label for record in data.splits["train"]] == [1, 0] and data.splits["val"][0].label == 2
    prefix = f"{folder}/" if folder else ""
    assert data.splits["train"][0].images == [f"{prefix}1.jpg"] and data.splits["val"][0].images == [f"{prefix}4.jpg"]
    assert data.splits["train"][0].text == ["An", "animal", "moves", "."]
    assert data.splits["train"][0].meta == {"premise": "A dog runs."}
    assert data.notes == ['train: 1 pairs without an agreed label ("-") left out']


def test_snli_ve_single_file_is_test(tmp_path):
    write_lines(tmp_path / "sample_data.jsonl", [snli_row(1)])
    data = load("snli_ve", tmp_path)
    assert set(data.splits) == {"test"} and "read as test" in data.notes[0]
    write_lines(tmp_path / "other_data.jsonl", [snli_row(1)])
    with pytest.raises(InputError, match=r"does not look like SNLI-VE: found other_data.jsonl, sample_data.jsonl"):
        load("snli_ve", tmp_path)


@pytest.mark.parametrize("folder", ["", "nlvr2/data", "data"])
def test_nlvr2(tmp_path, folder):
    write_lines(tmp_path / folder / "train.json", [nlvr2_row("train-10-0-1", directory=7)])
    write_lines(tmp_path / folder / "dev.json", [nlvr2_row("dev-850-2-0", "False"), nlvr2_row("dev-850-3-0")])
    picture(tmp_path / "dev" / "dev-850-2-img0.png")
    data = load("nlvr2", tmp_path)
    assert data.labels == ["False", "True"]
    assert data.splits["train"][0].images == [f"images/train/7/train-10-0-img{side}.png" for side in (0, 1)]
    record = data.splits["val"][0]
    assert record.images == ["dev/dev-850-2-img0.png", "dev/dev-850-2-img1.png"] and record.label == 0
    assert record.id == "dev-850-2-0" and record.type == "dog"
    assert record.meta == {"set": "850", "pair": "2", "sentence": "0"}


@pytest.mark.parametrize("folder", ["", "nlvr2/data", "data"])
@pytest.mark.parametrize("apart", [True, False])
def test_nlvr2_subsets(tmp_path, folder, apart):
    base = tmp_path / folder
    for official in ("dev", "test1"):
        rows = [nlvr2_row(f"{official}-850-{pair}-0") for pair in range(3)]
        write_lines(base / f"{official}.json", rows)
        for subset, part in (("balanced", rows[:2]), ("unbalanced", rows[1:])):
            write_lines((base / subset if apart else base) / f"{subset}_{official}.json", part)
    data = load("nlvr2", tmp_path)
    wanted = {split: 2 if "-" in split else 3 for split in ALL_SPLITS if split not in ("train", "test-dev")}
    assert {split: len(records) for split, records in data.splits.items()} == wanted
    assert data.splits["val-unbalanced"] == data.splits["val"][1:]
    assert data.splits["test-balanced"][0].images[0] == "images/test1/test1-850-0-img0.png"
    assert set(load("nlvr2", tmp_path, splits=("test-balanced",)).splits) == {"test-balanced"}
    path = write_lines((base / "balanced" if apart else base) / "balanced_dev.json", [nlvr2_row("dev-850-0-0")] * 2)
    refused("nlvr2", tmp_path, f"{path.relative_to(tmp_path)}:2", "identifier 'dev-850-0-0' appears twice")
    write_lines(path, [nlvr2_row("test1-850-0-0")])
    refused("nlvr2", tmp_path, f"{path.relative_to(tmp_path)}:1", "is not of balanced_dev.json")


def test_nlvr2_subset_beside_the_whole_elsewhere(tmp_path):
    write_lines(tmp_path / "balanced_dev.json", [nlvr2_row("dev-850-0-0")])
    assert set(load("nlvr2", tmp_path).splits) == {"val-balanced"}
    write_lines(tmp_path / "nlvr2/data/dev.json", [nlvr2_row("dev-850-0-0")])
    assert set(load("nlvr2", tmp_path).splits) == {"val"}


def test_nlvr_holds_directories_out_of_dev(tmp_path):
    nlvr_world(tmp_path)
    data = load("nlvr", tmp_path)
    assert set(data.splits) == {"val"} and len(data.splits["val"]) == 12 and "no train split" in data.notes[0]
    data = load("nlvr", tmp_path, val_directories=("1",))
    assert [len(data.splits[split]) for split in ("train", "val")] == [6, 6]
    record = data.splits["val"][2]
    assert record.id == "dev-1-0-2" and record.images == ["dev/images/1/dev-1-0-2.png"] and record.label == 1
    assert record.meta == {"identifier": "1-0", "directory": "1"} and len(data.where["val"]) == 6
    assert any("dev is read as train" in note for note in data.notes)


def test_nlvr_holds_directories_out_of_train(tmp_path):
    nlvr_world(tmp_path, "train", ("0", "1", "2"))
    nlvr_world(tmp_path, "dev")
    data = load("nlvr", tmp_path, val_directories=("2",))
    assert {split: len(records) for split, records in data.splits.items()} == {"train": 12, "val": 6, "test": 12}
    assert data.splits["val"][0].id.startswith("train-") and data.splits["test"][0].id.startswith("dev-")


@pytest.mark.parametrize(("directories", "reason"), [(("9",), "has no directory 9"), (("0", "1"), "nothing is left")])
def test_nlvr_directories_must_make_sense(tmp_path, directories, reason):
    nlvr_world(tmp_path)
    with pytest.raises(InputError, match=reason):
        load("nlvr", tmp_path, val_directories=directories)


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
    data = load("jsonl", tmp_path, min_answer_count=1)
    assert data.task == task and data.labels == labels
    assert data.splits["train"][0].id == "train-1"


def test_jsonl_labels(tmp_path):
    write_lines(tmp_path / "train.jsonl", [line(label=label) for label in (10, 2, 2)])
    # Whole numbers in their own order.
    assert load("jsonl", tmp_path).labels == ["2", "10"]
    data = load("jsonl", tmp_path, labels=("10", "2", "7"))
    assert data.labels == ["10", "2", "7"] and [record.label for record in data.splits["train"]] == [0, 1, 1]
    write_lines(tmp_path / "test.jsonl", [line(type="easy", colour="red")])
    data = load("jsonl", tmp_path)
    assert data.splits["test"][0].label is None and data.splits["test"][0].type == "easy"
    assert data.notes == ["keys not read: colour (1 lines)"]


def test_jsonl_single_answer_stands_for_ten(tmp_path):
    write_lines(tmp_path / "train.jsonl", [line(answer="two"), line(answers=["red"]), line(answers=["a", "b"])])
    data = load("jsonl", tmp_path, min_answer_count=1)
    assert [record.answers for record in data.splits["train"]] == [["two"] * 10, ["red"] * 10, ["a", "b"]]
    assert data.vocabulary.names == ["2", "red", ""] and "fewer than 4 answers" in data.notes[0]


def test_jsonl_single_file(tmp_path):
    path = write_lines(tmp_path / "mine.jsonl", [line(label="b"), line(label="a")])
    data = load("jsonl", path)
    assert set(data.splits) == {"test"} and data.labels == ["a", "b"] and data.root == tmp_path
    assert set(load("jsonl", write_lines(tmp_path / "val.jsonl", [line()])).splits) == {"val"}


def test_jsonl_forced_task(tmp_path):
    write_lines(tmp_path / "train.jsonl", [line()])
    assert load("jsonl", tmp_path, task="caption").task == "caption"
    with pytest.raises(InputError, match=r"train.jsonl:1: has 1 image, the task nlvr2 has 2"):
        load("jsonl", tmp_path, task="nlvr2")
    with pytest.raises(InputError, match=r"not known.*did you mean 'caption'"):
        load("jsonl", tmp_path, task="captions")


@pytest.mark.parametrize("encode", [
    lambda text: b"\xef\xbb\xbf" + text.encode(),
    lambda text: text.replace("\n", "\r\n").encode(),
    lambda text: text.rstrip("\n").encode(),
    lambda text: ("\n\n" + text + "\n  \n").encode(),
])  # fmt: skip
def test_byte_order_mark_line_ends_and_blank_lines_are_read(tmp_path, encode):
    text = "".join(json.dumps(line(label="ä", id=str(i)), ensure_ascii=False) + "\n" for i in range(2))
    (tmp_path / "train.jsonl").write_bytes(encode(text))
    assert [record.id for record in load("jsonl", tmp_path).splits["train"]] == ["0", "1"]


def test_line_separators_inside_strings(tmp_path):
    rows = [json.dumps(line(text=f"one{mark}two", label="x"), ensure_ascii=False) for mark in "\u2028\u2029\x85"]
    write_lines(tmp_path / "train.jsonl", rows)
    assert [record.text for record in load("jsonl", tmp_path).splits["train"]] == [["one", "two"]] * 3


def karpathy_row(number, split, **fields):
    sentences = [{"raw": f"Dog {k} runs.", "sentid": 5 * number + k} for k in range(2)]
    return {"filename": f"{number}.jpg", "imgid": number, "split": split, "sentences": sentences} | fields


@pytest.mark.parametrize("place", ["", "karpathy", "annotations"])
def test_flickr30k(tmp_path, place):
    rows = [karpathy_row(1, "train"), karpathy_row(2, "val"), karpathy_row(3, "test")]
    write_lines(tmp_path / place / "dataset_flickr30k.json", [json.dumps({"images": rows})])
    picture(tmp_path / "flickr30k-images" / "1.jpg")
    data = load("flickr30k", tmp_path)
    assert data.task == "caption" and {split: len(records) for split, records in data.splits.items()} == dict.fromkeys(SPLITS, 2)
    record = data.splits["train"][1]
    assert record.id == "6" and record.text == ["Dog", "1", "runs", "."] and record.meta == {"imgid": 1}
    assert record.images == ["flickr30k-images/1.jpg"] and data.where["train"][0].endswith("flickr30k.json#1.jpg")
    assert set(load("flickr30k", tmp_path, splits=("test",)).splits) == {"test"}


def test_coco_restval_is_train(tmp_path):
    rows = [karpathy_row(i, split, filepath=f"{year}2014") for i, (split, year) in enumerate(
        [("train", "train"), ("restval", "val"), ("val", "val"), ("test", "val")])]  # fmt: skip
    write_lines(tmp_path / "dataset_coco.json", [json.dumps({"images": rows})])
    data = load("coco", tmp_path)
    assert [record.images[0] for record in data.splits["train"]] == ["train2014/0.jpg"] * 2 + ["val2014/1.jpg"] * 2
    assert {split: len(records) for split, records in data.splits.items()} == {"train": 4, "val": 2, "test": 2}


KARPATHY = {
    "unknown split": ({"split": "dev"}, r"`split` 'dev' is not a label"),
    "no caption": ({"sentences": []}, "has no caption"),
    "empty caption": ({"sentences": [{"raw": " ", "sentid": 9}]}, "`raw` is empty"),
    "caption is a text": ({"sentences": ["A dog."]}, "`sentences` holds a text"),
    "sentid is missing": ({"sentences": [{"raw": "A dog."}]}, "`sentid` is missing"),
    "sentid twice": ({"sentences": [{"raw": "A dog.", "sentid": 0}]}, "sentid 0 appears twice"),
    "image twice": ({"filename": "0.jpg"}, "filename '0.jpg' appears twice"),
    "imgid is a text": ({"imgid": "1"}, "`imgid` must be a whole number"),
}


@pytest.mark.parametrize("name", KARPATHY)
def test_faulty_karpathy(tmp_path, name):
    fields, reason = KARPATHY[name]
    rows = [karpathy_row(0, "train"), karpathy_row(1, "train") | fields]
    write_lines(tmp_path / "dataset_coco.json", [json.dumps({"images": rows})])
    # What is judged before the file's name is known by its place.
    named = not fields.keys() & {"split", "imgid"} and fields.get("sentences") != []
    place = f"#{rows[1]['filename']}" if named else ":images[1]"
    refused("coco", tmp_path, f"dataset_coco.json{place}", reason)


def test_numbers_stand_for_names_and_answers_in_every_source_that_has_them(tmp_path):
    """As exports from tables write them."""
    questions, annotations = vqa_rows("train")
    for annotation in annotations:
        for entry in annotation["answers"]:
            entry["answer"] = 2
        annotation["multiple_choice_answer"] = 2
    write_vqa(tmp_path / "vqa", "train", questions, annotations)
    data = load("vqa", tmp_path / "vqa", min_answer_count=1)
    assert data.vocabulary.names == ["2"] and all(record.answers == ["2"] * 10 for record in data.splits["train"])
