"""What the pages and the shell scripts tell a user to type is real: names, options, recipes and recipe fields exist.

There is one way to write a block in a page, fenced and with its language, and every block of every page is looked at.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path

import pytest
import typer
from markdown_it import MarkdownIt

from vldistill.cli import app
from vldistill.errors import Problems
from vldistill.recipe.load import all_keys, load_recipe, shipped_recipes
from vldistill.recipe.strict_yaml import dump_yaml, parse_yaml

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
SCRIPTS = [path for path in sorted((ROOT / "bin").glob("*")) if path.is_file() and path.suffix in ("", ".sh", ".sbatch")]
KEYS = {".".join(path) for path in all_keys()}
OVERRIDE = re.compile(r"([a-z_]+(?:\.[a-z_]+)*)=(.*)$", re.S)
PAGES = sorted(path for path in ROOT.rglob("*.md") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts))
OTHERS = {"accelerate", "cat", "cd", "export", "pip", "sbatch", "source", "srun", "torchrun"}
"""Programs of others that a page names; of what they start each `vldistill` is checked like any."""


def commands_of(text: str) -> list[str]:
    """Every `vldistill ...` of a shell text, one string each: continued lines are joined, comments and pipes cut off."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"&&|[;|&()]|\d?>+", re.sub(r"(^|\s)#.*$", "", line)):
            part = re.sub(r"^\s*(?:\$ |[A-Z_]+=\S+ )*", "", part).strip()
            if part.startswith("vldistill "):
                found.append(part)
    return found


def blocks_of(markdown: str) -> list[tuple[str, str]]:
    """(language, text) of every block; the language of one that is indented instead of fenced is "indented"."""
    found = MarkdownIt("commonmark").parse(markdown)
    return [
        (token.info.strip() if token.type == "fence" else "indented", token.content)
        for token in found
        if token.type in ("fence", "code_block")
    ]


def blocks(markdown: str) -> str:
    """The text of all bash blocks."""
    return "\n".join(text for language, text in blocks_of(markdown) if language == "bash")


def lines_of(shell: str) -> list[str]:
    """The command lines of a shell text: continued ones joined, comments cut off, those that `cat` is given as the grid's."""
    plain = [re.sub(r"(^|\s)#.*$", "", line).rstrip() for line in shell.replace("\\\n", " ").splitlines()]
    given, lines = None, []
    for line in plain:
        if line == given:
            given = None
        elif line:
            lines.append(f"vldistill {line}" if given else line)
        given = match[1] if (match := re.search(r"<<'(\w+)'$", line)) else given
    return lines


def check_line(line: str) -> None:
    """Any command line of a page: of ours all is checked, of others that a page may name them. Raises as `check`."""
    words = shlex.split(line)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if "vldistill" in words[1:] and words[0] != "export":
        words = words[words.index("vldistill") :]
    if words[0] == "vldistill":
        check(shlex.join(words))
    elif words[0] == "python":
        source = (ROOT / words[1]).read_text(encoding="utf-8")
        for option in (word for word in words[2:] if word.startswith("--")):
            assert f'"{option}"' in source, line
    elif words[0].startswith("bin/"):
        assert (ROOT / words[0]).stat().st_mode & 0o111, line
    else:
        assert words[0] in OTHERS, line
    for script in (word for word in words if word.startswith("bin/")):
        assert (ROOT / script).is_file(), line
    if words[0] == "sbatch" and (name := next(word for word in words if word.startswith("bin/"))).endswith(".sbatch"):
        rest, stage = words[words.index(name) + 1 :], Path(name).stem
        check(shlex.join(["vldistill", *([] if stage == "train" else [stage]), *rest]))


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


def _bash(text: str) -> None:
    for line in lines_of(text):
        check_line(line)


def _yaml(text: str) -> None:
    """A part of a recipe: each of its sections goes into one that ships."""
    values, _ = parse_yaml(text, "a page", problems := Problems())
    problems.raise_if_any()
    load_recipe("quickstart_teacher", [f"{name}={dump_yaml(value)}" for name, value in values.items()])


def _text(text: str) -> None:
    hidden = [line for line in text.splitlines() if re.match(r"\s*(?:\$ )?(?:vldistill|bin/|python |sbatch )", line)]
    assert not hidden, f"a command within output: {hidden[0]}"


def _json(text: str) -> None:
    assert all(isinstance(json.loads(line), dict) for line in text.splitlines())


def _diff(text: str) -> None:
    """A line that is added to a module of the package, below one that it has."""
    name, around, added = text.splitlines()
    source = (ROOT / "vldistill" / name.removeprefix("--- ")).read_text(encoding="utf-8").splitlines()
    assert around[:1] == " " and around[1:] in source and added[:1] == "+" and added[1:] not in source


LANGUAGES = {"bash": _bash, "text": _text, "json": _json, "yaml": _yaml, "python": ast.parse, "diff": _diff}
"""The languages of blocks, and what a block of each has to pass."""
BLOCKS = [(page, language, text) for page in PAGES for language, text in blocks_of(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("page", "language", "text"), BLOCKS, ids=[f"{page.name}-{n}" for n, (page, *_) in enumerate(BLOCKS)])
def test_a_block_of_a_page(page, language, text):
    assert language in LANGUAGES, f"{page.name}: a block must be fenced, with one of {', '.join(LANGUAGES)}: {text[:80]}"
    LANGUAGES[language](text)


def test_all_commands_of_the_readme_are_looked_at():
    text = README.read_text(encoding="utf-8")
    outside = [line for line in text.splitlines() if re.match(r"\s*(?:\$ )?vldistill [a-z]+ ", line)]
    looked_at = [line for line in lines_of(blocks(text)) if line.startswith("vldistill")]
    assert len(looked_at) >= len(outside) > 70


def test_the_readme_shows_the_pipeline():
    text = README.read_text(encoding="utf-8")
    shown = {line.split()[1] for line in commands_of(blocks(text))}
    assert {"prepare", "distill", "evaluate", "bench"} <= shown
    assert text.index("bin/quickstart") < text.index("vldistill prepare")
    for name in re.findall(r"(?<![/\w.])bin/[\w-]+(?:\.\w+)*", text):
        assert (ROOT / name).exists(), name


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


@pytest.mark.parametrize(
    "line",
    [
        "vldistill destil --recipe quickstart_dide",
        "vldistill distill --recipe quickstart_dide --no-such-option",
        "vldistill distill --recipe quickstart_dide optim.lrr=1",
        "vldistill distill --recipe quickstart_dibe",
        "vldistill evaluate",
        "vldistill recipe list",
        "vldistill bench --rounds many",
        "vldistill",
    ],
)
def test_the_check_sees_what_is_wrong(line):
    with pytest.raises(Exception, match=r"(?s).*"):
        check(line)


def test_the_search_finds_commands():
    text = (
        "# vldistill none\nHF_HUB_OFFLINE=1 vldistill prepare toy   # the world\n"
        "vldistill evaluate a \\\n   --split test | tail\ncd x && vldistill doctor > log\n"
        'vldistill predict r --image a.jpg --text "is it?"\n$ vldistill bench\n'
    )
    found = [" ".join(line.split()) for line in commands_of(text)]
    assert found == [
        "vldistill prepare toy",
        "vldistill evaluate a --split test",
        "vldistill doctor",
        'vldistill predict r --image a.jpg --text "is it?"',
        "vldistill bench",
    ]
    for line in found:
        check(line)
    assert commands_of(blocks("text\n```bash\nvldistill doctor\n```\n```yaml\nvldistill: no\n```\n")) == ["vldistill doctor"]


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("bash", "cat > grid.txt <<'END'\nprepare vqa\nfinetun --recipe vilt_vqa\nEND\n"),
        ("bash", "bin/nothing"),
        ("bash", "python tests/measure/soak.py --hours 2"),
        ("bash", "rm -r runs"),
        ("bash", "srun --ntasks-per-node=4 vldistill distill --recipe vilt_vqa optim.lrr=1"),
        ("bash", "sbatch bin/train.sbatch distil --recipe vilt_vqa"),
        ("text", "accuracy 1.0\nvldistill doctor\n"),
        ("json", '{"image": "a.jpg"}  an image'),
        ("yaml", "optim: {lrr: 1}"),
        ("python", "import"),
        ("diff", "--- data/sources/table.py\n SOURCE = {\n+    x\n"),
    ],
)
def test_the_check_of_a_block_sees_what_is_wrong(language, text):
    with pytest.raises(Exception, match=r"(?s).*"):
        LANGUAGES[language](text)


def test_an_indented_block_is_found():
    assert blocks_of("Run\n\n    vldistill doctor\n") == [("indented", "vldistill doctor\n")]
