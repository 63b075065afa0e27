"""Every module that maps a file into memory: a file that was cut is refused in words, since a page that is not there ends the
process. A new one has to be added here, with what makes such a file and reads it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_layers import PACKAGE

from vldistill.errors import InputError, Problems

sys.path += [str(Path(__file__).parents[1] / name) for name in ("hostile", "data")]
import hostile_worlds as worlds
import region_files

MAPS = re.compile(r"\bmmap\b|memmap|\bload_file\(|lmdb\.open|safe_open")


def _cache(place: Path) -> tuple[Path, Callable[[], object]]:
    folder = worlds.make_cache(place)
    return folder / "shard-0000.h5", lambda: worlds.read_cache(folder)


def _records(place: Path) -> tuple[Path, Callable[[], object]]:
    from vldistill.data.records import RecordFile

    path = worlds.make_data(place) / "train.jsonl"
    count = path.read_text().count("\n")

    def read() -> None:
        found = RecordFile(path)
        if len(list(found)) != count:  # as its digest tells, wherever one is opened
            raise InputError("lacks records")

    return path, read


def _packed(place: Path) -> tuple[Path, Callable[[], object]]:
    folder = worlds.make_data(place, shards=2)
    return folder / "shards/index.npy", lambda: worlds.read_data(folder)


def _weights(place: Path) -> tuple[Path, Callable[[], object]]:
    folder = worlds.save_tiny_model(place / "m")
    return folder / "model.safetensors", lambda: worlds.read_model(folder)


def _checkpoint(place: Path) -> tuple[Path, Callable[[], object]]:
    folder = worlds.make_checkpoint(place / "run")
    return folder / "state.safetensors", lambda: worlds.read_state(folder)


def _lmdb(place: Path) -> tuple[Path, Callable[[], object]]:
    pytest.importorskip("lmdb")
    from vldistill.data.regions.importers import Reading, read_uniter_lmdb

    folder = region_files.write_lmdb(place / "lmdb", [region_files.make(f"dev-{number}-0-img0") for number in range(9)])

    def read() -> None:
        problems = Problems()
        list(read_uniter_lmdb(folder, Reading(problems)))
        problems.raise_if_any()

    return folder / "data.mdb", read


MODULES = {
    "store/shard.py": _cache,
    "data/records.py": _records,
    "data/images.py": _packed,
    "models/base/weights.py": _weights,
    "training/checkpoint.py": _checkpoint,
    "data/regions/lmdb_entries.py": _lmdb,
}


def test_all_are_known():
    found = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if MAPS.search(path.read_text())}
    assert found == set(MODULES)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.97])
def test_a_file_that_was_cut_is_refused(module, share, tmp_path):
    path, read = MODULES[module](tmp_path)
    read()
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(InputError):
        read()


def test_a_damaged_lmdb_ends_no_command(tmp_path, command):
    """Bits flipped where its pages begin, which hold the pointers that its library follows."""
    path, _ = _lmdb(tmp_path)
    whole, random, codes = path.read_bytes(), np.random.default_rng(0), []
    for _ in range(12):
        content = bytearray(whole)
        for place in random.integers(0, 64, 8) + 4096 * random.integers(0, len(whole) // 4096, 8):
            content[place] ^= 1 << int(random.integers(8))
        path.write_bytes(content)
        result = command("prepare", "regions", "import", "--raw", path.parent, "--out", tmp_path / "out", "--overwrite")
        assert result.code in (0, 2) and "Traceback" not in result.err, result
        codes.append(result.code)
    assert 2 in codes
