"""Small data sets of the user's own, for the tests of shards: images of several formats, several records an image, pairs."""

import json
from pathlib import Path

from raw_worlds import noise, write_lines

# Files below images/, and the endings that they have in a tar. The last is a JPEG by its content.
ENDINGS = {
    "a.png": "png",
    "b.jpg": "jpg",
    "c.webp": "webp",
    "d.bmp": "bmp",
    "sub/e.png": "png",
    "sub/F.JPG": "jpg",
    "g": "jpg",
    "h.v2.jpeg": "jpeg",
    "ü.png": "png",
    "j.gif": "jpg",
}
NAMES = tuple(ENDINGS)
FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "bmp": "BMP", "jpeg": "JPEG"}


def write_images(root: Path, names=NAMES) -> None:
    """Noise of a size and a seed of its own for each name."""
    for i, name in enumerate(names):
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise((10 + i, 8), seed=i).save(path, FORMATS[ENDINGS[name]])


def single_world(root: Path) -> list[dict]:
    """25 training lines of 10 images, two or three an image and apart from each other, and 4 validation lines of two of them;
    returns the training rows."""
    write_images(root)
    rows = [
        {"id": f"t{i}", "image": f"images/{NAMES[i % 10]}", "text": f"Is it number {i}?", "label": ["no", "yes"][i % 2]}
        for i in range(25)
    ]
    write_lines(root / "train.jsonl", rows)
    write_lines(
        root / "val.jsonl",
        [{"id": f"v{i}", "image": f"images/{NAMES[i % 2]}", "text": "Is it?", "label": "yes"} for i in range(4)],
    )
    return rows


def pair_world(root: Path) -> list[list[str]]:
    """12 lines of 6 pairs, of which two differ in their order and one is of one image twice; returns the pairs."""
    write_images(root, NAMES[:4])
    a, b, c, d = (f"images/{name}" for name in NAMES[:4])
    pairs = [[a, b], [b, a], [a, c], [c, d], [d, d], [b, d]]
    rows = [{"id": str(i), "images": pairs[i % 6], "text": "Left is newer.", "label": ["no", "yes"][i // 6]} for i in range(12)]
    write_lines(root / "train.jsonl", rows)
    return pairs


def lines(folder: Path, split: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
