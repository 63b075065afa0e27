"""Help: every command has it, with an example, and none of it waits for torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import hints
import pytest

HEAVY = {"torch", "torchvision", "transformers", "accelerate", "timm", "open_clip", "matplotlib", "jinja2"}
NUMERIC = {"numpy", "h5py", "PIL", "yaml"}
"""Which a recipe command may need, and no help."""
SCREEN = 32
"""Lines of a help at 80 columns."""


COMMANDS = hints.commands()


def test_the_commands_are_these():
    top = {path[0] for path in COMMANDS if len(path) == 1}
    assert top >= {
        "prepare",
        "cache",
        "pretrain",
        "distill",
        "finetune",
        "evaluate",
        "predict",
        "bench",
        "analyze",
        "recipe",
        "doctor",
    }
    assert {path[1] for path in COMMANDS if path[:1] == ("recipe",) and len(path) == 2} >= {"ls", "show", "check", "cp"}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_exits_zero_and_ends_with_an_example(command, path, flag):
    result = command(*path, flag)
    assert result.code == 0 and result.err == ""
    ending = re.search(r"(Example|Start with): (vldistill .*)$", result.flat.strip())
    assert ending and ending[2].startswith(" ".join(["vldistill", *path]))


@pytest.mark.parametrize("path", [path for path in COMMANDS if path], ids=" ".join)
def test_every_option_says_what_it_is_in_one_line(path):
    node = COMMANDS[path]
    assert "\n" not in (node.help or "\n").strip()
    for parameter in node.params:
        text = getattr(parameter, "help", None)
        assert text and "\n" not in text and len(text) < 100, parameter.name


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_fits_a_screen_with_a_line_for_each_option(command, monkeypatch, path):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    lines = command(*path, "--help").out.splitlines()
    assert len(lines) <= SCREEN
    start = next(number for number, line in enumerate(lines) if line.strip(" ─╭╮:").startswith("Options"))
    listed = [line for line in lines[start + 1 :] if line.startswith("  ")]
    assert listed and all(line[2] != " " for line in listed), "\n".join(lines)
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("path", [path for path in COMMANDS if "recipe" in {p.name for p in COMMANDS[path].params}], ids=" ".join)
def test_every_stage_takes_overrides_and_a_dry_run(path):
    options = {option for parameter in COMMANDS[path].params for option in parameter.opts}
    assert {"--recipe", "overrides", "--dry-run"} <= options


def test_the_rows_of_bench_are_those_of_its_help():
    from vldistill.commands.bench import row_names

    text = next(p.help for p in COMMANDS[("bench",)].params if p.name == "rows")
    assert text.rstrip(".").split(": ")[-1].split(", ") == list(row_names())


def test_a_wrong_name_exits_two(command):
    for words in (
        ["destil"],
        ["distill", "--recip", "x"],
        ["distill"],
        ["evaluate"],
        ["recipe", "list"],
        ["prepare", "vqa", "--no"],
    ):
        result = command(*words)
        assert result.code == 2 and result.out == "" and "Traceback" not in result.err
        assert "Error" in result.err


def test_no_command_alone_prints_help(command):
    result = command()
    assert result.code in (0, 2) and "prepare" in result.out + result.err


PROBE = """
import contextlib, io, json, sys
from vldistill.cli import main
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main(words)
print(json.dumps(sorted(sys.modules)))
"""


def modules_after(*calls: list[str]) -> set[str]:
    probe = subprocess.run([sys.executable, "-c", PROBE, json.dumps(calls)], capture_output=True, text=True, check=True)
    return set(json.loads(probe.stdout.splitlines()[-1]))


def test_no_help_imports_a_heavy_library():
    """Of all commands and groups, in one process."""
    assert len(COMMANDS) > 40
    modules = modules_after(*([*path, "--help"] for path in COMMANDS), ["prepare", "list"])
    assert "vldistill.data.sources.vcr" in modules and modules.isdisjoint(HEAVY | NUMERIC)


def test_no_recipe_command_imports_a_heavy_library():
    modules = modules_after(["recipe", "ls"], ["recipe", "show", "quickstart_dide"], ["recipe", "check", "quickstart_dide"])
    assert "vldistill.recipe.load" in modules and modules.isdisjoint(HEAVY)


def test_the_module_runs_from_a_shell_without_torch(tmp_path):
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "vldistill", "--help"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert run.returncode == 0 and "vldistill prepare toy" in run.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in run.stderr.splitlines() if line.startswith("import time:")}
    assert "vldistill.cli" in imported and imported.isdisjoint(HEAVY)


def test_a_refusal_reaches_the_shell(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "vldistill", "distill", "--recipe", "quickstart_dibe"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert run.returncode == 2 and run.stdout == "" and list(tmp_path.iterdir()) == []
    assert run.stderr == "vldistill: quickstart_dibe: no such recipe (did you mean recipes/quickstart_dide.yaml?)\n"
