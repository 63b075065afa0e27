"""Artifacts of every kind in which one file was cut, flipped, edited, swapped or replaced: each is refused in one clear line, or
read as exactly what was written."""

from __future__ import annotations

import pytest
from hostile_worlds import FILES, KINDS
from mutations import damaged_copies, tree_of

SEED = 20


def check_all(kind: str, count: int, seed: int, place, outcome) -> int:
    """Damages a whole artifact so many times; returns how often it was refused."""
    make, read, _ = KINDS[kind]
    whole = make(place / "whole")
    intact, refused = outcome(lambda: read(whole)), 0
    assert intact.code == 0, intact.err
    for copy, told in damaged_copies(whole, place / "damaged", count, seed, FILES.get(kind)):
        before = tree_of(copy)
        # A message may name the artifact, or a file in it.
        refused += outcome(lambda copy=copy: read(copy)).check(told, intact.value, str(copy))
        assert tree_of(copy) == before, f"{told}: something was written"
    return refused


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_damaged_is_refused_or_read_as_it_was(kind, tmp_path, outcome):
    count = KINDS[kind][2]
    # Not all damage hides a value: spaces, padding, an image packed twice.
    assert check_all(kind, count, SEED, tmp_path, outcome) > count // 2


def test_there_are_enough_of_them():
    assert sum(count for _, _, count in KINDS.values()) >= 200


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_more(kind, tmp_path, outcome):
    assert check_all(kind, 1000, SEED + 1, tmp_path, outcome) > 500
