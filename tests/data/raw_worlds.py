"""Small raw data sets in their official layouts, written for tests."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from vldistill.data.sources.table import SourceData


class Collected(SourceData):
    """What a source adds, held. splits: the records of each; where: beside them, the place of each. regions: of images."""

    def __init__(self, task: str = ""):
        super().__init__(self._keep, lambda row: self.regions.append(row), task)
        self.splits, self.where, self.regions = {}, {}, []

    def _keep(self, split, record, where):
        self.splits.setdefault(split, []).append(record)
        self.where.setdefault(split, []).append(where)


def picture(path: Path, size=(8, 6), color=(200, 30, 30), mode="RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)
    return path


def noise(size=(64, 48), seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def bomb(path, side=13_000):
    """A small file whose header claims side x side pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1000)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


def write_lines(path: Path, rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def jsonl_world(root: Path) -> list[dict]:
    """Four training and two validation lines, classification; returns the training rows."""
    for name in ("a", "b"):
        picture(root / "images" / f"{name}.png")
    rows = [
        {
            "id": f"t{i}",
            "image": f"images/{'ab'[i % 2]}.png",
            "text": f"It is number {i}.",
            "label": ["no", "yes"][i % 2],
        }
        for i in range(4)
    ]
    write_lines(root / "train.jsonl", rows)
    write_lines(root / "val.jsonl", [{"image": "images/a.png", "text": "Is it?", "label": "yes", "type": "easy"}] * 2)
    return rows


def vqa_rows(split: str, count: int = 4) -> tuple[list[dict], list[dict]]:
    questions = [{"image_id": i // 2, "question": "Is the man's bike red?", "question_id": i} for i in range(count)]
    annotations = [
        {
            "image_id": i // 2, "question_id": i, "question_type": "is the", "answer_type": "yes/no",
            "multiple_choice_answer": "yes" if i % 2 else "The no",
            "answers": [{"answer": "yes" if i % 2 else "The no", "answer_id": k} for k in range(10)],
        }
        for i in range(count)
    ]  # fmt: skip
    return questions, annotations


def write_vqa(root: Path, split: str, questions, annotations) -> None:
    part = {"train": "train2014", "val": "val2014", "test": "test2015"}[split]
    root.mkdir(parents=True, exist_ok=True)
    (root / f"v2_OpenEnded_mscoco_{part}_questions.json").write_text(json.dumps({"questions": questions}))
    if annotations is not None:
        (root / f"v2_mscoco_{part}_annotations.json").write_text(json.dumps({"annotations": annotations}))
    for number in {row["image_id"] for row in questions if isinstance(row.get("image_id"), int)}:
        picture(root / part / f"COCO_{part}_{number:012d}.jpg")


def vqa_world(root: Path) -> None:
    write_vqa(root, "train", *vqa_rows("train"))
    write_vqa(root, "val", *vqa_rows("val", 2))


def snli_row(number: int, label: str = "entailment", key: str = "Flickr30K_ID", suffix: str = "") -> dict:
    return {
        "pairID": f"{number}.jpg#0r1e", key: f"{number}{suffix}", "gold_label": label,
        "sentence1": "A dog runs.", "sentence2": "An animal moves.",
    }  # fmt: skip


def nlvr2_row(identifier: str, label: str = "True", **more) -> dict:
    return {
        "identifier": identifier,
        "sentence": "The left image shows a dog.",
        "label": label,
        "synset": "dog",
        **more,
    }


def nlvr_world(root: Path, official: str = "dev", directories=("0", "1")) -> None:
    rows = []
    for number, directory in enumerate(directories):
        identifier = f"{number}-0"
        rows.append({"sentence": "There is a box.", "identifier": identifier, "directory": directory, "label": "true"})
        for k in range(6):
            picture(root / official / "images" / directory / f"{official}-{identifier}-{k}.png")
    write_lines(root / official / f"{official}.json", rows)
