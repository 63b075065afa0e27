"""A writer ends at any moment: nothing that it acknowledged is lost, nothing half written can be read, the next one goes on."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import stat
import time
from pathlib import Path

import numpy as np
import pytest
from store_worlds import COLUMNS, FIELDS, fill, make_keys, put, readable, verify_cache

from vldistill.artifacts import MANIFEST
from vldistill.errors import VldistillError
from vldistill.store import writer as writer_module
from vldistill.store.layout import load_manifest, store_folder
from vldistill.store.uses import FEATURES
from vldistill.teachers.cache import CacheWriter, FeatureCache


def continues(root: Path, count: int, acknowledged: int) -> int:
    """Checks what a dead writer left, lets another finish it, which keeps all that is there. Returns how many rows were there."""
    folder, keys = store_folder(root, "swin", FIELDS), make_keys(count)
    there, shards = np.zeros(count, bool), {}
    if (folder / MANIFEST).exists():
        there = readable(folder, keys)
        assert verify_cache(folder).damages == []
        shards = {name: (folder / f"{name}.h5").read_bytes() for name in load_manifest(folder, FEATURES).shards}
    assert there[:acknowledged].all()
    fill(root, keys)
    assert readable(folder, keys).all() and FeatureCache(folder).complete
    named = load_manifest(folder, FEATURES).shards
    assert {name: (folder / f"{name}.h5").read_bytes() for name in shards} == shards
    files = sorted(f"{name}.{kind}" for name in named for kind in ("h5", "json"))
    assert sorted(path.name for path in folder.glob("*shard*")) == files and not list(folder.glob(".*.tmp"))
    return int(there.sum())


def dying_writer(root: Path, count: int, dies_at: int, half: bool) -> tuple[int, bool]:
    """Writes in a forked process that ends at its `dies_at`-th sync, rename or removal of a file; half: what was to be synced is
    then half-written. Returns how many rows it had acknowledged, and whether it came to its end instead."""
    keys, (reading, telling) = make_keys(count), os.pipe()
    child = os.fork()
    if not child:
        tell, seen = os.write, 0

        def instead(real):
            def call(*arguments, **named):
                nonlocal seen
                seen += 1
                if seen == dies_at:
                    if half and isinstance(arguments[0], int) and stat.S_ISREG(os.fstat(arguments[0]).st_mode):
                        os.ftruncate(arguments[0], os.fstat(arguments[0]).st_size // 2)
                    os._exit(9)
                return real(*arguments, **named)

            return call

        for place, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink")):
            setattr(place, name, instead(getattr(place, name)))
        writer_module.SHARD_BYTES = 1
        try:
            with CacheWriter(root, "swin", FIELDS, COLUMNS) as writer:
                writer.pending(keys)
                for first in range(0, count, 20):
                    if put(writer, keys[first : first + 20]):
                        tell(telling, bytes([first + 20]))
            os._exit(0)
        finally:
            os._exit(1)
    os.close(telling)
    with os.fdopen(reading, "rb") as file:
        told = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return (told[-1] if told else 0), code == 0


@pytest.mark.parametrize("half", [False, True], ids=["before it", "in the middle of a write"])
def test_death_at_every_system_call(root, half):
    deaths, kept = 0, set()
    while True:
        acknowledged, finished = dying_writer(root, 40, deaths + 1, half)
        if finished:
            break
        deaths += 1
        kept.add(continues(root, 40, acknowledged))
        shutil.rmtree(root)
    assert deaths > 15 and kept >= {0, 20}


def test_a_shard_is_on_disk_before_the_manifest_names_it(root, monkeypatch):
    """Its file, its table and their names, and the manifest with its name before a row is acknowledged."""
    keys, calls = make_keys(100), []

    def noting(call, real):
        def noted(*arguments):
            place = Path(arguments[-1] if call == "replace" else Path(f"/proc/self/fd/{arguments[0]}").readlink())
            calls.append((call, re.sub(r"\.\d+\.tmp$", "", place.name).removeprefix(".")))
            return real(*arguments)

        return noted

    monkeypatch.setattr(os, "fsync", noting("fsync", os.fsync))
    monkeypatch.setattr(Path, "replace", noting("replace", Path.replace))
    monkeypatch.setattr(writer_module, "SHARD_BYTES", 1)
    with CacheWriter(root, "swin", FIELDS, COLUMNS) as writer:
        writer.pending(keys)
        calls.clear()
        assert put(writer, keys)
        file, table, folder = "shard-0000.h5", "shard-0000.json", writer.folder.name
        files = [("fsync", file), ("fsync", table), ("replace", file), ("replace", table), ("fsync", folder)]
        assert calls == [*files, ("fsync", "manifest.json"), ("replace", "manifest.json"), ("fsync", folder)]


def kill_at_random(start, root: Path, signals: list[int], count: int, batch: int) -> list[int]:
    """Starts a writer for each signal and sends it at a random moment; returns how many rows each had written. A shard is as
    large as a batch."""
    kept, moments = [], random.Random(batch)
    for number, ending in enumerate(signals):
        place = root / str(number)
        process = start(place, "--rows", count, "--batch", batch, "--pause", 0.3 / (count / batch), "--shard-bytes", 1)
        assert process.stdout.readline() == "ready\n"
        time.sleep(moments.uniform(0, 0.4))
        process.send_signal(ending)
        out, err = process.communicate(timeout=60)
        assert process.returncode in (-ending, 0) and err == ""
        # What was said before the end, without a last line that the end cut short.
        acknowledged = max([0, *map(int, out[: out.rfind("\n") + 1].split())])
        there = continues(place, count, acknowledged)
        assert there - acknowledged <= batch
        kept.append(there)
    return kept


def test_killed_and_terminated_processes(start, root):
    kept = kill_at_random(start, root, [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGTERM], 400, 16)
    assert any(0 < count < 400 for count in kept)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [250, 5])
def test_twenty_killed_processes(start, root, batch):
    kept = kill_at_random(start, root, [signal.SIGKILL] * 20, 4000 if batch == 250 else 1000, batch)
    assert sum(0 < count < 1000 * (1 + 3 * (batch == 250)) for count in kept) > 10


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit, ValueError])
def test_an_exception_keeps_all_that_was_put(root, ending):
    keys = make_keys(100)
    with pytest.raises(ending), CacheWriter(root, "swin", FIELDS, COLUMNS) as writer:
        writer.pending(keys)
        assert not put(writer, keys[:60])
        raise ending
    assert not FeatureCache(writer.folder).complete
    assert continues(root, 100, 60) == 60


def put_all(writer: CacheWriter, keys: np.ndarray) -> list[type | None]:
    """Puts ten batches whatever becomes of each, and returns what did."""
    outcomes = []
    for first in range(0, len(keys), len(keys) // 10):
        try:
            put(writer, keys[first : first + len(keys) // 10])
            outcomes.append(None)
        except BaseException as error:
            outcomes.append(type(error))
    return outcomes


@pytest.mark.parametrize("when", range(1, 9))
def test_after_an_interrupted_shard_nothing_more_is_taken(root, monkeypatch, when):
    """Ctrl-C arrives as a system call is done."""
    keys, seen = make_keys(100), 0

    def interrupted(real):
        def call(*arguments):
            nonlocal seen
            seen += 1
            result = real(*arguments)
            if seen == when:
                raise KeyboardInterrupt
            return result

        return call

    with CacheWriter(root, "swin", FIELDS, COLUMNS) as writer:
        writer.pending(keys)
        monkeypatch.setattr(writer_module, "SHARD_BYTES", 1)
        monkeypatch.setattr(os, "fsync", interrupted(os.fsync))
        monkeypatch.setattr(Path, "replace", interrupted(Path.replace))
        outcomes = put_all(writer, keys)
        with pytest.raises(ValueError, match="put once"):
            put(writer, keys[:10])
    monkeypatch.undo()
    assert outcomes == [KeyboardInterrupt, *[VldistillError] * 9]
    # Whether the manifest of the interrupted shard reached the disk, nobody was told.
    assert continues(root, 100, 0) in (0, 10)


def test_a_failed_sync_ends_the_writing_and_nothing_of_it_is_believed(root, monkeypatch):
    keys, real, seen = make_keys(100), os.fsync, 0

    def failing(descriptor):
        nonlocal seen
        seen += "shard" in str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if seen == 3:
            raise OSError(5, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(writer_module, "SHARD_BYTES", 1)
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(VldistillError, match=r"shard-0001\.h5: cannot write [\d,]+ bytes: Input/output error") as caught:  # noqa: SIM117
        with CacheWriter(root, "swin", FIELDS, COLUMNS) as writer:
            writer.pending(keys)
            for first in range(0, 100, 20):
                put(writer, keys[first : first + 20])
    assert caught.value.exit_code == 1 and seen == 3
    monkeypatch.undo()
    assert continues(root, 100, 20) == 20
