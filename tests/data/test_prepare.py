"""`prepare` end to end: what the artifact holds, limits, refusals, and the printed table."""

import contextlib
import hashlib
import io
import json

import pytest
from raw_worlds import jsonl_world, nlvr2_row, nlvr_world, vqa_world, write_lines

from vldistill.artifacts import file_digest, read_manifest, write_manifest
from vldistill.commands.prepare.tables import render_counts
from vldistill.data.prepare import prepare
from vldistill.data.records import read_records
from vldistill.data.sources.jsonl import Jsonl
from vldistill.data.sources.nlvr import Nlvr
from vldistill.data.sources.vqa import Vqa
from vldistill.errors import InputError
from vldistill.terminal import show

ONE = Vqa(min_answer_count=1)


def printed(manifest) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        show(render_counts(manifest))
    return out.getvalue()


def test_artifact_of_labels(tmp_path):
    jsonl_world(tmp_path / "raw")
    manifest = prepare("jsonl", tmp_path / "raw", tmp_path / "out")
    assert manifest == read_manifest(tmp_path / "out", "prepare", make_it="")
    assert manifest["task"] == "classification" and manifest["labels"] == ["no", "yes"]
    assert manifest["raw_root"] == str((tmp_path / "raw").resolve())
    assert manifest["counts"] == {
        "train": {"records": 4, "images": 2, "labelled": True, "by_type": {}, "by_label": {"no": 2, "yes": 2}},
        "val": {"records": 2, "images": 1, "labelled": True, "by_type": {"easy": 2}, "by_label": {"yes": 2}},
    }
    assert manifest["vocabulary"] is None and not manifest["partial"] and manifest["images"] == "decoded"
    assert set(manifest["files"]) == {"train.jsonl", "val.jsonl", "images.jsonl"}
    assert all(file_digest(tmp_path / "out" / name) == digest for name, digest in manifest["files"].items())
    records = read_records(tmp_path / "out" / "train.jsonl")
    assert records[1].text == ["It", "is", "number", "1", "."] and records[1].label == 1
    image = json.loads((tmp_path / "out" / "images.jsonl").read_text().splitlines()[0])
    sha1 = hashlib.sha1((tmp_path / "raw" / "images" / "a.png").read_bytes()).hexdigest()
    assert image == {"path": "images/a.png", "sha1": sha1, "width": 8, "height": 6}


def test_artifact_of_answers(tmp_path):
    vqa_world(tmp_path / "raw")
    manifest = prepare("vqa", tmp_path / "raw", tmp_path / "out", options=Vqa(min_answer_count=3))
    assert json.loads((tmp_path / "out" / "answers.json").read_text()) == {"min_count": 3, "answers": ["no", "yes"]}
    assert manifest["vocabulary"] == 2 and manifest["unanswerable"] == {"train": 0, "val": 0}
    assert manifest["counts"]["train"]["top_answers"] == {"no": 2, "yes": 2} and manifest["labels"] is None
    assert "most frequent answers" in printed(manifest)


def test_fingerprint_follows_the_content(tmp_path):
    jsonl_world(tmp_path / "raw")
    first = prepare("jsonl", tmp_path / "raw", tmp_path / "one")["fingerprint"]
    assert prepare("jsonl", tmp_path / "raw", tmp_path / "two")["fingerprint"] == first
    assert prepare("jsonl", tmp_path / "raw", tmp_path / "3", options=Jsonl(labels=("yes", "no")))["fingerprint"] != first
    (tmp_path / "raw" / "images" / "a.png").write_bytes((tmp_path / "raw" / "images" / "a.png").read_bytes() + b"\0")
    assert prepare("jsonl", tmp_path / "raw", tmp_path / "four")["fingerprint"] != first


def test_limit_and_partial(tmp_path):
    vqa_world(tmp_path / "raw")
    manifest = prepare("vqa", tmp_path / "raw", tmp_path / "out", options=ONE, limit=1)
    assert manifest["partial"] and manifest["counts"]["train"]["records"] == 1 and manifest["vocabulary"] == 2
    assert "partial" in printed(manifest)


def test_dry_run_writes_nothing_but_checks(tmp_path):
    jsonl_world(tmp_path / "raw")
    manifest = prepare("jsonl", tmp_path / "raw", tmp_path / "out", dry_run=True)
    assert manifest["counts"]["train"]["records"] == 4 and not manifest["complete"]
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]
    (tmp_path / "raw" / "images" / "a.png").unlink()
    with pytest.raises(InputError, match="no such file"):
        prepare("jsonl", tmp_path / "raw", tmp_path / "out", dry_run=True)


def test_unchecked_images(tmp_path):
    write_lines(tmp_path / "raw" / "dev.json", [nlvr2_row("dev-1-0-0")])
    manifest = prepare("nlvr2", tmp_path / "raw", tmp_path / "out", check_images=False)
    assert manifest["images"] == "unchecked" and set(manifest["files"]) == {"val.jsonl"}
    assert "unchecked" in printed(manifest)
    write_lines(tmp_path / "esc" / "test.jsonl", [{"image": "../x.png", "text": "a"}])
    with pytest.raises(InputError, match="leaves the raw folder"):
        prepare("jsonl", tmp_path / "esc", tmp_path / "out2", check_images=False)


@pytest.mark.parametrize("name", ["train.jsonl", "images.jsonl", "shards/index.npy"])
def test_an_artifact_that_lost_a_file_is_not_up_to_date(tmp_path, name):
    jsonl_world(tmp_path / "raw")
    prepare("jsonl", tmp_path / "raw", tmp_path / "out", shards=2)
    (tmp_path / "out" / name).unlink()
    with pytest.raises(InputError, match=f"out/{name}: is named in the manifest but missing .*make it again"):
        prepare("jsonl", tmp_path / "raw", tmp_path / "out")
    prepare("jsonl", tmp_path / "raw", tmp_path / "out", overwrite=True)
    assert prepare("jsonl", tmp_path / "raw", tmp_path / "out")["unchanged"]


def test_an_artifact_whose_manifest_has_the_options_of_all_sources_is_kept(tmp_path):
    """As an earlier version wrote it."""
    jsonl_world(tmp_path / "raw")
    manifest, old = prepare("jsonl", tmp_path / "raw", tmp_path / "out"), {"vqa_split": "official", "val_directories": []}
    assert not manifest["options"].keys() & old.keys()
    write_manifest(tmp_path / "out", {**manifest, "options": manifest["options"] | old})
    assert prepare("jsonl", tmp_path / "raw", tmp_path / "out")["unchanged"]
    with pytest.raises(InputError, match="already exists"):
        prepare("jsonl", tmp_path / "raw", tmp_path / "out", options=Jsonl(labels=("yes", "no")))


def test_overwrite(tmp_path):
    jsonl_world(tmp_path / "raw")
    prepare("jsonl", tmp_path / "raw", tmp_path / "out")
    with pytest.raises(InputError, match="already exists"):
        prepare("jsonl", tmp_path / "raw", tmp_path / "out", decode_images=False)
    prepare("jsonl", tmp_path / "raw", tmp_path / "out", overwrite=True, decode_images=False)
    assert read_manifest(tmp_path / "out", "prepare", make_it="")["images"] == "headers"
    with pytest.raises(InputError, match="is what the command reads"):
        prepare("jsonl", tmp_path / "raw", tmp_path / "raw", overwrite=True)


@pytest.mark.parametrize(
    ("dataset", "arguments", "reason"),
    [
        ("snli-v", {}, "did you mean 'snli_ve'"),
        ("vqa", {"limit": 0}, "limit is 0"),
        ("vqa", {"options": Vqa(min_answer_count=0)}, "give 1 or more"),
        ("vqa", {"options": Vqa(vqa_split="half")}, "vqa_split 'half' is not known"),
        ("vqa", {"options": Jsonl(labels=("a",))}, "Jsonl are not the options of VQA v2"),
        ("jsonl", {"options": Jsonl(splits=("dev",))}, "split 'dev' is not known"),
        ("jsonl", {"options": Jsonl(labels=("a", "a"))}, "appears twice"),
    ],
)
def test_arguments_are_checked_first(tmp_path, dataset, arguments, reason):
    with pytest.raises(InputError, match=reason):
        prepare(dataset, tmp_path, tmp_path / "out", **arguments)


@pytest.mark.parametrize(("dataset", "expected"), [
    ("vqa", "v2_OpenEnded_mscoco_train2014_questions.json"), ("snli-ve", "snli_ve_train.jsonl"), ("nlvr2", "dev.json"),
    ("nlvr", "dev/dev.json"), ("jsonl", "train.jsonl"),
])  # fmt: skip
def test_a_folder_that_is_not_the_data_set(tmp_path, dataset, expected):
    raw = tmp_path / "raw"
    (raw / "sub").mkdir(parents=True)
    (raw / "readme.txt").touch()
    with pytest.raises(InputError) as caught:
        prepare(dataset, raw, tmp_path / "out")
    message = str(caught.value)
    assert message.startswith(f"{raw}: does not look like") and "found readme.txt, sub/" in message
    assert expected in message
    with pytest.raises(InputError, match="no such folder"):
        prepare(dataset, tmp_path / "none", tmp_path / "out")


def test_held_out_directories_and_missing_images(tmp_path):
    nlvr_world(tmp_path / "raw")
    manifest = prepare("nlvr", tmp_path / "raw", tmp_path / "out", options=Nlvr(val_directories=("1",)))
    assert manifest["counts"]["train"]["records"] == manifest["counts"]["val"]["records"] == 6
    (tmp_path / "raw/dev/images/1/dev-1-0-4.png").unlink()
    with pytest.raises(InputError, match=r"dev.json:2: image dev/images/1/dev-1-0-4.png: no such file"):
        prepare("nlvr", tmp_path / "raw", tmp_path / "out2")


def test_table_stays_small_and_takes_any_name(tmp_path):
    counts = {"records": 9000, "images": 1, "by_type": {f"type {i}" * 9: 3 for i in range(500)},
              "by_label": {f"[red]{i}": 3 for i in range(3129)}}  # fmt: skip
    manifest = {
        "dataset": "jsonl", "task": "classification", "labels": list(counts["by_label"]), "vocabulary": None,
        "partial": False, "unanswerable": None, "images": "decoded",
        "counts": dict.fromkeys(("train", "val", "test"), counts),
    }  # fmt: skip
    text = printed(manifest)
    assert len(text.splitlines()) < 40 and "3,119 others" in text and "[red]0" in text
