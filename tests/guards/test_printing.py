"""Guard: the package prints through `vldistill.terminal` alone, which loses nothing and obeys nothing that it is given."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import vldistill

PACKAGE = Path(vldistill.__file__).resolve().parent
MODULES = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
PRINTERS = {"rich", "rich.console", "rich.table"}


def other_ways(text: str) -> Iterator[str]:
    """What of a module's text prints, or could, without the one place for it; with its line."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module in PRINTERS:
            yield f"{node.lineno}: from {node.module}"
        if isinstance(node, ast.Name) and node.id == "print":
            yield f"{node.lineno}: print"
        if isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            if name.endswith("console.print") or name in ("typer.echo", "typer.secho", "sys.stdout.write", "sys.stderr.write"):
                yield f"{node.lineno}: {name}"


def test_nothing_prints_by_itself():
    assert len(MODULES) > 250
    faults = {name: found for name, text in MODULES.items() if name != "terminal.py" and (found := list(other_ways(text)))}
    assert faults == {}


@pytest.mark.parametrize(
    "text",
    [
        "print(1)",
        "say = print",
        "from rich.console import Console",
        "console.print(1)",
        "typer.echo(1)",
        "terminal.console.print(1)",
        "sys.stdout.write('')",
    ],
)
def test_the_guard_sees(text):
    assert list(other_ways(text))
