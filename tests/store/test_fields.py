"""Which cache is whose: stale ones are not found, the nearest is named with what differs, and the list shows what there is."""

from __future__ import annotations

import json
import shutil

import pytest
from store_worlds import COLUMNS, FIELDS, fill, list_caches, make_keys, put

from vldistill import artifacts
from vldistill.errors import InputError
from vldistill.store.inspection import nearest
from vldistill.store.uses import FEATURES
from vldistill.teachers.cache import CacheWriter, FeatureCache, open_cache

KEYS = make_keys(40)


@pytest.mark.parametrize(
    "field, value",
    [
        ("weights", "0a1c"),
        ("layer", 11),
        ("pooling", "cls"),
        ("size", 224),
        ("tokenizer", "roberta"),
        ("dtype", "float32"),
    ],
)
def test_a_changed_field_finds_no_rows_and_is_named(root, field, value):
    folder, changed = fill(root, KEYS), {**FIELDS, field: value}
    assert open_cache(root, "swin", FIELDS).folder == folder
    with pytest.raises(InputError) as caught:
        open_cache(root, "swin", changed)
    assert f"{folder} differs: {field} is {FIELDS[field]} there, {value} is asked for" in str(caught.value)
    assert "vldistill cache" in str(caught.value) and "\n" not in str(caught.value)
    with CacheWriter(root, "swin", changed, COLUMNS) as writer:
        assert writer.folder != folder and len(writer.pending(KEYS)) == 40


def test_the_order_of_fields_does_not_matter(root):
    fill(root, KEYS)
    assert len(open_cache(root, "swin", dict(reversed(FIELDS.items())))) == 40


def test_the_nearest_is_the_one_with_the_fewest_differences(root):
    assert nearest(root, "swin", FIELDS, FEATURES) is None
    fill(root, KEYS, fields={**FIELDS, "layer": 11, "size": 224})
    near = fill(root, KEYS, fields={**FIELDS, "layer": 10})
    fill(root, KEYS, fields={"teacher": "swin"})
    (root / "swin-000000000000").mkdir()
    (root / "swin-000000000000" / "manifest.json").write_text("{")
    found = nearest(root, "swin", FIELDS, FEATURES)
    assert (found.folder, found.differences) == (near, {"layer": (10, 12)})
    assert nearest(root, "swin", {**FIELDS, "layer": 10, "extra": "x"}, FEATURES).differences == {"extra": (None, "x")}
    assert nearest(root, "vit", FIELDS, FEATURES) is None
    with pytest.raises(InputError, match="no such cache \\(make it with"):
        open_cache(root, "vit", FIELDS)


def test_a_manifest_of_other_fields_than_its_folder_says_is_refused_with_both(root):
    folder = fill(root, KEYS)
    value = json.loads((folder / "manifest.json").read_text())
    value["fields"]["layer"] = 11
    given = artifacts.fingerprint(value["fields"])[:12]
    del value["checksum"]
    artifacts.write_manifest(folder, {**value, "checksum": artifacts.fingerprint(value)})
    with pytest.raises(InputError) as caught:
        FeatureCache(folder)
    assert given in str(caught.value) and folder.name[-12:] in str(caught.value)
    moved = folder.rename(folder.with_name("copy"))
    with pytest.raises(InputError, match="says neither"):
        FeatureCache(moved)


def test_the_list_says_what_there_is_and_what_it_cost(root, monkeypatch):
    assert list_caches(root) == []
    whole = fill(root, KEYS)
    partial = CacheWriter(root, "partial", FIELDS, COLUMNS)
    moment = [100.0]
    monkeypatch.setattr("vldistill.store.writer.time.monotonic", lambda: moment[0])
    with partial as writer:
        writer.pending(KEYS)
        writer.begin()
        for first in (0, 10):
            moment[0] += 1.5
            put(writer, KEYS[first : first + 10])
            writer.commit()
    damaged = fill(root, KEYS, fields={"layer": 1})
    (damaged / "shard-0000.json").write_text("{")
    for foreign in ("notes", "swin-123", "x-0123456789ab"):
        (root / foreign).mkdir()
    (root / "file-0123456789ab").write_text("")
    found = {listing.folder: listing for listing in list_caches(root)}
    assert set(found) == {whole, partial.folder, damaged}
    first, second, third = found[whole], found[partial.folder], found[damaged]
    assert (first.name, first.fields, first.rows, first.wanted) == ("swin", FIELDS, 40, 40)
    assert first.complete and first.problem is None
    assert first.bytes == sum(path.stat().st_size for path in whole.iterdir())
    assert (second.name, second.rows, second.wanted, second.complete, second.seconds) == ("partial", 20, 40, False, 3.0)
    assert "shard-0000.json: was edited" in third.problem
    shutil.rmtree(root)
    assert list_caches(root) == []
