"""What a refusal tells a user to do exists: its commands, their options, and the recipe fields that it names.

Every refusal that a test provokes through the command line is held against this, with the command that was refused."""

from __future__ import annotations

import re
from functools import cache

import typer

from vldistill.cli import app
from vldistill.data.prepare import SOURCES
from vldistill.recipe.load import all_keys, shipped_recipes

_COMMAND = re.compile(r"\bvldistill ([a-z]+)(?: ([\w.-]+))?")
_OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z-]*)")
_FIELD = re.compile(r"(?<![\w./-])([a-z_]+(?:\.[a-z_]+)+)=")
_OTHERS = re.compile(r"pip install[^)`;]*|scontrol [^)`;]*|sbatch [^)`;]*|bin/\S+|python -m \S+")
"""Commands of other programs, whose options are their own."""
RAW = {*(name.replace("_", "-") for name in SOURCES), "regions", "toy", "list"}


@cache
def options_of() -> dict[str, set[str]]:
    """Of each command, "prepare" or "index build", its options."""
    found = {}
    for name, command in typer.main.get_command(app).commands.items():
        for path, inner in (
            {f"{name} {sub}": one for sub, one in command.commands.items()} if hasattr(command, "commands") else {name: command}
        ).items():
            found[path] = {option for parameter in inner.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return found


@cache
def fields() -> set[str]:
    return {".".join(path) for path in all_keys()}


def faults_of(text: str, ran: list[str]) -> list[str]:
    """What of a message is not there. ran: the words of the command that said it."""
    text, options = _OTHERS.sub("", text), options_of()
    names = [name for name in options if " ".join(ran[:2]).startswith(name)][:1]
    faults = []
    for name, second in _COMMAND.findall(text):
        groups = {path for path in options if path == name or path.startswith(f"{name} ")}
        if not groups:
            faults.append(f"no command `vldistill {name}`")
        elif name not in options and f"{name} {second}" not in options:
            faults.append(f"no command `vldistill {name} {second}`")
        elif name == "prepare" and second and second.islower() and second.rstrip(".,") not in RAW:
            faults.append(f"no dataset `vldistill prepare {second}`")
        names += groups if name in options else [f"{name} {second}"]
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
