"""Guard over the source: every hint in the package names commands, options and fields that exist. In the situation that shows it,
a hint is checked by `hints.check`, at each refusal that a test provokes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from hints import check, faults_of, options_of

import vldistill

PACKAGE = Path(vldistill.__file__).resolve().parent


def text_of(node: ast.AST) -> str:
    """A text, with X for what is only known when it runs; both of two that a condition chooses from."""
    if isinstance(node, ast.Constant):
        return str(node.value) if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) if isinstance(part, ast.Constant) else "X" for part in node.values)
    if isinstance(node, ast.BinOp):
        return text_of(node.left) + text_of(node.right)
    if isinstance(node, ast.IfExp):
        return f"{text_of(node.body)} {text_of(node.orelse)}"
    return "X"


def hints() -> Iterator[tuple[str, str]]:
    """(place, text) of every hint that is written down in the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                for keyword in node.keywords:
                    if keyword.arg in ("hint", "make_it"):
                        yield f"{path.relative_to(PACKAGE)}:{node.lineno}", text_of(keyword.value)


def test_every_hint_names_what_exists():
    """Of options that stand without a command any command's will do here; which one it has to be is known where it is shown."""
    found = list(hints())
    anywhere = set().union(*options_of().values())
    faults = {
        place: wrong
        for place, text in found
        if (
            wrong := [
                one
                for one in faults_of(text.replace("X", ""), [])
                if " has --" not in one or one.rpartition(" ")[2] not in anywhere
            ]
        )
    }
    assert faults == {} and len(found) > 300


@pytest.mark.parametrize(
    ("err", "ran"),
    [
        ("vldistill: x: y (pass --follow-links)", ["evaluate"]),
        ("vldistill: x (make it with: vldistill prepare mine --raw F)", ["evaluate"]),
        ("vldistill: x (make it with: vldistill prepar vqa)", ["evaluate"]),
        ("vldistill: x (set optim.lrr=1)", ["finetune"]),
        ("vldistill: x (vldistill index built RUN)", ["index", "build"]),
        ("vldistill: x (see recipes/nothing.yaml)", ["distill"]),
        ("vldistill: x (first: vldistill cache --nothing)", ["distill"]),
    ],
)
def test_the_check_sees_a_hint_that_leads_nowhere(err, ran):
    with pytest.raises(AssertionError):
        check(err, ran)


def test_the_check_lets_pass_what_is_there():
    for err, ran in (
        ("vldistill: x (pass --follow-links)", ["index", "build"]),
        ("vldistill: no hint", []),
        ("vldistill: x (pip install --upgrade torch)", ["doctor"]),
        ("vldistill: x (first: vldistill cache --recipe R; set optim.lr=1)", ["distill"]),
    ):
        check(err, ran)
