"""Rows go in and come out: whole, ragged, in any order, in several goes; what does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from cache_worlds import COLUMNS, FIELDS, fill, lengths_of, make_keys, readable, values_of

from vldistill.errors import InputError
from vldistill.store.layout import Column
from vldistill.store.manifest import load_manifest
from vldistill.teachers.cache.store import CACHE, CacheWriter, FeatureCache, verify_cache

KEYS = [b"a" * 20, b"b" * 20, b"c" * 20]
PAIR = (Column("vector", "float16", (2,)), Column("scores", "float32", ragged=True))


def small(root, **arguments) -> CacheWriter:
    return CacheWriter(root, "small", {"layer": 1}, PAIR, **arguments)


def changed(before: dict, after: dict) -> set[str]:
    """Names of the files that are not the same; a lock says who had it last."""
    return {Path(name).name for name, _ in before.items() ^ after.items() if not name.endswith(".lock")}


def test_three_rows_by_hand(root):
    with small(root) as writer:
        pending = writer.pending(KEYS, {"scores": [2, 0, 3]})
        assert pending.indices.tolist() == [0, 1, 2] and (pending.present, pending.others) == (0, 0)
        assert pending.bytes_free > pending.bytes_needed > 3 * 20 + 3 * 4 + 5 * 4
        writer.reserve(pending)
        writer.put([2], {"vector": np.array([[5, 6]], np.float16), "scores": np.array([0.7, 0.8, 0.9], np.float32)})
        writer.put([0, 1], {"vector": np.array([[1, 2], [3, 4]], np.float16), "scores": np.array([0.1, 0.2], np.float32)})
    cache = FeatureCache(writer.folder)
    assert len(cache) == 3 and cache.complete and cache.fields == {"layer": 1} and cache.columns == PAIR
    assert cache.find([b"c" * 20, b"x" * 20, b"a" * 20, b"c" * 20]).tolist() == [2, -1, 0, 2]
    assert cache.read([2, 0, 2], "vector").tolist() == [[5, 6], [1, 2], [5, 6]]
    assert cache.read([], "vector").shape == (0, 2)
    assert [cache.read_ragged(row, "scores").tolist() for row in range(3)] == [
        np.float32([0.1, 0.2]).tolist(),
        [],
        np.float32([0.7, 0.8, 0.9]).tolist(),
    ]
    with h5py.File(writer.folder / "shard-0000.h5") as file:
        assert file["keys"][1].tobytes() == b"b" * 20 and file["vector"][:].tolist() == [[1, 2], [3, 4], [5, 6]]
        assert file["scores.starts"][:].tolist() == [0, 2, 2, 5]
    assert not list(writer.folder.glob("*.tmp")) and not list(writer.folder.glob(".*.tmp"))


def test_what_is_read_is_a_copy(root):
    cache = FeatureCache(fill(root, keys := make_keys(10)))
    rows = cache.find(keys)
    cache.read(rows, "pooled")[:] = 0
    for row in rows:
        cache.read_ragged(row, "scores")[:] = 0
    assert readable(cache.folder, keys).all()


def test_rows_put_in_any_order_and_batches_of_any_size(root):
    keys, random = make_keys(300), np.random.default_rng(3)
    with CacheWriter(root, "swin", FIELDS, COLUMNS) as writer:
        pending = writer.pending(keys, lengths_of(keys))
        writer.reserve(pending)
        left = random.permutation(pending.indices)
        while len(left):
            batch, left = np.split(left, [random.integers(0, 40)])
            writer.put(batch, values_of(keys[batch]))
    assert readable(writer.folder, keys).all()
    assert verify_cache(writer.folder).damages == []


def test_keys_that_repeat_are_computed_once(root):
    keys = make_keys(50)
    twice = np.concatenate([keys[:30], keys[10:], keys[:5]])
    with CacheWriter(root, "swin", FIELDS, COLUMNS) as writer:
        pending = writer.pending(twice, lengths_of(twice))
        assert len(pending) == 50
        writer.reserve(pending)
        writer.put(pending.indices, values_of(twice[pending.indices]))
        again = writer.pending(twice, lengths_of(twice))
        assert len(again) == 0 and again.present == 50 and again.bytes_needed == 0
    assert len(FeatureCache(writer.folder)) == 50 and readable(writer.folder, twice).all()


def test_a_cache_grows_by_further_shards(root, tree):
    keys = make_keys(200)
    folder = fill(root, keys[:120])
    first = tree(folder)
    assert fill(root, keys[60:]) == folder
    assert sorted(path.name for path in folder.glob("*.h5")) == ["shard-0000.h5", "shard-0001.h5"]
    cache = FeatureCache(folder)
    assert len(cache) == 200 and cache.complete and readable(folder, keys).all()
    rows = cache.find(keys)
    mixed = np.random.default_rng(0).permutation(200)
    np.testing.assert_array_equal(cache.read(rows[mixed], "pooled"), values_of(keys[mixed])["pooled"])
    after = tree(folder)
    assert changed(first, {name: after[name] for name in first}) == {"manifest.json"}
    fill(root, keys)
    assert changed(after, tree(folder)) == set()


def test_one_writer_may_reserve_several_times(root):
    keys = make_keys(90)
    with CacheWriter(root, "swin", FIELDS, COLUMNS) as writer:
        for part in (keys[:40], keys[20:]):
            pending = writer.pending(part, lengths_of(part))
            writer.reserve(pending)
            writer.put(pending.indices, values_of(part[pending.indices]))
    assert FeatureCache(writer.folder).complete and readable(writer.folder, keys).all()


def test_rows_that_were_not_put_are_not_there(root):
    with small(root) as writer:
        writer.reserve(pending := writer.pending(KEYS, {"scores": [1, 1, 1]}))
        writer.put([1], {"vector": np.ones((1, 2), np.float16), "scores": np.ones(1, np.float32)})
        assert len(pending) == 3
    cache = FeatureCache(writer.folder)
    assert len(cache) == 1 and not cache.complete and cache.find(KEYS).tolist() == [-1, 1, -1]
    for rows in ([0], [1, 2], [-1], [1, -1], [-2], [-3]):
        with pytest.raises(ValueError, match=r"not there|not found"):
            cache.read(rows, "vector")
    with pytest.raises(IndexError):
        cache.read([3], "vector")
    with pytest.raises(ValueError, match="not there"):
        cache.read_ragged(2, "scores")


def test_an_interrupted_shard_is_continued_in_place(root):
    keys = make_keys(100)
    with pytest.raises(KeyboardInterrupt), CacheWriter(root, "swin", FIELDS, COLUMNS) as writer:
        writer.reserve(pending := writer.pending(keys, lengths_of(keys)))
        writer.put(pending.indices[:37], values_of(keys[:37]))
        raise KeyboardInterrupt
    assert np.flatnonzero(readable(writer.folder, keys)).tolist() == list(range(37))
    # Fewer of the old keys and some new ones are asked for: the rest of the old stay holes.
    asked = np.concatenate([make_keys(20, seed=9), keys[30:80]])
    with CacheWriter(root, "swin", FIELDS, COLUMNS) as writer:
        pending = writer.pending(asked, lengths_of(asked))
        assert pending.indices.tolist() == [*range(27, 70), *range(20)] and pending.present == 7
        writer.reserve(pending)
        for first in range(0, 63, 10):
            places = pending.indices[first : first + 10]
            writer.put(places, values_of(asked[places]))
    cache = FeatureCache(writer.folder)
    assert sorted(path.name for path in writer.folder.glob("*.h5")) == ["shard-0000.h5", "shard-0001.h5"]
    assert len(cache) == 100 and cache.complete and readable(writer.folder, asked).all()
    assert cache.find(keys[80:]).tolist() == [-1] * 20
    fill(root, keys)
    assert len(list(writer.folder.glob("*.h5"))) == 2 and readable(writer.folder, keys).all()


def test_a_row_whose_length_changed_gets_another_place(root):
    def put(lengths) -> CacheWriter:
        with small(root) as writer:
            pending = writer.pending(KEYS, {"scores": lengths})
            writer.reserve(pending)
            writer.put([0], {"vector": np.zeros((1, 2), np.float16), "scores": np.arange(lengths[0], dtype=np.float32)})
        return writer

    with pytest.raises(ValueError), small(root) as writer:
        writer.reserve(writer.pending(KEYS, {"scores": [2, 2, 2]}))
        raise ValueError
    cache = FeatureCache(put([3, 2, 2]).folder)
    row = cache.find(KEYS[:1])[0]
    assert row == 3 and cache.read_ragged(row, "scores").tolist() == [0, 1, 2]


def test_values_that_do_not_fit_are_refused_and_change_nothing(root):
    vector, scores = np.zeros((2, 2), np.float16), np.zeros(3, np.float32)
    with small(root) as writer:
        with pytest.raises(ValueError, match="reserved before"):
            writer.put([0, 1], {"vector": vector, "scores": scores})
        writer.reserve(writer.pending(KEYS, {"scores": [1, 2, 3]}))
        for indices, values in [
            ([0, 1], {"vector": vector.astype(np.float32), "scores": scores}),
            ([0, 1], {"vector": vector[:1], "scores": scores}),
            ([0, 1], {"vector": vector, "scores": scores[:2]}),
            ([0, 1], {"vector": vector}),
            ([0, 1], {"vector": vector, "scores": scores, "more": scores}),
            ([0, 3], {"vector": vector, "scores": scores}),
            ([-1, 1], {"vector": vector, "scores": scores}),
            ([1, 1], {"vector": vector, "scores": np.zeros(4, np.float32)}),
        ]:
            with pytest.raises(ValueError):
                writer.put(indices, values)
        writer.put([0, 1], {"vector": vector, "scores": scores})
        with pytest.raises(ValueError, match="put once"):
            writer.put([1], {"vector": vector[:1], "scores": scores[:2]})
        for lengths in (None, {"scores": [1, 2]}, {"scores": [1, 2, -1]}, {"vector": [1, 2, 3], "scores": [1, 2, 3]}):
            with pytest.raises(ValueError):
                writer.pending(KEYS, lengths)
    cache = FeatureCache(writer.folder)
    assert cache.find(KEYS).tolist() == [0, 1, -1]
    for call in (lambda: cache.read([0], "scores"), lambda: cache.read_ragged(0, "vector")):
        with pytest.raises(ValueError, match="ragged"):
            call()
    with pytest.raises(KeyError):
        cache.read([0], "nothing")


def test_a_cache_with_other_columns_is_refused(root, tree):
    folder = fill(root, make_keys(5))
    before = tree(folder)
    with (
        pytest.raises(InputError, match=r"pooled float16\[64\].*asked for are pooled float16\[65\]"),
        CacheWriter(root, "swin", FIELDS, [Column("pooled", "float16", (65,))]),
    ):
        pass
    assert changed(before, tree(folder)) == set()


@pytest.mark.parametrize(
    "name, fields, shard",
    [
        ("a/b", {"layer": 1}, (0, 1)),
        ("", {"layer": 1}, (0, 1)),
        ("..", {"layer": 1}, (0, 1)),
        (".a", {"layer": 1}, (0, 1)),
        ("a", {"layer": float("nan")}, (0, 1)),
        ("a", {"layer": None}, (0, 1)),
        ("a", {"layer": [1]}, (0, 1)),
        ("a", {"layer": 1}, (1, 1)),
        ("a", {"layer": 1}, (-1, 2)),
        ("a", {"layer": 1}, (0, 0)),
    ],
)
def test_bad_names_fields_and_parts_are_refused_before_anything_is_written(root, name, fields, shard):
    with pytest.raises(InputError):
        CacheWriter(root, name, fields, PAIR, shard)
    assert not root.exists()


def test_an_empty_request_is_complete(root):
    with small(root) as writer:
        pending = writer.pending([], {"scores": []})
        writer.reserve(pending)
        assert writer.put([], {"vector": np.zeros((0, 2), np.float16), "scores": np.zeros(0, np.float32)})
    cache = FeatureCache(writer.folder)
    assert len(pending) == len(cache) == 0 and cache.complete and cache.find(KEYS).tolist() == [-1, -1, -1]
    assert load_manifest(writer.folder, CACHE).shards == {}


def test_rows_larger_than_a_block_and_columns_without_elements(root):
    columns = [Column("tokens", "float32", (700, 1000)), Column("none", "int8", ragged=True)]
    values = np.random.default_rng(0).standard_normal((3, 700, 1000), np.float32)
    with CacheWriter(root, "large", {}, columns) as writer:
        writer.reserve(writer.pending(KEYS, {"none": [0, 0, 0]}))
        writer.put([0, 1, 2], {"tokens": values, "none": np.zeros(0, np.int8)})
    cache = FeatureCache(writer.folder)
    np.testing.assert_array_equal(cache.read([2, 1, 0], "tokens"), values[::-1])
    assert len((writer.folder / "shard-0000.journal").read_text().splitlines()) == 3
    assert cache.read_ragged(1, "none").shape == (0,) and verify_cache(writer.folder).damages == []
