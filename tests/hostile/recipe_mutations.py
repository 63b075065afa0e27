"""Recipes that are wrong by construction: each mutation of a good one leaves nothing that could be meant."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import yaml
from mutations import parent_of, places

from vldistill.recipe.load import load_recipe

_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
BASES = ("quickstart_dide", "quickstart_advl", "quickstart_fusion", "quickstart_retrieval", "dide_vilt_vqa", "advl_vlbert_vcr")


def base(name: str) -> dict[str, Any]:
    """A shipped recipe with every field written out."""
    return load_recipe(name).model_dump()


def text_of(values: Any) -> str:
    return yaml.dump(values, Dumper=_DUMPER, sort_keys=False)


def leaves(values: dict[str, Any], kind: type | tuple[type, ...]) -> list[tuple]:
    """The paths of all values of a type."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return [path for path in places(values) if path and type(parent_of(values, path)[path[-1]]) in kinds]


# --- changed values: what YAML they are written in does not matter --------------------------------------------------------------


def unknown_key(values, chosen) -> str:
    path = chosen.choice([path for path in places(values) if path and isinstance(path[-1], str)])
    parent = parent_of(values, path)
    parent[chosen.choice([path[-1] + "_", path[-1].upper(), "colour", "__class__", "!!python"])] = 1
    return f"an unknown key beside {'.'.join(map(str, path))}"


def wrong_type(values, chosen) -> str:
    path = chosen.choice(leaves(values, (int, float)))
    given = chosen.choice([[], {}, "many", "0x10", "1_000", "1:30", True, ["1"], {"a": 1}])
    parent_of(values, path)[path[-1]] = given
    return f"{'.'.join(map(str, path))}: {given!r}"


def text_for_a_table(values, chosen) -> str:
    path = chosen.choice(["data", "text", "student", "objective", "optim", "train"])
    values[path] = chosen.choice(["all", 3, [1, 2], True])
    return f"{path}: {values[path]!r}"


def number_for_text(values, chosen) -> str:
    path = chosen.choice([("data", "path"), ("data", "train"), ("data", "val"), ("student", "kind"), ("objective", "kind")])
    given = chosen.choice([5, 0.5, False, [], ["x"], {}])
    parent_of(values, path)[path[-1]] = given
    return f"{'.'.join(path)}: {given!r}"


def out_of_range(values, chosen) -> str:
    path = chosen.choice(
        [
            ("optim", "lr"),
            ("optim", "eps"),
            ("train", "log_every"),
            ("text", "max_length"),
            ("image", "size"),
            ("train", "batch", "accumulate"),
        ]
    )
    given = chosen.choice([0, -1, -(10**30)])
    parent_of(values, path)[path[-1]] = given
    return f"{'.'.join(path)}: {given}"


def not_finite(values, chosen) -> str:
    path = chosen.choice(leaves(values, float))
    given = chosen.choice([".nan", ".inf", "-.inf", "nan", "inf", "1e999", "-1e999", "9" * 400])
    parent_of(values, path)[path[-1]] = f"RAW{given}"
    return f"{'.'.join(map(str, path))}: {given}"


def missing(values, chosen) -> str:
    path = chosen.choice([("data", "path"), ("student", "kind"), ("objective", "kind"), ("data",), ("student",), ("train",)])
    del parent_of(values, path)[path[-1]]
    return f"without {'.'.join(path)}"


def both_lengths(values, chosen) -> str:
    values["train"] |= chosen.choice([{"epochs": 1, "steps": 1}, {"epochs": None, "steps": None}])
    return "epochs and steps, or neither"


def unknown_choice(values, chosen) -> str:
    path = chosen.choice(
        [("student", "kind"), ("objective", "kind"), ("train", "precision"), ("optim", "kind"), ("image", "augment")]
    )
    given = chosen.choice(["os.system", "../vilt", "VILT", "", "vilt\0", "𝓿ilt"])
    parent_of(values, path)[path[-1]] = given
    return f"{'.'.join(path)}: {given!r}"


VALUES = [
    unknown_key,
    wrong_type,
    text_for_a_table,
    number_for_text,
    out_of_range,
    not_finite,
    missing,
    both_lengths,
    unknown_choice,
]


# --- changed text ------------------------------------------------------------------------------------------------------------


def insert(text: str, chosen: random.Random, line: str) -> str:
    lines = text.splitlines(keepends=True)
    tops = [number for number, one in enumerate(lines) if one[:1].isalpha()]
    place = chosen.choice(tops)
    return "".join([*lines[:place], line + "\n", *lines[place:]])


def twice(text, chosen):
    tops = [line.split(":")[0] for line in text.splitlines() if line[:1].isalpha()]
    return (text + f"{chosen.choice(tops)}: 1\n").encode()


def tag(text, chosen):
    given = chosen.choice(
        [
            "!!python/object/apply:os.system ['touch executed']",
            "!!python/name:os.system ''",
            "!!binary aGk=",
            "!!python/object/new:subprocess.Popen [['touch', 'executed']]",
            "!own 1",
            "!!timestamp 2020-01-01",
            "!!python/module:os ''",
            "!!set {a, b}",
        ]
    )
    return insert(text, chosen, f"name: {given}" if chosen.random() < 0.5 else f"zzz: {given}").encode()


def alias(text, chosen):
    depth = chosen.choice([1, 30])
    lists = ["x", *(", ".join([f"*b{number}"] * 9) for number in range(depth - 1))]
    bomb = "\n".join(f"b{number}: &b{number} [{inner}]" for number, inner in enumerate(lists))
    return f"{bomb}\nzzz: *b{depth - 1}\n{text}".encode()


def merge(text, chosen):
    return insert(text, chosen, "<<: {a: 1}").encode()


def nested(text, chosen):
    return insert(text, chosen, f"zzz: {chosen.choice(['[', '{a: ']) * chosen.choice([30, 5000])}").encode()


def broken(text, chosen):
    line = chosen.choice(
        [
            "zzz: [1, 2",
            "zzz: {a: ",
            "zzz: 'open",
            'zzz: "\\q"',
            "\tzzz: 1",
            "zzz: : :",
            "- zzz",
            "%YAML 9.9",
            "? zzz",
            "zzz: a: b",
            "zzz: @at",
            "zzz: `tick`",
            "}",
            "zzz",
        ]
    )
    return insert(text, chosen, line).encode()


def documents(text, chosen):
    return (text + "---\n" + text).encode()


def control(text, chosen):
    place = chosen.randrange(len(text))
    return (text[:place] + chosen.choice("\0\x01\x07\x1b\x7f") + text[place:]).encode()


def encoding(text, chosen):
    whole = text.replace("description:", "description: é ", 1) if "description:" in text else text
    return whole.encode(chosen.choice(["utf-16", "utf-32", "utf-16-le"]))


def bytes_between(text, chosen):
    whole = text.encode()
    place = chosen.randrange(len(whole))
    return whole[:place] + chosen.choice([b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"]) + whole[place:]


def key_flipped(text, chosen):
    """A bit flipped in the name of a section."""
    lines = text.splitlines(keepends=True)
    number = chosen.choice([number for number, one in enumerate(lines) if one[:1].isalpha() and not one.startswith("desc")])
    name = lines[number].split(":")[0]
    place = chosen.randrange(len(name))
    lines[number] = lines[number][:place] + chr(ord(lines[number][place]) ^ 4) + lines[number][place + 1 :]
    return "".join(lines).encode()


def nothing(text, chosen):
    return chosen.choice([b"", b"\n\n", b"# only a comment\n", b"--- \n", b"[]\n", b"- a\n- b\n", b"text\n", b"3\n", b"null\n"])


def large(text, chosen):
    return text.encode() + b"# " + b"x" * (1 << 20) + b"\n"


def cut_within(text, chosen):
    """Cut behind an opening bracket or quote, or within the name of a section."""
    lines = text.splitlines(keepends=True)
    tops = [number for number, one in enumerate(lines) if one[:1].isalpha()]
    number = chosen.choice(tops)
    return ("".join(lines[:number]) + lines[number].split(":")[0][: chosen.randrange(1, 4)]).encode()


TEXTS: list[Callable[[str, random.Random], bytes]] = [
    twice,
    tag,
    tag,
    alias,
    merge,
    nested,
    broken,
    broken,
    documents,
    control,
    encoding,
    bytes_between,
    key_flipped,
    nothing,
    large,
    cut_within,
]


# --- text that means the same ------------------------------------------------------------------------------------------------

SAME: list[Callable[[str], bytes]] = [
    lambda text: b"\xef\xbb\xbf" + text.encode(),
    lambda text: text.replace("\n", "\r\n").encode(),
    lambda text: b"# first\n" + text.encode() + b"\n# last\n",
    lambda text: ("---\n" + text + "...\n").encode(),
    lambda text: text.rstrip("\n").encode(),
    lambda text: text_of(dict(reversed(list(yaml.safe_load(text).items())))).encode(),
]


def malformed(count: int, seed: int) -> Iterator[tuple[bytes, str]]:
    """So many recipes, and what is wrong with each."""
    chosen = random.Random(seed)
    whole = {name: base(name) for name in BASES}
    for number in range(count):
        name = BASES[number % len(BASES)]
        values = copy.deepcopy(whole[name])
        if number % 2:
            change = VALUES[number // 2 % len(VALUES)]
            told = change(values, chosen)
            yield text_of(values).replace("RAW", "").encode(), f"{name}, {told}"
        else:
            change = TEXTS[number // 2 % len(TEXTS)]
            yield change(text_of(values), chosen), f"{name}, {change.__name__}"
