"""Caches whose every value follows from its key, so that any row can be checked by itself; run as a program, it is a writer
that other processes can kill, starve and collide with."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import numpy as np

from vldistill.errors import VldistillError
from vldistill.store.inspection import Listing, Verification, list_stores, verify_store
from vldistill.store.layout import Column
from vldistill.store.uses import FEATURES
from vldistill.teachers.cache import CacheWriter, FeatureCache

FIELDS = {
    "teacher": "swin",
    "weights": "0a1b",
    "layer": 12,
    "pooling": "mean",
    "size": 256,
    "tokenizer": "none",
    "dtype": "float16",
}
WIDTH = 64
COLUMNS = (
    Column("pooled", "float16", (WIDTH,)),
    Column("scores", "float32", ragged=True),
    Column("words", "int16", (2,), ragged=True),
)


def make_keys(count: int, seed: int = 0) -> np.ndarray:
    """[N, 20] uint8, all different; those of a larger count begin with those of a smaller one."""
    return np.random.default_rng(seed).integers(0, 256, (count, 20), np.uint8)


def lengths_of(keys: np.ndarray) -> dict[str, np.ndarray]:
    """0 to 6 scores and 0 to 2 words a row."""
    return {"scores": keys[:, 0].astype(np.int64) % 7, "words": keys[:, 1].astype(np.int64) % 3}


def values_of(keys: np.ndarray, width: int = WIDTH) -> dict[str, np.ndarray]:
    """What the rows of these keys hold: bytes of the key are small whole numbers, which every type keeps exactly."""
    lengths = lengths_of(keys)
    scores = [key[2] + np.arange(count, dtype=np.float32) / 8 for key, count in zip(keys, lengths["scores"], strict=True)]
    words = [np.full((count, 2), key[3:5], np.int16) for key, count in zip(keys, lengths["words"], strict=True)]
    return {
        "pooled": np.resize(keys.T, (width, len(keys))).T.astype(np.float16),
        "scores": np.concatenate([np.empty(0, np.float32), *scores]),
        "words": np.concatenate([np.empty((0, 2), np.int16), *words]),
    }


def put(writer: CacheWriter, keys: np.ndarray) -> bool:
    return writer.put(keys, values_of(keys), lengths_of(keys))


def verify_cache(folder: Path) -> Verification:
    return verify_store(folder, FEATURES)


def list_caches(root: Path) -> list[Listing]:
    return list_stores(root, FEATURES)


def fill(root: Path, keys: np.ndarray, *, batch: int = 32, shard: tuple[int, int] = (0, 1), fields=None) -> Path:
    """Writes all that is pending of the keys, and returns the cache's folder."""
    with CacheWriter(root, "swin", fields or FIELDS, COLUMNS, shard) as writer:
        pending = writer.pending(keys)
        for first in range(0, len(pending), batch):
            places = pending.indices[first : first + batch]
            put(writer, keys[places])
    return writer.folder


def readable(folder: Path, keys: np.ndarray) -> np.ndarray:
    """[N] bool: which keys the cache has. All that it has is compared with what it should be."""
    cache = FeatureCache(folder)
    rows = cache.find(keys)
    there = np.flatnonzero(rows >= 0)
    expected, lengths = values_of(keys[there]), lengths_of(keys[there])
    np.testing.assert_array_equal(cache.read(rows[there], "pooled"), expected["pooled"])
    for name in ("scores", "words"):
        parts = np.split(expected[name], np.cumsum(lengths[name])[:-1])
        for row, part in zip(rows[there], parts if len(there) else [], strict=True):
            np.testing.assert_array_equal(cache.read_ragged(row, name), part)
    return rows >= 0


def read_pooled(cache: FeatureCache, rows: np.ndarray) -> np.ndarray:
    """For a process that imports this module and little else."""
    return cache.read(rows, "pooled")


def main() -> None:
    """Writes a cache and says `ready`, then how many rows are committed after every batch; exits as the command line does."""
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1))
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--shard-bytes", type=int)
    parser.add_argument("--file-limit", type=int, help="bytes")
    given = parser.parse_args()
    if given.shard_bytes is not None:
        from vldistill.store import writer as module

        module.SHARD_BYTES = given.shard_bytes
    keys = make_keys(given.rows)
    try:
        limit(given.file_limit)
        with CacheWriter(given.root, "swin", FIELDS, COLUMNS, tuple(given.part)) as writer:
            print("ready", flush=True)
            pending = writer.pending(keys)
            done = pending.present
            for first in range(0, len(pending), given.batch):
                places = pending.indices[first : first + given.batch]
                done += len(places)
                if put(writer, keys[places]):
                    print(done, flush=True)
                time.sleep(given.pause)
    except VldistillError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None


def limit(size: int | None) -> None:
    """The size that no file of this process may pass: a disk that is full."""
    if size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
