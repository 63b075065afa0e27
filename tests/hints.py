"""What a refusal tells a user to do exists: its commands, their options, and the recipe fields that it names.

Every refusal that a test provokes through the command line is held against this, with the command that was refused."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import typer

from vldistill.cli import app
from vldistill.recipe.load import all_keys, shipped_recipes

_COMMAND = re.compile(r"\bvldistill((?: [\w.-]+)+)")
_OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z-]*)")
_FIELD = re.compile(r"(?<![\w./-])([a-z_]+(?:\.[a-z_]+)+)=")
_OTHERS = re.compile(r"pip install[^)`;]*|scontrol [^)`;]*|sbatch [^)`;]*|bin/\S+|python -m \S+")
"""Commands of other programs, whose options are their own."""


@cache
def commands() -> dict[tuple[str, ...], Any]:
    """Every command and group of the app, by the words that name it; itself by none."""
    return _below(typer.main.get_command(app), ())


def _below(node: Any, path: tuple[str, ...]) -> dict[tuple[str, ...], Any]:
    found = {path: node}
    for name, inner in getattr(node, "commands", {}).items():
        found |= _below(inner, (*path, name))
    return found


@cache
def options_of() -> dict[str, set[str]]:
    """Of each command, "prepare vcr" or "index build", its options."""
    return {
        " ".join(path): {option for parameter in node.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for path, node in commands().items()
        if not hasattr(node, "commands")
    }


def named(words: list[str]) -> list[str] | str:
    """The commands that the words behind `vldistill` name, all of a group that they end with; what is wrong, where it is none."""
    path: tuple[str, ...] = ()
    for word in words:
        if not hasattr(commands()[path], "commands") or not re.fullmatch("[a-z][a-z_0-9-]*", word):
            break  # an argument, or one that stands for some
        if (*path, word.replace("_", "-")) not in commands():
            return f"no command `vldistill {' '.join((*path, word))}`"
        path = (*path, word.replace("_", "-"))
    return [name for name in options_of() if f"{name} ".startswith("".join(f"{word} " for word in path))]


@cache
def fields() -> set[str]:
    return {".".join(path) for path in all_keys()}


def faults_of(text: str, ran: list[str]) -> list[str]:
    """What of a message is not there. ran: the words of the command that said it."""
    text, options = _OTHERS.sub("", text), options_of()
    names = [name for name in options if f"{' '.join(ran)} ".startswith(f"{name} ")][:1] or (named(ran[:1]) if ran else [])
    faults = []
    for words in _COMMAND.findall(text):
        found = named(words.rstrip(".").split())
        if isinstance(found, str):
            faults.append(found)
        else:
            names = [*names, *found]
    # A test that calls a reader by itself has run no command: then any one's options will do.
    known = set().union(*(options.get(name, set()) for name in (names or options))) | {"--help"}
    faults += [
        f"none of {', '.join(dict.fromkeys(names))} has {option}" for option in _OPTION.findall(text) if option not in known
    ]
    faults += [f"no recipe field {field}" for field in _FIELD.findall(text) if field not in fields()]
    recipes = {path.stem for path in shipped_recipes()}
    faults += [f"no recipe {name}" for name in re.findall(r"\brecipes/(\w+)\.yaml", text) if name not in recipes]
    return faults


def check(err: str, ran: list[str]) -> None:
    """Asserts that what a refused command said can be done."""
    for line in err.splitlines():
        if line.startswith("vldistill: "):
            # What was typed may be anything; the mend stands in the last parentheses.
            hint = line[line.rfind(" (") :] if line.endswith(")") else ""
            faults = faults_of(hint, ran)
            assert not faults, f"{'; '.join(faults)}: {line}"
