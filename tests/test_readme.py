"""Commands in the README and in the shell scripts are real: their names, options, recipes and recipe fields exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from vldistill.cli import app
from vldistill.recipe import all_keys, shipped_recipes

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
SCRIPTS = [path for path in sorted((ROOT / "bin").glob("*")) if path.is_file() and path.suffix in ("", ".sh", ".sbatch")]
KEYS = {".".join(path) for path in all_keys()}
OVERRIDE = re.compile(r"([a-z_]+(?:\.[a-z_]+)*)=(.*)$", re.S)


def commands_of(text: str) -> list[str]:
    """Every `vldistill ...` of a shell text, one string each: continued lines are joined, comments and pipes cut off."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|[;|&()]|\d?>+", re.sub(r"(^|\s)#.*$", "", line)):
            part = re.sub(r"^\s*(?:\$ |[A-Z_]+=\S+ )*", "", part).strip()
            if part.startswith("vldistill "):
                found.append(part)
    return found


def blocks(markdown: str) -> str:
    """The text of all bash blocks."""
    return "\n".join(re.findall(r"^```(?:bash|sh|shell|console)\n(.*?)^```", markdown, re.S | re.M))


def check(line: str) -> None:
    """Parses one command as the command line would, without running it. Raises what the parser raises, or AssertionError."""
    words = shlex.split(line)[1:]
    node, path = typer.main.get_command(app), ["vldistill"]
    while hasattr(node, "commands"):
        if words and words[0] in ("--help", "-h"):
            return
        assert words and words[0] in node.commands, f"no such command: {line}"
        path.append(words[0])
        node, words = node.commands[words[0]], words[1:]
    if {"--help", "-h"} & set(words):
        return
    context = node.make_context(" ".join(path), list(words))
    for word in context.params.get("overrides") or []:
        match = OVERRIDE.match(word)
        assert match and match[1] in KEYS, f"no such recipe field: {word} in {line}"
    recipe = context.params.get("recipe")
    if recipe and (recipe.startswith(("recipes/", "quickstart")) or ("/" not in recipe and not recipe.endswith(".yaml"))):
        assert Path(recipe).stem in {file.stem for file in shipped_recipes()}, f"no such recipe: {recipe} in {line}"


@pytest.mark.parametrize("line", commands_of(blocks(README.read_text(encoding="utf-8"))) if README.exists() else [])
def test_a_command_of_the_readme(line):
    check(line)


@pytest.mark.skipif(not README.exists(), reason="no README yet")
def test_the_readme_shows_the_pipeline():
    text = README.read_text(encoding="utf-8")
    shown = {line.split()[1] for line in commands_of(blocks(text))}
    assert {"prepare", "distill", "evaluate", "bench"} <= shown
    assert text.index("bin/quickstart") < text.index("vldistill prepare")
    for name in re.findall(r"(?<![/\w.])bin/[\w-]+(?:\.\w+)*", text):
        assert (ROOT / name).exists(), name


@pytest.mark.skipif(not README.exists(), reason="no README yet")
def test_commands_within_sentences():
    """`vldistill prepare vqa --raw F` in backquotes; a command's bare name is only looked up."""
    text = re.sub(r"^```.*?^```", "", README.read_text(encoding="utf-8"), flags=re.S | re.M)
    top = typer.main.get_command(app).commands
    for line in re.findall(r"`(vldistill [^`]+)`", text):
        assert line.split()[1] in top, line
        if len(line.split()) > 2 and "|" not in line:
            check(line)


def test_the_commands_of_the_scripts():
    lines = [re.sub(r'"?\$\{?[@a-z_]+\}?"?', "x=1", line) for path in SCRIPTS for line in commands_of(path.read_text())]
    lines = [line for line in lines if "x=1" not in line]
    assert lines
    for line in lines:
        check(line)


@pytest.mark.parametrize("line", [
    "vldistill destil --recipe quickstart_dide", "vldistill distill --recipe quickstart_dide --no-such-option",
    "vldistill distill --recipe quickstart_dide optim.lrr=1", "vldistill distill --recipe quickstart_dibe", "vldistill evaluate",
    "vldistill recipe list", "vldistill bench --rounds many", "vldistill",
])
def test_the_check_sees_what_is_wrong(line):
    with pytest.raises(Exception, match=r"(?s).*"):
        check(line)


def test_the_search_finds_commands():
    text = ("# vldistill none\nHF_HUB_OFFLINE=1 vldistill prepare toy   # the world\n"
            "vldistill evaluate a \\\n   --split test | tail\ncd x && vldistill doctor > log\n"
            "vldistill predict r --image a.jpg --text \"is it?\"\n$ vldistill bench\n")
    found = [" ".join(line.split()) for line in commands_of(text)]
    assert found == ["vldistill prepare toy", "vldistill evaluate a --split test", "vldistill doctor",
                     'vldistill predict r --image a.jpg --text "is it?"', "vldistill bench"]
    for line in found:
        check(line)
    assert commands_of(blocks("text\n```bash\nvldistill doctor\n```\n```yaml\nvldistill: no\n```\n")) == ["vldistill doctor"]
