"""A cache in the workers of a loader: forked, spawned, before and after it was opened; all read the same."""

from __future__ import annotations

import hashlib
import multiprocessing
import pickle
import resource

import forked
import numpy as np
import pytest
from store_worlds import fill, make_keys, read_pooled, readable
from torch.utils.data import DataLoader, Dataset

from vldistill.store import writer as writer_module
from vldistill.teachers.cache import FeatureCache


class Rows(Dataset):
    """One row of the cache an item, found in the worker."""

    def __init__(self, cache: FeatureCache, keys: np.ndarray):
        self.cache, self.keys = cache, keys

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, place: int) -> tuple[bytes, bytes]:
        row = self.cache.find(self.keys[place : place + 1])
        return self.cache.read(row, "pooled").tobytes(), self.cache.read_ragged(int(row[0]), "scores").tobytes()


def stream(rows: Rows, workers: int, context: str | None) -> str:
    loader = DataLoader(rows, batch_size=7, num_workers=workers, multiprocessing_context=context, collate_fn=list)
    state = hashlib.sha256()
    for batch in loader:
        for pooled, scores in batch:
            state.update(pooled + scores)
    return state.hexdigest()


@pytest.fixture
def rows(root) -> Rows:
    keys = make_keys(100)
    fill(root, keys[:60])
    return Rows(FeatureCache(fill(root, keys)), np.concatenate([keys[::-1], keys[:20]]))


@pytest.mark.parametrize(
    "workers, context, opened",
    [
        (1, "fork", False),
        (2, "fork", True),
        *(
            pytest.param(workers, context, opened, marks=pytest.mark.slow)
            for workers in (1, 2, 4)
            for context in ("fork", "spawn")
            for opened in (False, True)
        ),
    ],
)
def test_workers_read_what_one_process_reads(rows, workers, context, opened):
    expected = stream(Rows(FeatureCache(rows.cache.folder), rows.keys), 0, None)
    if opened:
        assert len(rows.cache) == 100
    assert stream(rows, workers, context) == expected


def test_row_numbers_mean_the_same_in_a_copy_though_the_cache_has_grown(rows, root):
    keys = make_keys(100)
    found = rows.cache.find(keys)
    text = pickle.dumps(rows.cache)
    assert len(text) < 5000
    fill(root, make_keys(150), shard=(0, 1))
    copy = pickle.loads(text)
    assert copy._state is None
    np.testing.assert_array_equal(copy.find(keys), found)
    assert len(copy) == 100 and len(FeatureCache(rows.cache.folder)) == 150


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_another_process_reads_for_itself_what_this_one_has_opened(rows, context):
    found = rows.cache.find(rows.keys)
    expected = rows.cache.read(found, "pooled")
    with multiprocessing.get_context(context).Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(read_pooled, (rows.cache, found)), expected)


def test_more_shards_are_read_than_files_may_be_open(root, tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "SHARD_BYTES", 1)
    folder, keys = fill(root, make_keys(100), batch=1), make_keys(100)

    def read() -> None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, hard))
        assert readable(folder, keys).all()

    process = forked.call(read, tmp_path / "log")
    assert process.wait() == 0, process.err
    assert len(list(folder.glob("*.h5"))) == 100
