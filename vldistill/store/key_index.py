"""Rows by key: the keys sorted once, and looked up many at a time."""

from __future__ import annotations

import numpy as np

from vldistill.store.layout import KEY_BYTES, prefixes


class KeyIndex:
    """Finds keys among [N, 20] uint8 `keys`.

    Sorted are the first 8 bytes, as numbers; the rest is compared where they agree, so that keys that share them are told
    apart.
    """

    def __init__(self, keys: np.ndarray):
        numbers = prefixes(keys)
        self._rows, self._keys = np.argsort(numbers, kind="stable"), keys
        self._numbers = numbers[self._rows]

    def find(self, keys: np.ndarray) -> np.ndarray:
        """[K] int64: the row of each of [K, 20] uint8 keys (the first, where it has several), -1 where there is none."""
        result = np.full(len(keys), -1, np.int64)
        numbers = prefixes(keys)
        places = np.searchsorted(self._numbers, numbers)
        open_ = np.arange(len(keys))
        while True:
            open_ = open_[places[open_] < len(self._numbers)]
            open_ = open_[self._numbers[places[open_]] == numbers[open_]]
            if not len(open_):
                return result
            rows = self._rows[places[open_]]
            same = (self._keys[rows] == keys[open_]).all(axis=1)
            result[open_[same]] = rows[same]
            open_ = open_[~same]
            places[open_] += 1


def first_places(keys: np.ndarray) -> np.ndarray:
    """[U] int64: the place of each different key's first occurrence among [N, 20] uint8 keys, in the keys' order."""
    numbers = np.sort(prefixes(keys))
    # Nearly always: no two agree even in their first 8 bytes, and whole keys take ten times as long to sort.
    if (numbers[1:] != numbers[:-1]).all():
        return np.arange(len(keys))
    _, first = np.unique(keys.view(f"S{KEY_BYTES}").ravel(), return_index=True)
    return np.sort(first)
