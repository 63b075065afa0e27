"""A writer ends at any moment: nothing that it acknowledged is lost, nothing half written can be read, the next one goes on."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from cache_worlds import COLUMNS, FIELDS, fill, lengths_of, make_keys, readable, values_of

from vldistill.artifacts import MANIFEST
from vldistill.errors import VldistillError
from vldistill.store import writer as writer_module
from vldistill.store.manifest import store_folder
from vldistill.teachers.cache.store import CacheWriter, FeatureCache, verify_cache


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A function: the files of a cache of so many rows whose writer was never interrupted, name -> content, without journals
    and manifest, which say how it came about."""
    made = {}

    def contents(folder: Path) -> dict[str, bytes]:
        return {
            path.name: path.read_bytes()
            for path in folder.iterdir()
            if path.suffix in (".h5", ".json", ".tmp") and path.name != MANIFEST
        }

    def look(count: int) -> dict[str, bytes]:
        if count not in made:
            made[count] = contents(fill(tmp_path_factory.mktemp("whole"), make_keys(count)))
        return made[count]

    look.contents = contents
    return look


def continues(root: Path, count: int, acknowledged: int, whole) -> int:
    """Checks what a dead writer left, lets another finish it, and compares with an uninterrupted run. Returns how many rows
    were there."""
    folder, keys = store_folder(root, "swin", FIELDS), make_keys(count)
    there = np.zeros(count, bool)
    if (folder / MANIFEST).exists():
        there = readable(folder, keys)
        assert verify_cache(folder).damages == []
    assert there[:acknowledged].all()
    fill(root, keys)
    assert readable(folder, keys).all() and FeatureCache(folder).complete
    assert whole.contents(folder) == whole(count)
    return int(there.sum())


def dying_writer(root: Path, count: int, dies_at: int, calls: tuple[str, ...], part: float) -> tuple[int, bool]:
    """Writes in a forked process that ends at its `dies_at`-th system call of these; of a write, that share is still done.
    Returns how many rows it had acknowledged, and whether it came to its end instead."""
    keys, (reading, telling) = make_keys(count), os.pipe()
    child = os.fork()
    if not child:
        tell, seen = os.write, 0

        def instead(name, real):
            def call(*arguments, **named):
                nonlocal seen
                seen += 1
                if seen == dies_at:
                    if part:
                        real(arguments[0], bytes(arguments[1])[: int(part * len(arguments[1]))], *arguments[2:])
                    os._exit(9)
                return real(*arguments, **named)

            return call

        for name in calls:
            setattr(os, name, instead(name, getattr(os, name)))
        writer_module.COMMIT_BYTES = 1
        try:
            with CacheWriter(root, "swin", FIELDS, COLUMNS) as writer:
                writer.reserve(pending := writer.pending(keys, lengths_of(keys)))
                for first in range(0, count, 20):
                    places = pending.indices[first : first + 20]
                    if writer.put(places, values_of(keys[places])):
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


@pytest.mark.parametrize(
    "calls, part",
    [
        (("pwrite", "write", "fsync", "fdatasync", "posix_fallocate", "ftruncate", "replace"), 0.0),
        (("pwrite", "write"), 0.6),
    ],
    ids=["before it", "in the middle of a write"],
)
def test_death_at_every_system_call(root, whole, calls, part):
    deaths, kept = 0, set()
    while True:
        acknowledged, finished = dying_writer(root, 40, deaths + 1, calls, part)
        if finished:
            break
        deaths += 1
        kept.add(continues(root, 40, acknowledged, whole))
        shutil.rmtree(root)
    assert deaths > 15 and kept >= {0, 20}


def test_rows_are_synced_before_the_journal_names_them_and_the_journal_before_they_count(root, monkeypatch):
    """And a shard, its description and the manifest are on disk, with their names, before the first line of journal is."""
    keys, calls = make_keys(100), []

    def noting(call, real):
        def noted(*arguments):
            place = Path(arguments[-1] if call == "replace" else Path(f"/proc/self/fd/{arguments[0]}").readlink())
            calls.append((call, place.name))
            return real(*arguments)

        return noted

    for call in ("pwrite", "write", "fsync", "fdatasync"):
        monkeypatch.setattr(os, call, noting(call, getattr(os, call)))
    monkeypatch.setattr(Path, "replace", noting("replace", Path.replace))
    monkeypatch.setattr(writer_module, "COMMIT_BYTES", 1)
    with CacheWriter(root, "swin", FIELDS, COLUMNS) as writer:
        writer.reserve(pending := writer.pending(keys, lengths_of(keys)))
        reserved = len(calls)
        for first in range(0, 100, 50):
            calls.append(("put", ""))
            writer.put(pending.indices[first : first + 50], values_of(keys[first : first + 50]))
    file, journal, folder = "shard-0000.h5", "shard-0000.journal", writer.folder.name
    written = [("pwrite", file)] * 3
    assert calls[reserved:-3] == [("put", ""), *written, ("fdatasync", file), ("write", journal), ("fdatasync", journal)] * 2
    before = [call for call in calls[:reserved] if call[0] != "pwrite"][-9:]
    assert [name for call, name in before if call == "replace"] == [file, "shard-0000.json", "manifest.json"]
    for name in (file, "shard-0000.json", "manifest.json"):
        renamed = before.index(("replace", name))
        assert before[renamed - 1][0] == "fsync" and ("fsync", folder) in before[renamed:]


def kill_at_random(start, root: Path, whole, signals: list[int], count: int, batch: int) -> list[int]:
    """Starts a writer for each signal and sends it at a random moment; returns how many rows each had committed."""
    kept, moments = [], random.Random(batch)
    for number, ending in enumerate(signals):
        place = root / str(number)
        process = start(place, "--rows", count, "--batch", batch, "--pause", 0.3 / (count / batch), "--commit-bytes", 1)
        assert process.stdout.readline() == "ready\n"
        time.sleep(moments.uniform(0, 0.4))
        process.send_signal(ending)
        out, err = process.communicate(timeout=60)
        assert process.returncode in (-ending, 0) and err == ""
        # What was said before the end, without a last line that the end cut short.
        acknowledged = max([0, *map(int, out[: out.rfind("\n") + 1].split())])
        there = continues(place, count, acknowledged, whole)
        assert there - acknowledged <= batch
        kept.append(there)
    return kept


def test_killed_and_terminated_processes(start, root, whole):
    kept = kill_at_random(start, root, whole, [signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGTERM], 400, 16)
    assert any(0 < count < 400 for count in kept)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [250, 5])
def test_twenty_killed_processes(start, root, whole, batch):
    kept = kill_at_random(start, root, whole, [signal.SIGKILL] * 20, 4000 if batch == 250 else 1000, batch)
    assert sum(0 < count < 1000 * (1 + 3 * (batch == 250)) for count in kept) > 10


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit, ValueError])
def test_an_exception_keeps_all_that_was_put(root, whole, ending):
    keys = make_keys(100)
    with pytest.raises(ending), CacheWriter(root, "swin", FIELDS, COLUMNS) as writer:
        writer.reserve(pending := writer.pending(keys, lengths_of(keys)))
        assert not writer.put(pending.indices[:60], values_of(keys[:60]))
        raise ending
    assert not FeatureCache(writer.folder).complete
    assert continues(root, 100, 60, whole) == 60


def interrupt_second(monkeypatch, call: str) -> None:
    """The second of these system calls is done, and then Ctrl-C arrives."""
    real, seen = getattr(os, call), 0

    def interrupted(*arguments):
        nonlocal seen
        seen += 1
        result = real(*arguments)
        if seen == 2:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(writer_module, "COMMIT_BYTES", 1)
    monkeypatch.setattr(os, call, interrupted)


def put_all(writer: CacheWriter, keys: np.ndarray) -> list[type | None]:
    """Puts ten batches whatever becomes of each, and returns what did."""
    outcomes = []
    for first in range(0, len(keys), len(keys) // 10):
        places = np.arange(first, first + len(keys) // 10)
        try:
            writer.put(places, values_of(keys[places]))
            outcomes.append(None)
        except BaseException as error:
            outcomes.append(type(error))
    return outcomes


def test_an_interrupted_write_loses_its_batch_and_no_other(root, whole, monkeypatch):
    keys = make_keys(100)
    with CacheWriter(root, "swin", FIELDS, COLUMNS) as writer:
        writer.reserve(writer.pending(keys, lengths_of(keys)))
        interrupt_second(monkeypatch, "pwrite")
        assert put_all(writer, keys) == [KeyboardInterrupt, *[None] * 9]
        with pytest.raises(ValueError, match="put once"):
            writer.put(np.arange(10), values_of(keys[:10]))
    monkeypatch.undo()
    assert np.flatnonzero(readable(writer.folder, keys)).tolist() == list(range(10, 100))
    assert not FeatureCache(writer.folder).complete
    continues(root, 100, 0, whole)


@pytest.mark.parametrize("call", ["fdatasync", "write"])
def test_after_an_interrupted_commit_nothing_more_is_taken(root, whole, monkeypatch, call):
    keys = make_keys(100)
    with CacheWriter(root, "swin", FIELDS, COLUMNS) as writer:
        writer.reserve(writer.pending(keys, lengths_of(keys)))
        interrupt_second(monkeypatch, call)
        outcomes = put_all(writer, keys)
    kept = outcomes.index(KeyboardInterrupt)
    assert outcomes == [*[None] * kept, KeyboardInterrupt, *[VldistillError] * (9 - kept)]
    monkeypatch.undo()
    # Whether the line of the interrupted commit reached the file, nobody was told.
    assert 10 * kept <= continues(root, 100, 10 * kept, whole) <= 10 * kept + 10


@pytest.mark.parametrize(
    "tail",
    [
        b"{",
        b'{"rows":[60,80],"crc":[1,2,3],"seconds":0.0',
        b"\0" * 300,
        b"\0\n\0\n",
        b"\n",
        b"\xff\xfe\n",
    ],
)
def test_a_torn_end_of_a_journal_is_ignored_and_cut_off(root, whole, tail):
    keys = make_keys(100)
    with pytest.raises(KeyboardInterrupt), CacheWriter(root, "swin", FIELDS, COLUMNS) as writer:
        writer.reserve(pending := writer.pending(keys, lengths_of(keys)))
        writer.put(pending.indices[:60], values_of(keys[:60]))
        raise KeyboardInterrupt
    with (writer.folder / "shard-0000.journal").open("ab") as file:
        file.write(tail)
    assert continues(root, 100, 60, whole) == 60
    assert tail not in (writer.folder / "shard-0000.journal").read_bytes() or tail in b"{\n"


def test_a_failed_sync_ends_the_writing_and_nothing_of_it_is_believed(root, whole, monkeypatch):
    keys, real, seen = make_keys(100), os.fdatasync, 0

    def failing(descriptor):
        nonlocal seen
        seen += 1
        if seen == 3:
            raise OSError(5, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(writer_module, "COMMIT_BYTES", 1)
    monkeypatch.setattr(os, "fdatasync", failing)
    with pytest.raises(VldistillError, match=r"shard-0000\.h5: cannot be written: Input/output error") as caught:  # noqa: SIM117
        with CacheWriter(root, "swin", FIELDS, COLUMNS) as writer:
            writer.reserve(pending := writer.pending(keys, lengths_of(keys)))
            for first in range(0, 100, 20):
                places = pending.indices[first : first + 20]
                writer.put(places, values_of(keys[places]))
    assert caught.value.exit_code == 1 and seen == 3
    monkeypatch.undo()
    assert continues(root, 100, 20, whole) == 20
