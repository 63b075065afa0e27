"""A file that is no longer what was written is never read as if it were, and the check finds it."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from pathlib import Path

import pytest
from store_worlds import fill, make_keys, readable, verify_cache

from vldistill import artifacts
from vldistill.errors import InputError, VldistillError
from vldistill.store.layout import load_manifest
from vldistill.store.uses import FEATURES
from vldistill.teachers.cache import FeatureCache

KEYS = make_keys(150)
HDF5, TABLE, MANIFEST = "shard-0000.h5", "shard-0000.json", "manifest.json"


@pytest.fixture
def folder(root) -> Path:
    fill(root, KEYS[:100])
    return fill(root, KEYS)


def is_noticed(folder: Path) -> str:
    """Asserts that the check finds damage and that reading all rows is refused; returns what the check says."""
    report = verify_cache(folder)
    assert report.damages
    with pytest.raises(InputError) as caught:
        assert readable(folder, KEYS).all()
    assert "delete this cache's folder" in str(caught.value) and "\n" not in str(caught.value)
    return "\n".join(map(str, report.damages))


def flip_bits(folder: Path, counts: dict[str, int], seed: int = 0) -> None:
    chosen = random.Random(seed)
    assert verify_cache(folder).damages == [] and readable(folder, KEYS).all()
    for name, count in counts.items():
        path = folder / name
        whole = path.read_bytes()
        for bit in chosen.sample(range(8 * len(whole)), count):
            changed = bytearray(whole)
            changed[bit // 8] ^= 1 << bit % 8
            path.write_bytes(changed)
            assert name in is_noticed(folder), (name, bit)
        path.write_bytes(whole)


def cut(folder: Path, counts: dict[str, int], seed: int = 0) -> None:
    chosen = random.Random(seed)
    for name, count in counts.items():
        path = folder / name
        whole = path.read_bytes()
        # A manifest without its last line break is the same manifest.
        for length in chosen.sample(range(len(whole) - (name == MANIFEST)), count):
            path.write_bytes(whole[:length])
            assert name in is_noticed(folder), (name, length)
        path.write_bytes(whole)


def test_flipped_bits(folder):
    flip_bits(folder, {HDF5: 24, TABLE: 6, MANIFEST: 6, "shard-0001.h5": 4})


def test_cut_files(folder):
    cut(folder, {HDF5: 4, TABLE: 4, MANIFEST: 2, "shard-0001.json": 2})


@pytest.mark.slow
def test_many_flipped_bits_and_cut_files(folder):
    flip_bits(folder, {HDF5: 200, TABLE: 50, MANIFEST: 50}, seed=1)
    cut(folder, {HDF5: 50, TABLE: 20, MANIFEST: 20}, seed=1)


def test_each_region_of_the_file_is_covered(folder):
    """One byte of HDF5's structure, of the keys, of the starts and of each column."""
    offsets = json.loads((folder / TABLE).read_text())["offsets"]
    whole = (folder / HDF5).read_bytes()
    said = {
        "structure": "HDF5's own structure",
        "keys": "in its keys",
        "scores.starts": "in its starts of rows",
        "pooled": "column pooled is damaged",
        "words": "column words is damaged",
        "scores": "column scores is damaged",
    }
    for name, message in said.items():
        place = {"structure": 0, **offsets}[name]
        (folder / HDF5).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert message in is_noticed(folder)


def test_a_damaged_block_is_named_and_all_others_are_read(root):
    folder = fill(root, make_keys(20_000), batch=5000)
    keys = make_keys(20_000)
    table = json.loads((folder / TABLE).read_text())
    lines = [(first, min(20_000, first + table["block_rows"])) for first in range(0, 20_000, table["block_rows"])]
    first, end = lines[1]
    place = table["offsets"]["pooled"] + (end - 1) * 128
    with (folder / HDF5).open("r+b") as file:
        file.seek(place)
        file.write(b"\xff")
    report = verify_cache(folder)
    assert len(lines) >= 3 and report.rows == 20_000 and len(report.damages) == 1
    named = ", ".join(key.tobytes().hex() for key in keys[first : first + 3])
    message = (
        f"{folder / HDF5}: column pooled is damaged in rows {first} to {end - 1}, of keys {named}, ... "
        "(delete this cache's folder and make it again: vldistill cache)"
    )
    assert str(report.damages[0]) == message
    cache = FeatureCache(folder)
    rows = cache.find(keys)
    for block, (start, stop) in enumerate(lines):
        if block == 1:
            with pytest.raises(InputError) as caught:
                cache.read(rows[start : start + 1], "pooled")
            assert str(caught.value) == message
        else:
            assert cache.read(rows[start:stop], "pooled").shape == (stop - start, 64)
    assert cache.read_ragged(rows[first], "scores").shape


@pytest.mark.parametrize("name", [HDF5, TABLE, MANIFEST, "shard-0001.h5"])
def test_a_missing_file(folder, name):
    (folder / name).unlink()
    assert name in is_noticed(folder)
    with pytest.raises(InputError):
        fill(folder.parent, KEYS)
    assert (folder / "shard-0000.h5").exists() or name == HDF5


def test_files_of_another_cache(folder, tmp_path):
    other = fill(tmp_path / "other", make_keys(150, seed=1)[:100])
    for name in (HDF5, TABLE):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes((other / name).read_bytes())
        assert name in is_noticed(folder) or HDF5 in is_noticed(folder)
        (folder / name).write_bytes(whole)
    (folder / MANIFEST).write_bytes((other / MANIFEST).read_bytes())
    assert is_noticed(folder)


def test_a_file_that_the_manifest_does_not_name_is_not_read(folder, tmp_path):
    other = fill(tmp_path / "other", make_keys(30, seed=1))
    for suffix in (".h5", ".json"):
        (folder / f"shard-0007{suffix}").write_bytes((other / f"shard-0000{suffix}").read_bytes())
    assert verify_cache(folder).damages == [] and readable(folder, KEYS).all()
    assert not readable(folder, make_keys(30, seed=1)).any()
    for shift in range(8):
        fill(folder.parent, make_keys(20, seed=100 + shift))
    assert sorted(int(path.stem[6:]) for path in folder.glob("shard-*.h5")) == list(range(10))
    assert len(FeatureCache(folder)) == 150 + 8 * 20 and verify_cache(folder).damages == []


@pytest.mark.parametrize(
    "edit",
    [
        lambda value: value.update(complete=False),
        lambda value: value.update(wanted=1),
        lambda value: value["fields"].update(layer=11),
        lambda value: value["shards"].pop("shard-0001"),
        lambda value: value["columns"].pop(),
        lambda value: value.update(name="x"),
        lambda value: value["shards"]["shard-0000"].update(rows=0),
        lambda value: value.pop("checksum"),
    ],
)
def test_an_edited_manifest(folder, edit):
    value = json.loads((folder / MANIFEST).read_text())
    edit(value)
    artifacts.write_json(folder / MANIFEST, value)
    assert MANIFEST in is_noticed(folder)


def test_a_writer_does_not_build_on_damage(folder):
    with (folder / HDF5).open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(InputError, match=r"shard-0000\.h5: has 1,000 bytes"):
        fill(folder.parent, make_keys(200))


def resign(folder: Path) -> None:
    """Makes the digests fit what the files now say, as somebody could who knows how they are made."""
    value = json.loads((folder / MANIFEST).read_text())
    for name, entry in value["shards"].items():
        entry["digest"] = artifacts.file_digest(folder / f"{name}.json")
    del value["checksum"]
    value["checksum"] = artifacts.fingerprint(value)
    artifacts.write_json(folder / MANIFEST, value)


VALUES = [None, True, -1, 0, 1, 10**30, 1.5, float("1e308"), "x", [], {}, [[]], {"a": 1}]


def variants(value, chosen: random.Random):
    """The value with one part somewhere in it replaced, removed or doubled."""
    changed = json.loads(json.dumps(value))
    place = changed
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return changed
        key = chosen.choice(keys)
        if isinstance(place[key], dict | list) and chosen.random() < 0.6:
            place = place[key]
            continue
        if chosen.random() < 0.2:
            del place[key]
        elif isinstance(place[key], int) and chosen.random() < 0.5:
            place[key] += chosen.choice([-1, 1, -64, 64, 2**31, 2**62, 2**64])
        else:
            place[key] = chosen.choice(VALUES)
        return changed


def is_read_or_refused(folder: Path) -> None:
    """Whatever the files say: right values or a refusal, and never another error."""
    verify_cache(folder)
    try:
        readable(folder, KEYS)
    except VldistillError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("count", [80, pytest.param(3000, marks=pytest.mark.slow)])
def test_tables_of_any_content(folder, count):
    chosen, whole = random.Random(0), json.loads((folder / TABLE).read_text())
    for _ in range(count):
        (folder / TABLE).write_text(json.dumps(variants(whole, chosen)))
        resign(folder)
        is_read_or_refused(folder)
    for text in ("", "[" * 100_000, "null", "\0", '{"part": '):
        (folder / TABLE).write_text(text)
        resign(folder)
        is_noticed(folder)


@pytest.mark.parametrize("count", [60, pytest.param(3000, marks=pytest.mark.slow)])
def test_manifests_of_any_content(folder, count):
    chosen, whole = random.Random(0), json.loads((folder / MANIFEST).read_text())
    for _ in range(count):
        artifacts.write_manifest(folder, variants(whole, chosen))
        with suppress(KeyError, TypeError, AttributeError, ValueError, OSError):
            resign(folder)
        try:
            load_manifest(folder, FEATURES)
        except VldistillError as error:
            assert "\n" not in str(error)
        else:
            is_read_or_refused(folder)
