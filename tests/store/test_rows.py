"""Rows go in and come out: whole, ragged, in any order, in several goes; what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from store_worlds import COLUMNS, FIELDS, fill, make_keys, put, readable, values_of, verify_cache

from vldistill.errors import InputError
from vldistill.store import writer as writer_module
from vldistill.store.layout import Column, load_manifest
from vldistill.store.uses import FEATURES
from vldistill.teachers.cache import CacheWriter, FeatureCache

KEYS = [b"a" * 20, b"b" * 20, b"c" * 20]
PAIR = (Column("vector", "float16", (2,)), Column("scores", "float32", ragged=True))


def small(root, **arguments) -> CacheWriter:
    return CacheWriter(root, "small", {"layer": 1}, PAIR, **arguments)


def changed(before: dict, after: dict) -> set[str]:
    """Names of the files that are not the same; a lock says who had it last."""
    return {Path(name).name for name, _ in before.items() ^ after.items() if not name.endswith(".lock")}


def test_three_rows_by_hand(root):
    with small(root) as writer:
        pending = writer.pending(KEYS)
        assert pending.indices.tolist() == [0, 1, 2] and (pending.present, pending.others) == (0, 0)
        assert pending.bytes_free > pending.bytes_needed > 3 * 20 + 3 * 4
        values = {"vector": np.array([[1, 2], [3, 4]], np.float16), "scores": np.array([0.1, 0.2], np.float32)}
        writer.put(KEYS[:2], values, {"scores": [2, 0]})
        values = {"vector": np.array([[5, 6]], np.float16), "scores": np.array([0.7, 0.8, 0.9], np.float32)}
        writer.put(KEYS[2:], values, {"scores": [3]})
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
        pending = writer.pending(keys)
        left = random.permutation(pending.indices)
        while len(left):
            batch, left = np.split(left, [random.integers(0, 40)])
            put(writer, keys[batch])
    assert readable(writer.folder, keys).all()
    assert verify_cache(writer.folder).damages == []


def test_keys_that_repeat_are_computed_once(root):
    keys = make_keys(50)
    twice = np.concatenate([keys[:30], keys[10:], keys[:5]])
    with CacheWriter(root, "swin", FIELDS, COLUMNS) as writer:
        pending = writer.pending(twice)
        assert len(pending) == 50
        put(writer, twice[pending.indices])
        again = writer.pending(twice)
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


def test_one_writer_may_be_asked_several_times(root):
    keys = make_keys(90)
    with CacheWriter(root, "swin", FIELDS, COLUMNS) as writer:
        for part in (keys[:40], keys[20:]):
            put(writer, part[writer.pending(part).indices])
    assert FeatureCache(writer.folder).complete and readable(writer.folder, keys).all()


def test_rows_that_were_not_put_are_not_there(root):
    with small(root) as writer:
        assert len(writer.pending(KEYS)) == 3
        writer.put(KEYS[1:2], {"vector": np.ones((1, 2), np.float16), "scores": np.ones(1, np.float32)}, {"scores": [1]})
    cache = FeatureCache(writer.folder)
    assert len(cache) == 1 and not cache.complete and cache.find(KEYS).tolist() == [-1, 0, -1]
    for rows in ([-1], [0, -1], [-2], [-3]):
        with pytest.raises(ValueError, match="not found"):
            cache.read(rows, "vector")
    for call in (lambda: cache.read([1], "vector"), lambda: cache.read_ragged(2, "scores")):
        with pytest.raises(IndexError):
            call()


def test_an_interrupted_writer_is_gone_on_with(root):
    keys = make_keys(100)
    with pytest.raises(KeyboardInterrupt), CacheWriter(root, "swin", FIELDS, COLUMNS) as writer:
        writer.pending(keys)
        put(writer, keys[:37])
        raise KeyboardInterrupt
    assert np.flatnonzero(readable(writer.folder, keys)).tolist() == list(range(37))
    # Fewer of the old keys and some new ones are asked for.
    asked = np.concatenate([make_keys(20, seed=9), keys[30:80]])
    with CacheWriter(root, "swin", FIELDS, COLUMNS) as writer:
        pending = writer.pending(asked)
        assert pending.indices.tolist() == [*range(20), *range(27, 70)] and pending.present == 7
        for first in range(0, 63, 10):
            put(writer, asked[pending.indices[first : first + 10]])
    cache = FeatureCache(writer.folder)
    assert sorted(path.name for path in writer.folder.glob("*.h5")) == ["shard-0000.h5", "shard-0001.h5"]
    assert len(cache) == 100 and cache.complete and readable(writer.folder, asked).all()
    assert cache.find(keys[80:]).tolist() == [-1] * 20
    fill(root, keys)
    assert readable(writer.folder, keys).all()


def test_a_shard_ends_when_enough_bytes_or_seconds_are_together(root, monkeypatch):
    keys, moment = make_keys(60), [0.0]
    monkeypatch.setattr(writer_module, "SHARD_BYTES", 3000)
    monkeypatch.setattr("vldistill.store.writer.time.monotonic", lambda: moment[0])
    with CacheWriter(root, "swin", FIELDS, COLUMNS) as writer:
        writer.pending(keys)
        # Ten rows are about 1,800 bytes.
        assert [put(writer, keys[first : first + 10]) for first in (0, 10)] == [False, True]
        moment[0] += writer_module.SHARD_SECONDS
        assert put(writer, keys[20:30]) and not put(writer, keys[30:40])
        assert len(FeatureCache(writer.folder)) == 30
    with CacheWriter(root, "swin", FIELDS, COLUMNS) as writer:
        put(writer, keys[writer.pending(keys).indices])
    assert [shard.rows for shard in load_manifest(writer.folder, FEATURES).shards.values()] == [20, 10, 10, 20]
    rows = np.random.default_rng(0).integers(0, 60, 200)
    cache = FeatureCache(writer.folder)
    np.testing.assert_array_equal(cache.read(cache.find(keys[rows]), "pooled"), values_of(keys[rows])["pooled"])


SHAPES = [("float16", (1024,)), ("uint8", (3,)), ("float64", ()), ("int16", (5, 7)), ("uint8", (129,))]


@pytest.mark.parametrize("dtype, shape", SHAPES)
def test_rows_of_many_shards_are_gathered_as_they_were_put(root, monkeypatch, dtype, shape):
    monkeypatch.setattr(writer_module, "SHARD_BYTES", 1)
    keys, random = make_keys(90), np.random.default_rng(1)
    values = random.integers(0, 200, (90, *shape)).astype(dtype)
    with CacheWriter(root, "many", {}, [Column("other", "int8"), Column("value", dtype, shape)]) as writer:
        for first, end in zip([0, 1, 3, 40], [1, 3, 40, 90], strict=True):
            writer.put(keys[first:end], {"value": values[first:end], "other": np.zeros(end - first, np.int8)})
    cache = FeatureCache(writer.folder)
    assert len(list(writer.folder.glob("*.h5"))) == 4
    for count in (0, 1, 32, 500):
        rows = random.integers(0, 90, count)
        np.testing.assert_array_equal(cache.read(cache.find(keys[rows]), "value"), values[rows])


def test_values_that_do_not_fit_are_refused_and_change_nothing(root):
    vector, scores = np.zeros((2, 2), np.float16), np.zeros(3, np.float32)
    with small(root) as writer:
        writer.pending(KEYS[:2])
        two = {"scores": [1, 2]}
        for keys, values, lengths in [
            (KEYS[:2], {"vector": vector.astype(np.float32), "scores": scores}, two),
            (KEYS[:2], {"vector": vector[:1], "scores": scores}, two),
            (KEYS[:2], {"vector": vector, "scores": scores[:2]}, two),
            (KEYS[:2], {"vector": vector}, two),
            (KEYS[:2], {"vector": vector, "scores": scores, "more": scores}, two),
            ([KEYS[1], KEYS[1]], {"vector": vector, "scores": np.zeros(4, np.float32)}, {"scores": [2, 2]}),
            (KEYS[:2], {"vector": vector, "scores": scores}, None),
            (KEYS[:2], {"vector": vector, "scores": scores}, {"scores": [3]}),
            (KEYS[:2], {"vector": vector, "scores": scores}, {"scores": [4, -1]}),
            (KEYS[1:], {"vector": vector, "scores": scores}, two),
            (KEYS[:2], {"vector": vector, "scores": scores}, {"vector": [1, 1], "scores": [1, 2]}),
        ]:
            with pytest.raises(ValueError):
                writer.put(keys, values, lengths)
        writer.put(KEYS[:2], {"vector": vector, "scores": scores}, two)
        with pytest.raises(ValueError, match="put once"):
            writer.put(KEYS[1:2], {"vector": vector[:1], "scores": scores[:2]}, {"scores": [2]})
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
        pending = writer.pending([])
        assert writer.put([], {"vector": np.zeros((0, 2), np.float16), "scores": np.zeros(0, np.float32)}, {"scores": []})
    cache = FeatureCache(writer.folder)
    assert len(pending) == len(cache) == 0 and cache.complete and cache.find(KEYS).tolist() == [-1, -1, -1]
    assert load_manifest(writer.folder, FEATURES).shards == {}


def test_rows_larger_than_a_block_and_columns_without_elements(root):
    columns = [Column("tokens", "float32", (700, 1000)), Column("none", "int8", ragged=True)]
    values = np.random.default_rng(0).standard_normal((3, 700, 1000), np.float32)
    with CacheWriter(root, "large", {}, columns) as writer:
        writer.put(KEYS, {"tokens": values, "none": np.zeros(0, np.int8)}, {"none": [0, 0, 0]})
    cache = FeatureCache(writer.folder)
    np.testing.assert_array_equal(cache.read([2, 1, 0], "tokens"), values[::-1])
    assert len(json.loads((writer.folder / "shard-0000.json").read_text())["blocks"]["tokens"]) == 3
    assert cache.read_ragged(1, "none").shape == (0,) and verify_cache(writer.folder).damages == []
