"""One bit flipped in every file of every kind of artifact, and every command that reads it: it is told in one line, or what comes
out is what would have come out. Nothing is used in silence."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mutations import contents_of
from workshop import in_child, make_unfinished, run_of

from vldistill.artifacts import MANIFEST

FUSION, DUAL = run_of("fusion"), run_of("dual")
ONE = "train.steps=1 --name a --runs {out}/runs"


@dataclass(frozen=True)
class Kind:
    """folder: of the artifact. readers: the commands that read it, by what they make below `out`, or print."""

    folder: str
    readers: tuple[str, ...]


KINDS = {
    "data": Kind(
        "data/mine",
        (
            f"evaluate {FUSION} --out {{out}}/eval",
            f"finetune -r fusion.yaml {ONE}",
            f"index build {DUAL} data/mine --out {{out}}/index",
            f"distill -r advl.yaml cache.path=cache {ONE}",
        ),
    ),
    "shards": Kind(
        "data/packed",
        (f"finetune -r fusion.yaml data.path=data/packed {ONE}", f"evaluate {FUSION} --data data/packed --out {{out}}/eval"),
    ),
    "cache": Kind(
        "cache",
        (f"distill -r advl.yaml cache.path=cache cache.mode=require {ONE}", "cache -r advl.yaml cache.path=cache --verify"),
    ),
    "regions": Kind("regions", (f"finetune -r oscar.yaml {ONE}", f"evaluate {run_of('oscar')} --out {{out}}/eval")),
    "index": Kind("index", (f"evaluate {DUAL} --index index --out {{out}}/eval", "index query index red --answer yes")),
    "run": Kind(
        FUSION,
        (
            f"evaluate {FUSION} --out {{out}}/eval",
            f"distill -r dual.yaml {ONE}",
            f"compare {FUSION} runs/fusion/b/seed1 --out {{out}}/c.json",
            "report runs/fusion/a runs/fusion/b",
        ),
    ),
    "unfinished run": Kind("runs/fusion/left/seed0", ("finetune -r fusion.yaml --name left --resume auto",)),
    "model": Kind("converted", ("predict converted --image photos/1.png --image photos/2.png --text a",)),
}


@pytest.fixture(scope="module")
def place(whole_workshop, tmp_path_factory, command) -> Iterator[Path]:
    """A workshop of this test's own, since it damages what is there."""
    folder = tmp_path_factory.mktemp("flipped") / "at"
    shutil.copytree(whole_workshop, folder, symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_unfinished(command)
        shutil.move("runs/fusion/left", "left")
        yield folder


def shown(result) -> str:
    """What was printed, without times."""
    lines = [line for line in result.out.splitlines() if line.strip()]
    last = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else None
    if last is not None:
        lines[-1] = json.dumps({key: value for key, value in last.items() if not key.startswith(("seconds", "wall"))})
    return "\n".join(line for line in lines if " s" not in line and "pairs/s" not in line)


def outcome(command, reader: str, out: Path) -> tuple:
    """Exit code, error, and what came out but for times: files, or else the text."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    resumed = "--resume" in reader
    if resumed:
        shutil.rmtree("runs/fusion/left", ignore_errors=True)
        shutil.copytree("left", "runs/fusion/left")
    result = in_child(command, [word.format(out=out) for word in reader.split()])
    files = contents_of(Path("runs/fusion/left") if resumed and not result.code else out)
    for name in [name for name in files if name.endswith("metrics.json")]:
        files[name] = {key: value for key, value in json.loads(files[name]).items() if key not in ("seconds", "checksum")}
    for name in [name for name in files if name.endswith(MANIFEST)]:
        files[name].pop("best", None)
    return result.code, result.err, files or shown(result)


def flips(path: Path, count: int, chosen: random.Random) -> Iterator[str]:
    """One after the other, each taken back."""
    whole, state = path.read_bytes(), path.stat()
    for _ in range(count if whole else 0):
        place, bit = chosen.randrange(len(whole)), chosen.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        try:
            yield f"bit {bit} of byte {place:,} of {len(whole):,}"
        finally:
            path.write_bytes(whole)
            os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def check(kind: str, command, place: Path, count: int, seed: int = 0, readers: int | None = None) -> tuple[int, int, list[str]]:
    """Flips times readers tried, how many were told, and those that were silent."""
    chosen, out, tried, told, silent = random.Random(f"{kind}{seed}"), place.parent / "out", 0, 0, []
    folder = Path("left/seed0" if kind == "unfinished run" else KINDS[kind].folder)
    for reader in KINDS[kind].readers[:readers]:
        whole = outcome(command, reader, out)
        assert whole[0] == 0, (reader, whole[1])
        for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"):
            for flip in flips(path, count, chosen):
                code, error, found = outcome(command, reader, out)
                tried += 1
                lines = error.splitlines()
                refused = code in (1, 2) and lines and all(line.startswith("vldistill: ") for line in lines)
                flagged = code == 0 and reader.startswith("report") and found != whole[2] and "not counted" in str(found)
                if refused or flagged:
                    told += 1
                elif code or found != whole[2]:
                    silent.append(f"{reader}: {path}: {flip}: exit {code} {error[-1500:]}")
    return tried, told, silent


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_told_or_harmless(kind, place, command):
    """By the first of its readers; the slow test takes all of them."""
    tried, told, silent = check(kind, command, place, 1, readers=1)
    assert tried >= told and not silent, "\n".join(silent)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_eight_in_every_file(kind, place, command):
    tried, told, silent = check(kind, command, place, 8, seed=1)
    print(f"{kind}: {tried} tried, {told} told, {len(silent)} silent")
    assert told and not silent, "\n".join(silent)
