"""Texts from a user's file to a run, in the words of the file; and artifacts of earlier versions, which have words alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from vldistill.artifacts import file_digest, read_manifest, write_manifest
from vldistill.data.records import read_records
from vldistill.data.sequences import sequences
from vldistill.data.wording import Phrase

TEXTS = [
    "क्या वर्ग लाल है",
    "re\u0301sume\u0301  of a man",
    "What time is it, 3:45 or 12:30?",
    "a man... walking",
    "run !!!",
    "ผู้ชายกำลังอ่าน",
    "می‌خواهم",
]


def raw(folder: Path, texts: list[str]) -> Path:
    folder.mkdir()
    Image.new("RGB", (32, 32), "red").save(folder / "a.png")
    rows = [{"image": "a.png", "text": text, "answers": [("yes", "no")[place % 2]]} for place, text in enumerate(texts)]
    for split in ("train", "val"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def as_earlier_versions_wrote_it(artifact: Path) -> None:
    """Records without their texts, sealed."""
    manifest = read_manifest(artifact, "prepare", make_it="")
    del manifest["written"]
    for split in manifest["counts"]:
        file = artifact / f"{split}.jsonl"
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            del row["written"]
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        manifest["files"][file.name] = file_digest(file)
    write_manifest(artifact, manifest)


def test_texts_stay_as_they_were_written_and_variants_too(well, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    well(
        "prepare",
        "jsonl",
        "--raw",
        raw(tmp_path / "raw", TEXTS),
        "--out",
        out,
        "--min-count",
        "1",
        "--task",
        "vqa",
        "--statements",
        "--domain-shift",
    )
    for split in ("train", "val-shift", "train-statements"):
        records = read_records(out / f"{split}.jsonl")
        assert len(records) == len(TEXTS)
        for record, text in zip(records, TEXTS, strict=True):
            [(part,)] = sequences(record)
            assert isinstance(part, Phrase) and len(part.spans()) == len(record.text)
            expected = text.replace("man", "person") if split == "val-shift" else text
            assert part.text == (f"{text} {record_answer(text)}" if split == "train-statements" else expected)


def record_answer(text: str) -> str:
    return ("yes", "no")[TEXTS.index(text) % 2]


def test_an_artifact_of_an_earlier_version_trains_as_it_did_and_prepare_tells_of_it(well, few, tmp_path):
    """The toy world's texts have one space between words, so that both ways of reading agree to the last bit."""
    losses = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        well("prepare", "toy", "--scale", "0.01", "--datasets", "nlvr2")
        artifact = next(path for path in (tmp_path / "artifacts/data").iterdir())
        for name in ("new", "old"):
            if name == "old":
                as_earlier_versions_wrote_it(artifact)
                assert all(record.written is None for record in read_records(artifact / "train.jsonl"))
            well(
                "finetune",
                "--recipe",
                "quickstart_teacher",
                "--name",
                name,
                *few,
                f"data.path={artifact}",
                "student.init=null",
                "student.sizes={layers: 2, width: 32, heads: 2}",
            )
            lines = (tmp_path / f"runs/quickstart_teacher/{name}/seed0/metrics.jsonl").read_text().splitlines()
            losses.append([row["loss"] for row in map(json.loads, lines) if "loss" in row])
        assert losses[0] == losses[1] and losses[0]
        raw_root = read_manifest(artifact, "prepare", make_it="")["raw_root"]
        told = well("prepare", "nlvr2", "--raw", raw_root, "--out", artifact).out
        assert "--overwrite keeps them as they are written" in told and "up to date" in told
        assert "--overwrite" not in well("prepare", "nlvr2", "--raw", raw_root, "--out", artifact, "--overwrite").out
        assert read_records(artifact / "train.jsonl")[0].written
        assert "--overwrite" not in well("prepare", "nlvr2", "--raw", raw_root, "--out", artifact).out
