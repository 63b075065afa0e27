"""Region feature files in their published layouts, written for tests."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

WIDTH, HEIGHT = 640, 480


@dataclass
class Image:
    """What a detector found: pixel boxes [N, 4], features [N, D], confidences [N] that fall, soft labels [N, 5]."""

    name: str
    boxes: np.ndarray
    features: np.ndarray
    confidence: np.ndarray
    soft_labels: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        return self.boxes / np.array([WIDTH, HEIGHT, WIDTH, HEIGHT])

    @property
    def norm_bb(self) -> np.ndarray:
        box = self.shares
        return np.column_stack([box, box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]])


def make(name: str, count: int = 12, width: int = 8, seed: int = 0) -> Image:
    rng = np.random.default_rng(seed + sum(name.encode()))
    start = rng.uniform(0, 200, (count, 2))
    boxes = np.column_stack([start, start + rng.uniform(1, 200, (count, 2))]).astype(np.float32)
    return Image(
        name,
        boxes,
        rng.standard_normal((count, width)).astype(np.float32),
        np.sort(rng.uniform(0.05, 0.95, count))[::-1].copy(),
        rng.uniform(0, 1, (count, 5)),
    )


def coded(values: np.ndarray, kind: str = "<f4") -> str:
    return base64.b64encode(values.astype(kind).tobytes()).decode()


def uniter_arrays(image: Image) -> dict[str, np.ndarray]:
    return {
        "features": image.features.astype(np.float16),
        "norm_bb": image.norm_bb.astype(np.float16),
        "conf": image.confidence[:, None].astype(np.float16),
        "soft_labels": image.soft_labels.astype(np.float16),
    }


def write_npz(folder: Path, images: list[Image]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        np.savez_compressed(folder / f"coco_train2014_{int(image.name):012d}.npz", **uniter_arrays(image))
    return folder


def packed_array(array: np.ndarray, *, old: bool = False) -> dict:
    """As msgpack-numpy writes an array: a map, with texts for keys in old databases and bytes in new ones."""
    table = {"nd": True, "type": array.dtype.str, "kind": "", "shape": list(array.shape), "data": array.tobytes()}
    return table if old else {key.encode(): value for key, value in table.items()}


def write_lmdb(
    folder: Path, images: list[Image], *, compressed: bool = False, old: bool = False, extra: dict | None = None
) -> Path:
    import lmdb
    import msgpack

    with lmdb.open(str(folder), map_size=1 << 26) as database, database.begin(write=True) as transaction:
        names = []
        for image in images:
            key = f"nlvr2_{image.name}.npz"
            names.append(key)
            if compressed:
                buffer = io.BytesIO()
                # An old writer passed the option on as an array.
                np.savez_compressed(buffer, **uniter_arrays(image), allow_pickle=np.array(False))
                value = buffer.getvalue()
            else:
                arrays = {name: packed_array(array, old=old) for name, array in uniter_arrays(image).items()}
                value = msgpack.packb(arrays, use_bin_type=not old)
            transaction.put(key.encode(), value)
        for key, value in (extra or {}).items():
            transaction.put(key.encode(), value)
        transaction.put(b"__keys__", json.dumps(names).encode())
    return folder


def bottom_up_row(image: Image) -> list[str]:
    return [image.name, str(WIDTH), str(HEIGHT), str(len(image.boxes)), coded(image.boxes), coded(image.features)]


def lxmert_row(image: Image) -> list[str]:
    count = len(image.boxes)
    return [
        f"COCO_val2014_{int(image.name):012d}",
        str(HEIGHT),
        str(WIDTH),
        coded(np.zeros(count), "<i8"),
        coded(image.confidence),
        coded(np.zeros(count), "<i8"),
        coded(np.zeros(count)),
        str(count),
        coded(image.boxes),
        coded(image.features),
    ]


def oscar_rows(image: Image) -> np.ndarray:
    return np.column_stack([image.features, image.norm_bb]).astype(np.float32)


def write_tsv(path: Path, rows: list[list[str]]) -> Path:
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return path


def vlbert_json(image: Image, *, whole: bool = True) -> dict:
    row = {
        "image_id": int(image.name),
        "image_w": WIDTH,
        "image_h": HEIGHT,
        "num_boxes": len(image.boxes),
        "boxes": coded(image.boxes),
        "features": coded(image.features),
    }
    return row | ({"image_box_feature": coded(image.features.mean(axis=0))} if whole else {})
