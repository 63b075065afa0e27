"""Region stores and image indexes, written and read: python tests/measure/store_speed.py [FOLDER]

1,000 images of 36 boxes of 2,048 halves, imported from npz files, and vectors of 20,000 images, 768 numbers each, by a model that
costs nothing; teachers' features are measured by cache_speed.py. The best of several rounds; memory is what the reader adds to
the process, maps of files left out.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measuring import start
from torch import Tensor, nn

from vldistill.data.image_files import ImageInfo
from vldistill.data.images import ImageFolder
from vldistill.data.prepare_regions import Target, import_regions
from vldistill.data.regions.store import RegionStore
from vldistill.evaluation.image_index import ImageIndex, IndexSource, build_index

IMAGES, BOXES, WIDTH, ROUNDS = 1000, 36, 2048, 3
VECTORS, FEATURES, BATCH = 20_000, 768, 32
RANDOM = np.random.default_rng(0)


class Towers(nn.Module):
    """Vectors that are at hand."""

    width = FEATURES

    def encode_image(self, shown: Tensor, place: int) -> Tensor:
        return shown


class Sight:
    def read(self, path: str, draw: object) -> int:
        return int(path)

    def stack(self, items: list[int]) -> Tensor:
        return torch.tensor(items, dtype=torch.float32)[:, None].expand(-1, FEATURES)


def best(call: Callable[[], object]) -> float:
    found = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        call()
        found.append(time.perf_counter() - started)
    return min(found)


def own_memory() -> float:
    """MB of this process that are no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e3


def told(what: str, written: float, size: int, opened: float, first: float, again: float, count: int, memory: float) -> None:
    print(
        f"{what}: written {size / written / 1e6:,.0f} MB/s; opened in {opened * 1e3:.1f} ms; {memory:.1f} MB of memory; "
        f"read {count / first:,.0f} a second with opening and checks, {count / again:,.0f} warm",
        flush=True,
    )


def regions(folder: Path) -> None:
    raw, out = folder / "npz", folder / "regions"
    raw.mkdir(parents=True)
    boxes = np.tile(np.array([0.1, 0.2, 0.6, 0.7, 0.5, 0.5], np.float16), (BOXES, 1))
    for number in range(1, IMAGES + 1):
        values = RANDOM.standard_normal((BOXES, WIDTH), np.float32).astype(np.float16)
        np.savez(raw / f"{number}.npz", features=values, norm_bb=boxes, conf=np.ones((BOXES, 1), np.float16))

    def write() -> None:
        shutil.rmtree(out, ignore_errors=True)
        import_regions(raw, Target(out))

    written, keys = best(write), [str(number) for number in RANDOM.integers(1, IMAGES + 1, 2000)]
    opened, before, held = best(lambda: "1" in RegionStore(out)), own_memory(), RegionStore(out)

    def fresh() -> None:
        own = RegionStore(out)
        for key in keys:
            own[key].features.sum()

    first = best(fresh)
    again = best(lambda: [held[key].features.sum() for key in keys])
    told(
        f"regions of {IMAGES:,} images",
        written,
        IMAGES * BOXES * WIDTH * 2,
        opened,
        first,
        again,
        len(keys),
        own_memory() - before,
    )


def index(folder: Path) -> None:
    known = {str(number): ImageInfo(hashlib.sha1(str(number).encode()).hexdigest(), 8, 8) for number in range(VECTORS)}
    source, out = IndexSource(ImageFolder(folder), folder, known), folder / "index"
    fields = {"kind": "x", "weights": "w", "places": 1}

    def write() -> None:
        shutil.rmtree(out, ignore_errors=True)
        build_index(out, Towers(), fields, source, Sight(), batch=BATCH, device=torch.device("cpu"), source="x", encoded="y")

    written, rows = best(write), RANDOM.integers(0, VECTORS, (1000, BATCH))
    opened, before, held = best(lambda: ImageIndex(out)), own_memory(), ImageIndex(out)

    def fresh() -> None:
        own = ImageIndex(out)
        for batch in rows:
            own.of(batch)

    first, again = best(fresh), best(lambda: [held.of(batch) for batch in rows])
    told(f"index of {VECTORS:,} images", written, VECTORS * FEATURES * 4, opened, first, again, rows.size, own_memory() - before)


def main(folder: Path) -> None:
    regions(folder)
    index(folder)


if __name__ == "__main__":
    start(main)
