"""The feature cache against bare memory maps of the same values: python tests/measure/cache_speed.py [FOLDER]

50,000 pooled rows of 1,024 halves (102 MB), in one shard and in eight, 4,000 rows of 197 x 768 tokens (1.2 GB), and 500,000 keys.
Rounds of both are interleaved in one process and the best of each counts. "Cold" drops the files from the page cache first, opens
them and reads rows once; the cache's time includes opening it and checking every block that it touches.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from measuring import drop, start

from vldistill.store.inspection import verify_store
from vldistill.store.layout import Column
from vldistill.store.uses import FEATURES
from vldistill.teachers.cache import CacheWriter, FeatureCache

BATCH, ROUNDS = 32, 7
RANDOM = np.random.default_rng(0)


def write(
    root: Path,
    name: str,
    keys: np.ndarray,
    values: np.ndarray,
    parts: int = 1,
    batch: int = 256,
) -> tuple[FeatureCache, float]:
    """The cache, and the seconds from opening its writer to having closed it."""
    columns, started = [Column("value", values.dtype.name, values.shape[1:])], time.perf_counter()
    for part in range(parts):
        with CacheWriter(root, name, {"parts": parts}, columns, (part, parts)) as writer:
            pending = writer.pending(keys)
            for first in range(0, len(pending), batch):
                places = pending.indices[first : first + batch]
                writer.put(keys[places], {"value": values[places]})
    return FeatureCache(writer.folder), time.perf_counter() - started


def best(*calls: Callable[[], None], before: Callable[[], None] = lambda: None) -> list[float]:
    """Seconds of each call, the least of several interleaved rounds."""
    found = [[] for _ in calls]
    for _ in range(ROUNDS):
        for seconds, call in zip(found, calls, strict=True):
            before()
            started = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - started)
    return [min(seconds) for seconds in found]


def told(what: str, ours: float, bare: float, count: int) -> None:
    print(f"{what:44}{count / ours:12,.0f} rows/s   memmap {count / bare:12,.0f} rows/s   ratio {bare / ours:5.2f}", flush=True)


def gather(values, places: np.ndarray) -> None:
    for first in range(0, len(places), BATCH):
        values(places[first : first + BATCH])


def compare(name: str, folder: Path, keys: np.ndarray, array: Path, count: int) -> None:
    """Random batches of `count` rows in all: warm; with opening and the checks of the first pass; and cold."""
    places = RANDOM.integers(0, len(keys), count)
    rows = FeatureCache(folder).find(keys)[places]
    warm(f"{name}, random batches of {BATCH}", folder, array, rows, places)
    files = [array, *folder.glob("shard-*")]
    for what, some, before in [
        ("with opening and checks", count, lambda: None),
        ("cold", count, lambda: drop(files)),
        ("cold", 512, lambda: drop(files)),
    ]:
        told(
            f"{name}, {some:,} rows, {what}",
            *best(
                lambda some=some: gather(reader(folder), rows[:some]),
                lambda some=some: gather(bare_reader(array), places[:some]),
                before=before,
            ),
            some,
        )


def warm(name: str, folder: Path, array: Path, rows: np.ndarray, places: np.ndarray) -> None:
    """In a function of its own: pages that somebody has mapped do not leave the page cache."""
    ours, bare = reader(folder), bare_reader(array)
    told(f"{name}, warm", *best(lambda: gather(ours, rows), lambda: gather(bare, places)), len(rows))


def reader(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    cache = FeatureCache(folder)
    return lambda rows: cache.read(rows, "value")


def bare_reader(array: Path) -> Callable[[np.ndarray], np.ndarray]:
    values = np.load(array, mmap_mode="r")
    return lambda places: values[places]


def main(folder: Path) -> None:
    keys = RANDOM.integers(0, 256, (500_000, 20), np.uint8)
    pooled = RANDOM.standard_normal((50_000, 1024), np.float32).astype(np.float16)
    seconds = []
    for _ in range(ROUNDS):
        shutil.rmtree(folder / "cache", ignore_errors=True)
        cache, took = write(folder / "cache", "pooled", keys[:50_000], pooled)
        seconds.append(took)
    size = sum(path.stat().st_size for path in cache.folder.iterdir())
    print(
        f"write, 50,000 x 1,024, with sums and syncs: {pooled.nbytes / min(seconds) / 1e6:.0f} MB/s best, "
        f"{pooled.nbytes / sorted(seconds)[ROUNDS // 2] / 1e6:.0f} median; {size / pooled.nbytes:.4f} of the values' size"
    )
    np.save(folder / "pooled.npy", pooled)
    compare("pooled", cache.folder, keys[:50_000], folder / "pooled.npy", 20_000)
    eight, _ = write(folder / "cache", "pooled", keys[:50_000], pooled, parts=8)
    compare("pooled, 8 shards", eight.folder, keys[:50_000], folder / "pooled.npy", 20_000)

    tokens = np.tile(pooled.reshape(-1)[: 4000 * 197 * 48].reshape(4000, 197, 48), 16)
    cache, took = write(folder / "cache", "tokens", keys[:4000], tokens, batch=32)
    print(f"write, 4,000 x 197 x 768: {tokens.nbytes / took / 1e6:.0f} MB/s")
    np.save(folder / "tokens.npy", tokens)
    (seconds,) = best(lambda: verify_store(cache.folder, FEATURES))
    assert not verify_store(cache.folder, FEATURES).damages
    print(f"verify, warm: {seconds / tokens.nbytes * 1e9:.2f} s/GB")
    (seconds,) = best(lambda: verify_store(cache.folder, FEATURES), before=lambda: drop(list(cache.folder.iterdir())))
    print(f"verify, cold: {seconds / tokens.nbytes * 1e9:.2f} s/GB")
    compare("tokens", cache.folder, keys[:4000], folder / "tokens.npy", 2_000)

    cache, _ = write(folder / "cache", "many", keys, np.zeros((500_000, 4), np.float16), batch=4096)
    (opening, finding) = best(lambda: len(FeatureCache(cache.folder)), lambda: FeatureCache(cache.folder).find(keys))
    print(f"500,000 keys: opened in {opening:.3f} s, opened and all of them found in {finding:.3f} s")


if __name__ == "__main__":
    start(main)
