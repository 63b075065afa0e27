"""HDF5 and safetensors files with anything in them, read in a process of their own, whose end is looked at."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from hostile_worlds import (
    make_cache,
    make_checkpoint,
    make_index,
    make_regions,
    read_cache,
    read_index,
    read_model,
    read_regions,
    read_state,
    save_tiny_model,
)
from mutations import SEALED, cut, flip, noise, zeros

H5 = {"regions": (make_regions, read_regions), "index": (make_index, read_index), "cache": (make_cache, read_cache)}
SAFETENSORS = {"model": (lambda place: save_tiny_model(place / "model"), read_model), "checkpoint": (make_checkpoint, read_state)}
BATCH = 50
LONGEST = 2


def header(path: Path, chosen: random.Random) -> str:
    """Bits flipped where a format keeps its structure."""
    whole = bytearray(path.read_bytes())
    for _ in range(chosen.randrange(1, 6)):
        whole[chosen.randrange(min(len(whole), 4096))] ^= 1 << chosen.randrange(8)
    path.write_bytes(whole)
    return "bits flipped in the first 4 KB"


def length(path: Path, chosen: random.Random) -> str:
    """Eight bytes of a number that is far too large, somewhere at the beginning."""
    whole = bytearray(path.read_bytes())
    place = chosen.choice([0, chosen.randrange(min(len(whole), 2048))])
    whole[place : place + 8] = chosen.choice([b"\xff" * 8, b"\xff" * 7 + b"\x7f", (1 << 40).to_bytes(8, "little")])
    path.write_bytes(whole)
    return f"a huge number at {place}"


KINDS = [header, header, header, length, flip, cut, zeros, noise]


def read_all(cases: list[tuple[Path, str]], read, outcome) -> None:
    """Asserts in a child process that each is read within its time, or refused in one line."""
    child = os.fork()
    if not child:
        code = 1
        try:
            for copy, told in cases:
                signal.alarm(20)  # real time; what a refusal may take is measured on the processor's clock
                # What was not written down elsewhere can differ unseen: of these files, only that they do no harm is asked.
                outcome(lambda copy=copy: read(copy)).check(f"{told}, {SEALED}", None, str(copy))
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}"[:2000], flush=True)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def fuzz(suffix: str, count: int, seed: int, place: Path, outcome) -> None:
    chosen, kinds = random.Random(seed), H5 if suffix == ".h5" else SAFETENSORS
    for name, (make, read) in kinds.items():
        whole = make(place / name)
        victims = sorted(path.relative_to(whole) for path in whole.rglob(f"*{suffix}"))
        started, cases = time.monotonic(), []
        for number in range(-(-count // len(kinds))):
            copy = place / f"{name}-copies" / f"{number:04d}" / whole.name
            shutil.copytree(whole, copy)
            victim = copy / chosen.choice(victims)
            cases.append((copy, f"{victim.name}: {chosen.choice(KINDS)(victim, chosen)}"))
            if len(cases) == BATCH:
                read_all(cases, read, outcome)
                cases = []
        read_all(cases, read, outcome)
        shutil.rmtree(place / f"{name}-copies")
        assert time.monotonic() - started < 60 + LONGEST * count


@pytest.mark.parametrize("suffix", [".h5", ".safetensors"])
def test_some(suffix, tmp_path, outcome):
    fuzz(suffix, 45, 1, tmp_path, outcome)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".h5", ".safetensors"])
def test_a_thousand(suffix, tmp_path, outcome):
    fuzz(suffix, 1000, 2, tmp_path, outcome)
