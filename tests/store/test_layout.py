"""Columns, keys, parts, and HDF5 files that are laid out without being written."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from store_worlds import COLUMNS, fill, lengths_of, make_keys, values_of

from vldistill.errors import InputError
from vldistill.store.layout import Column, KeyIndex, as_keys, checked_columns, first_places, owners


@pytest.mark.parametrize(
    "arguments",
    [
        ("keys", "float16"),
        ("", "float16"),
        ("A", "float16"),
        ("a.starts", "float16"),
        ("a/b", "float16"),
        (3, "float16"),
        ("a", "object"),
        ("a", "bfloat16"),
        ("a", "complex64"),
        ("a", "<f2"),
        ("a", "float16", (0,)),
        ("a", "float16", (2.0,)),
        ("a", "float16", (True,)),
        ("a", "float16", (4,), 1),
    ],
)
def test_a_column_that_cannot_be_stored_is_refused(arguments):
    with pytest.raises(InputError):
        Column(*arguments)


def test_columns_have_different_names_and_there_is_one():
    for columns in ([], [Column("a", "int8"), Column("a", "int16")]):
        with pytest.raises(InputError, match="columns of different names"):
            checked_columns(columns)


def test_columns_come_back_from_json():
    assert [Column.from_json(column.json()) for column in COLUMNS] == list(COLUMNS)


def test_keys_are_taken_in_three_forms():
    plain = [bytes(range(20)), b"\0" * 20, b"a" + b"\0" * 19]
    expected = np.array([list(key) for key in plain], np.uint8)
    for keys in (plain, expected, np.array(plain, "S20")):
        np.testing.assert_array_equal(as_keys(keys), expected)
    assert as_keys([]).shape == (0, 20)
    for wrong in ([b"short"], np.zeros((3, 19), np.uint8), np.zeros((3, 20), np.int64), np.array(["a" * 20])):
        with pytest.raises(ValueError):
            as_keys(wrong)


def test_a_key_belongs_to_the_part_that_its_first_8_bytes_name():
    keys = [
        (5).to_bytes(8, "big") + b"\xff" * 12,
        (2**64 - 1).to_bytes(8, "big") + b"\0" * 12,
        (256).to_bytes(8, "big") + b"x" * 12,
    ]
    assert owners(as_keys(keys), 7).tolist() == [5, (2**64 - 1) % 7, 256 % 7]
    many = make_keys(1000)
    assert owners(many, 3).tolist() == [int.from_bytes(key[:8].tobytes(), "big") % 3 for key in many]


def test_keys_that_share_their_first_bytes_are_told_apart():
    same = [b"abcdefgh" + bytes([number]) * 12 for number in range(9)]
    keys = as_keys([*same[:7], b"z" * 20, *same[:2]])
    index = KeyIndex(keys[2:9])
    assert index.find(as_keys([*same, b"z" * 20, b"a" * 20, b"~" * 20])).tolist() == [6, -1, 0, 1, 2, 3, 4, -1, -1, 5, -1, -1]
    assert first_places(keys).tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert first_places(as_keys([])).tolist() == []
    assert KeyIndex(keys[:0]).find(keys).tolist() == [-1] * 10


def test_a_shard_is_the_file_that_hdf5_reads(root):
    keys = make_keys(100)
    [folder] = {fill(root / name, keys).name for name in "ab"}
    one, other = ((root / name / folder / "shard-0000.h5").read_bytes() for name in "ab")
    assert one == other
    offsets = json.loads((root / "a" / folder / "shard-0000.json").read_text())["offsets"]
    with h5py.File(root / "a" / folder / "shard-0000.h5", "r") as file:
        assert set(file) == set(offsets) == {"keys", "scores.starts", "words.starts", "pooled", "scores", "words"}
        for name, value in {"keys": keys, **values_of(keys)}.items():
            assert file[name].chunks is None and file[name].compression is None
            assert file[name].id.get_offset() == offsets[name] and offsets[name] % 64 == 0
            np.testing.assert_array_equal(file[name][...], value)
        for name, count in lengths_of(keys).items():
            np.testing.assert_array_equal(np.diff(file[f"{name}.starts"][...]), count)
