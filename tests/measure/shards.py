"""Packing and reading shards against single files, on generated images: python tests/measure/shards.py [FOLDER]

20,000 JPEG files of about 20 KB, one caption each, 1,000 samples a tar. Files lie in the page cache, so what is measured is the
work for each image and not the disk; "cold" drops their contents from it first, and leaves folders and inodes.
"""

from __future__ import annotations

import io
import json
import random
import time
from pathlib import Path

import numpy as np
from measuring import drop, start
from PIL import Image

from vldistill.data.artifact import open_data
from vldistill.data.images import ImageFolder
from vldistill.data.prepare import prepare

COUNT, SIDE, QUALITY, SAMPLES = 20_000, 224, 60, 1_000


def write_raw(folder: Path) -> None:
    """Different pictures would take minutes to draw: one is drawn, and its files differ in what follows the end of the JPEG."""
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE // 2, SIDE // 2, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((SIDE, SIDE)).save(buffer, "JPEG", quality=QUALITY)
    data = buffer.getvalue()
    with (folder / "train.jsonl").open("w") as file:
        for i in range(COUNT):
            name = f"{i // 1000:03d}/{i:06d}.jpg"
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data + f"{i:06d}".encode())
            file.write(json.dumps({"id": str(i), "image": name, "text": "two dogs run over the grass", "label": "yes"}) + "\n")
    print(f"{COUNT:,} images of {len(data) + 6:,} bytes")


def told(what: str, seconds: float, count: int, size: int) -> None:
    print(f"{what:36}{seconds:8.2f} s{count / seconds:11,.0f} images/s{size / seconds / 1e6:9,.0f} MB/s", flush=True)


def main(folder: Path) -> None:
    raw, packed = folder / "raw", folder / "packed"
    raw.mkdir()
    write_raw(raw)
    size = sum(path.stat().st_size for path in raw.rglob("*.jpg"))
    started = time.perf_counter()
    prepare("jsonl", raw, packed)
    told("prepare, which decodes each image", time.perf_counter() - started, COUNT, size)
    started = time.perf_counter()
    prepare("jsonl", raw, packed, shards=SAMPLES)
    told("packing, added to it", time.perf_counter() - started, COUNT, size)
    files, shards = ImageFolder(raw), open_data(packed).images
    tars = sorted((packed / "shards").glob("*.tar"))
    paths = [record.images[0] for record in open_data(packed).records("train")]
    random.Random(0).shuffle(paths)
    for state in ("warm", "cold"):
        for name, images in (("files", files), ("shards", shards)):
            if state == "cold":
                drop([raw / path for path in paths] if images is files else tars)
            started = time.perf_counter()
            for path in paths:
                images.read(path)
            told(f"random reads from {name}, {state}", time.perf_counter() - started, COUNT, size)
    for name, images in (("files", files), ("shards", shards)):
        started = time.perf_counter()
        for path in paths[:2000]:
            images.open(path)
        told(f"random reads and decoding, {name}", time.perf_counter() - started, 2000, size // COUNT * 2000)


if __name__ == "__main__":
    start(main)
