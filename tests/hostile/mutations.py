"""What can befall a file: cut, flipped, emptied, put in another's place, or written by somebody who wishes no good.

Every mutation is drawn from a seeded generator and says what it has done. Those that leave the meaning of a file as it was are
allowed to go unseen, as long as what is read is what would have been read.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vldistill.artifacts import MANIFEST, fingerprint

DEEP = "[" * 100_000
HUGE = [10**400, 2**63, -1, 1e308, 0]
SEALED = "checksum made right"
STRANGE = [None, True, [], {}, "", "no", "../../../etc/passwd", "\0", 0.5, [[]], {"a": {"b": []}}, *HUGE]
"""Values that are hardly ever right, of every type."""
TIMES = {"created", "wall_s", "cost", "resumed", "command", "checksum"}
"""Of a manifest: what no two commands have in common."""

Damage = Callable[[Path, random.Random], str]


# --- any file ----------------------------------------------------------------------------------------------------------------


def cut(path: Path, chosen: random.Random) -> str:
    whole = path.read_bytes()
    length = chosen.randrange(max(1, len(whole) - 1))
    path.write_bytes(whole[:length])
    return f"cut to {length} of {len(whole)} bytes"


def flip(path: Path, chosen: random.Random) -> str:
    whole = bytearray(path.read_bytes())
    places = [chosen.randrange(len(whole)) for _ in range(chosen.choice([1, 1, 1, 8]))]
    for place in places:
        whole[place] ^= 1 << chosen.randrange(8)
    path.write_bytes(whole)
    return f"bits flipped in bytes {places}"


def zeros(path: Path, chosen: random.Random) -> str:
    whole = bytearray(path.read_bytes())
    start = chosen.randrange(len(whole))
    end = min(len(whole), start + 512)
    whole[start:end] = bytes(end - start)
    path.write_bytes(whole)
    return f"zeros from byte {start} on"


def empty(path: Path, chosen: random.Random) -> str:
    path.write_bytes(b"")
    return "emptied"


def gone(path: Path, chosen: random.Random) -> str:
    path.unlink()
    return "removed"


def folder_instead(path: Path, chosen: random.Random) -> str:
    path.unlink()
    path.mkdir()
    return "a folder in its place"


def dangling(path: Path, chosen: random.Random) -> str:
    path.unlink()
    path.symlink_to(path.with_name("nothing"))
    return "a link to nothing in its place"


def loop(path: Path, chosen: random.Random) -> str:
    path.unlink()
    path.symlink_to(path)
    return "a link to itself in its place"


def appended(path: Path, chosen: random.Random) -> str:
    with path.open("ab") as file:
        file.write(chosen.randbytes(40))
    return "40 bytes more"


def noise(path: Path, chosen: random.Random) -> str:
    path.write_bytes(chosen.randbytes(path.stat().st_size))
    return "noise of the same size"


def doubled(path: Path, chosen: random.Random) -> str:
    path.write_bytes(path.read_bytes() * 2)
    return "its content twice"


def another(path: Path, chosen: random.Random) -> str:
    others = [other for other in path.parent.iterdir() if other.is_file() and other != path]
    if not others:
        return empty(path, chosen)
    other = chosen.choice(sorted(others))
    path.write_bytes(other.read_bytes())
    return f"the content of {other.name}"


ANY: list[Damage] = [
    cut,
    cut,
    flip,
    flip,
    flip,
    zeros,
    empty,
    gone,
    folder_instead,
    dangling,
    loop,
    appended,
    noise,
    doubled,
    another,
]


# --- text --------------------------------------------------------------------------------------------------------------------


def other_encoding(path: Path, chosen: random.Random) -> str:
    name = chosen.choice(["utf-16", "utf-32"])
    path.write_bytes(path.read_bytes().decode(errors="replace").encode(name))
    return f"in {name}"


def not_text(path: Path, chosen: random.Random) -> str:
    whole = path.read_bytes()
    place = chosen.randrange(len(whole))
    path.write_bytes(whole[:place] + b"\xff\xfe\x80" + whole[place:])
    return f"bytes that are no UTF-8 at {place}"


def line_lost(path: Path, chosen: random.Random) -> str:
    lines = path.read_bytes().splitlines(keepends=True)
    number = chosen.randrange(len(lines))
    path.write_bytes(b"".join(lines[:number] + lines[number + 1 :]))
    return f"without line {number + 1}"


def line_twice(path: Path, chosen: random.Random) -> str:
    lines = path.read_bytes().splitlines(keepends=True)
    number = chosen.randrange(len(lines))
    path.write_bytes(b"".join([*lines, b"\n" * (not lines[-1].endswith(b"\n")), lines[number]]))
    return f"line {number + 1} once more"


TEXT: list[Damage] = [other_encoding, not_text, line_lost, line_twice]


# --- JSON --------------------------------------------------------------------------------------------------------------------


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths of all that a value consists of, itself first."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*path, key))


def parent_of(value: Any, path: tuple) -> Any:
    for key in path[:-1]:
        value = value[key]
    return value


def changed(value: Any, chosen: random.Random) -> tuple[Any, str]:
    """The value with something in it strange, missing or unknown."""
    value = json.loads(json.dumps(value))
    path = chosen.choice([path for path in places(value) if path] or [()])
    if not path:
        return chosen.choice(STRANGE), "another value"
    parent, key = parent_of(value, path), path[-1]
    what = chosen.choice(["strange", "strange", "strange", "missing", "unknown", "moved"])
    if what == "missing":
        del parent[key]
    elif what == "unknown" and isinstance(parent, dict):
        parent[f"{key}_"] = parent.pop(key)
    elif what == "moved" and isinstance(parent, dict) and len(parent) > 1:
        other = chosen.choice(sorted(name for name in parent if name != key))
        parent[key], parent[other] = parent[other], parent[key]
    else:
        parent[key] = chosen.choice(STRANGE)
        what = f"{str(parent[key])[:20]!r}"
    return value, f"{'.'.join(map(str, path))}: {what}"


def edited(path: Path, chosen: random.Random, *, seal: bool = False) -> str:
    """A JSON file with one thing changed; its checksum, if it has one, is made right again if `seal`."""
    value, told = changed(json.loads(path.read_bytes()), chosen)
    if seal and isinstance(value, dict):
        value["checksum"] = fingerprint({key: part for key, part in value.items() if key != "checksum"})
    path.write_text(json.dumps(value))
    return told


def edited_and_sealed(path: Path, chosen: random.Random) -> str:
    return edited(path, chosen, seal=True) + f", {SEALED}"


def edited_line(path: Path, chosen: random.Random) -> str:
    """The same for one line of JSONL."""
    lines = path.read_text().splitlines()
    number = chosen.randrange(len(lines))
    value, told = changed(json.loads(lines[number]), chosen)
    lines[number] = json.dumps(value)
    path.write_text("\n".join(lines) + "\n")
    return f"line {number + 1}, {told}"


def deep(path: Path, chosen: random.Random) -> str:
    path.write_text(chosen.choice([DEEP, '{"a":' * 100_000]))
    return "nested 100,000 levels deep"


def not_a_number(path: Path, chosen: random.Random) -> str:
    text = path.read_text()
    numbers = [place for place, letter in enumerate(text) if letter == ":" and text[place + 1 : place + 3].strip()[:1].isdigit()]
    if not numbers:
        return deep(path, chosen)
    place = chosen.choice(numbers)
    end = next(at for at in range(place + 2, len(text) + 1) if text[at : at + 1] in ",}\n")
    path.write_text(f"{text[:place]}: {chosen.choice(['NaN', 'Infinity', '1e999', '9' * 5000])}{text[end:]}")
    return f"no finite number at {place}"


JSON: list[Damage] = [*TEXT, edited, edited, edited_and_sealed, edited_and_sealed, edited_and_sealed, deep, not_a_number]
JSONL: list[Damage] = [*TEXT, edited_line, edited_line, deep, not_a_number]


def kinds_for(path: Path) -> list[Damage]:
    """What is likely to go wrong with such a file."""
    if path.suffix == ".json":
        return ANY + JSON * 2
    if path.suffix == ".jsonl":
        return ANY + JSONL * 2
    return ANY + TEXT if path.suffix in (".txt", ".yaml") else ANY


def damaged_copies(
    source: Path, place: Path, count: int, seed: int, names: list[str] | None = None
) -> Iterator[tuple[Path, str]]:
    """So many copies of a folder, in each of which one file was mutated, and what was done. names: of the files, all by
    default."""
    chosen = random.Random(seed)
    files = sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file() and path.stat().st_size)
    files = [path for path in files if names is None or str(path) in names]
    for number in range(count):
        copy = place / f"{number:03d}" / source.name
        shutil.copytree(source, copy)
        victim = files[number % len(files)]
        told = chosen.choice(kinds_for(victim))(copy / victim, chosen)
        yield copy, f"{victim}: {told}"
        shutil.rmtree(copy.parent)


def tree_of(folder: Path) -> dict[str, bytes | str]:
    """Everything below a folder, links as they are."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = str(path.readlink())
        else:
            found[name] = path.read_bytes() if path.is_file() else "folder"
    return found


def contents_of(folder: Path) -> dict:
    """All below a folder, without what depends on the clock."""
    found = tree_of(folder)
    for name in [name for name in found if name.endswith(MANIFEST)]:
        found[name] = {key: value for key, value in json.loads(found[name]).items() if key not in TIMES | {"files"}}
    for name in [name for name in found if name.endswith("metrics.jsonl")]:
        rows = [json.loads(line) for line in found[name].splitlines()]
        found[name] = [{key: value for key, value in row.items() if key != "pairs_per_s"} for row in rows]
    return {name: value for name, value in found.items() if not name.endswith(("log.txt", ".journal", ".lock"))}
