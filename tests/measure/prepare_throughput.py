"""Lines a second and peak memory of `vldistill prepare` on generated data: python tests/measure/prepare_throughput.py [FOLDER]

500,000 SNLI-VE lines (31,783 images) and 200,000 VCR lines (80,000 images with metadata), of the real data's lengths. Images
are not made: `--images none`, so that what is measured is reading, checking and writing.
"""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

from measuring import start

WORDS = (
    "the",
    "a",
    "man",
    "woman",
    "dog",
    "is",
    "in",
    "on",
    "at",
    "his",
    "her",
    "looking",
    "running",
    "sitting",
    "table",
    "red",
    "street",
    "two",
    "people",
    "near",
    "because",
    "person",
)
SNLI_VE_LINES, SNLI_VE_IMAGES = 500_000, 31_783
VCR_LINES, VCR_IMAGES = 200_000, 80_000


def sentence(rng: random.Random, words: int) -> list[str]:
    return [*rng.choices(WORDS, k=words), "."]


def write_snli_ve(folder: Path, rng: random.Random) -> int:
    labels = ("contradiction", "entailment", "neutral")
    with (folder / "snli_ve_train.jsonl").open("w") as file:
        for i in range(SNLI_VE_LINES):
            image = str(1_000_000_000 + i % SNLI_VE_IMAGES)
            row = {
                "gold_label": labels[i % 3],
                "sentence1": " ".join(sentence(rng, 13)),
                "sentence2": " ".join(sentence(rng, 7)),
                "pairID": f"{image}.jpg#{i}",
                "captionID": f"{image}.jpg#0",
                "Flickr30K_ID": image,
            }
            file.write(json.dumps(row) + "\n")
    return SNLI_VE_LINES


def tagged(rng: random.Random, words: int) -> list:
    found: list = sentence(rng, words)
    found[0] = [rng.randrange(3)]
    return found


def write_vcr(folder: Path, rng: random.Random) -> int:
    objects = ["person", "person", "car", "chair"]
    metadata = {
        "boxes": [[1.5, 2.5, 30.0, 40.0, 0.9]] * 4,
        "segms": [[[[1.0, 2.0], [3.0, 4.0], [5.0, 1.0]]]] * 4,
        "names": objects,
        "width": 640,
        "height": 360,
    }
    text = json.dumps(metadata)
    for i in range(VCR_IMAGES):
        place = folder / "vcr1images" / f"movie_{i % 1000}" / f"clip_{i}.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    with (folder / "train.jsonl").open("w") as file:
        for i in range(VCR_LINES):
            image = i * VCR_IMAGES // VCR_LINES
            name = f"movie_{image % 1000}/clip_{image}"
            row = {
                "movie": f"movie_{image % 1000}",
                "objects": objects,
                "img_fn": f"{name}.jpg",
                "metadata_fn": f"{name}.json",
                "question": tagged(rng, 7),
                "answer_choices": [tagged(rng, 8) for _ in range(4)],
                "rationale_choices": [tagged(rng, 16) for _ in range(4)],
                "answer_label": i % 4,
                "rationale_label": (i + 1) % 4,
                "annot_id": f"train-{i}",
                "img_id": f"train-{image}",
                "question_orig": "",
                "answer_orig": "",
            }
            file.write(json.dumps(row) + "\n")
    return VCR_LINES


def main(folder: Path) -> None:
    print(f"{'data set':10}{'lines':>10}{'seconds':>9}{'lines/s':>9}{'peak MiB':>10}")
    for name, write in (("snli-ve", write_snli_ve), ("vcr", write_vcr)):
        raw = folder / name
        raw.mkdir()
        lines = write(raw, random.Random(0))
        command = ["vldistill", "prepare", name, "--raw", str(raw), "--out", str(folder / f"{name}-artifact"), "--images", "none"]
        started = time.perf_counter()
        child = os.posix_spawnp(
            command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
        )
        _, status, used = os.wait4(child, 0)
        seconds = time.perf_counter() - started
        if status:
            raise SystemExit(f"{' '.join(command)}: exit {os.waitstatus_to_exitcode(status)}")
        print(f"{name:10}{lines:10,}{seconds:9.1f}{lines / seconds:9,.0f}{used.ru_maxrss / 1024:10,.0f}")


if __name__ == "__main__":
    start(main)
