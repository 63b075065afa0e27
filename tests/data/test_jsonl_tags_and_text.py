"""A user's own tagged images and text alone: what is read, and what is refused in one line."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from vldistill.data.artifact import open_data
from vldistill.data.prepare import prepare
from vldistill.data.records import Record, record_of
from vldistill.data.sources.jsonl import Jsonl
from vldistill.errors import InputError


def world(folder, rows: list[dict], split: str = "train"):
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (20, 20), (200, 10, 10)).save(folder / "a.png")
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_tags_become_sorted_indices_of_the_label_names(tmp_path):
    raw = world(
        tmp_path / "raw",
        [
            {"image": "a.png", "tags": ["sky", "dog", "sky"]},
            {"image": "a.png", "tags": []},
            {"image": "a.png", "tags": ["grass"]},
        ],
    )
    manifest = prepare("jsonl", raw, tmp_path / "out")
    assert manifest["task"] == "tagging" and manifest["labels"] == ["dog", "grass", "sky"]
    assert manifest["counts"]["train"]["by_label"] == {"dog": 1, "grass": 1, "sky": 1}
    records = open_data(tmp_path / "out").records("train")
    assert [record.tags for record in records] == [[0, 2], [], [1]] and records[0].text == []


def test_text_alone_has_no_image(tmp_path):
    raw = world(tmp_path / "raw", [{"text": "a dog sleeps"}])
    prepare("jsonl", raw, tmp_path / "out", options=Jsonl(task="text"))
    [record] = open_data(tmp_path / "out").records("train")
    assert record.images == [] and record.text == ["a", "dog", "sleeps"]


def test_a_record_with_tags_survives_its_line():
    record = Record("1", "tagging", ["a.png"], [], tags=[3, 7])
    assert record_of(json.loads(record.to_json())) == record


TAGS = {"image": "a.png", "tags": ["dog"]}
FAULTS = {
    "tags and a label": ({**TAGS, "label": "dog"}, None, "has a label and tags"),
    "tags and a text": ({**TAGS, "text": "a dog"}, None, "has a text, the task tagging has none"),
    "a tag that is half a number": ({"image": "a.png", "tags": ["dog", 7.5]}, None, r"`tags\[1\]` must be a text"),
    "no list": ({"image": "a.png", "tags": "dog"}, None, "`tags` must be a list"),
    "no tags among tags": ({"image": "a.png"}, None, "`text` is missing"),
    "text among tags": ({"image": "a.png", "text": "a dog"}, None, "has a text, the task tagging has none"),
    "an image with text alone": ({"image": "a.png", "text": "a dog"}, "text", "has 1 image, the task text has none"),
    "no image with captions": ({"text": "a dog"}, "caption", "`image` is missing"),
}


@pytest.mark.parametrize("row, task, expected", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_with_its_line(row, task, expected, tmp_path):
    good = {None: TAGS, "text": {"text": "a cat"}, "caption": {"image": "a.png", "text": "a cat"}}[task]
    raw = world(tmp_path / "raw", [good, row])
    with pytest.raises(InputError, match=expected) as caught:
        prepare("jsonl", raw, tmp_path / "out", options=Jsonl(task=task))
    assert "train.jsonl:2" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_an_unknown_tag_of_a_later_split_is_a_fault(tmp_path):
    raw = world(tmp_path / "raw", [TAGS])
    world(tmp_path / "raw", [{"image": "a.png", "tags": ["dig"]}], "val")
    with pytest.raises(InputError, match=r"val.jsonl:1.*'dig' is not a label.*did you mean 'dog'"):
        prepare("jsonl", raw, tmp_path / "out")


def test_shards_of_text_alone_are_refused(tmp_path):
    raw = world(tmp_path / "raw", [{"text": "a dog sleeps"}])
    with pytest.raises(InputError, match="--shards packs images"):
        prepare("jsonl", raw, tmp_path / "out", options=Jsonl(task="text"), shards=10)
    assert not (tmp_path / "out").exists()
