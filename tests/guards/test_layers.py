"""Guards over the package's source: imports run one way, files stay small and described, unsafe calls stay out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import vldistill

PACKAGE = Path(vldistill.__file__).resolve().parent

# From the bottom up. A module may import its own layer and the layers below; names are below `vldistill`, and the longest
# prefix decides.
LAYERS = [
    {
        "errors",
        "artifacts",
        "joining",
        "locking",
        "recipe",
        "models.families",
        "training.methods.table",
        "runtime",
        "terminal",
        "finite",
        "places",
        "devices",
        "versions",
    },
    {"store"},
    {"objectives", "metrics"},
    {"data"},
    {"models.base"},
    {"models"},
    {"teachers"},
    {"training"},
    {"evaluation"},
    {"api", "reproduce"},
    {"commands"},
    {"", "cli", "__main__"},
]
# The losses are pure, but say in their signatures what they read: two modules of plain containers.
ALLOWED = {
    ("objectives", "data.batch"),
    ("objectives", "models.base.outputs"),
}
BANNED = [
    "weights_only=False",
    "allow_pickle=True",
    "yaml.load(",
    "trust_remote_code=True",
    "import click",
    "from click",
    "output_attentions=True",
    "import *",
]
MAX_LINES = 400


def package_of(module: str) -> str | None:
    """The entry of `LAYERS` that a module belongs to: the longest that it is or lies below. A family's section is its part of a
    recipe."""
    if re.fullmatch(r"models\.\w+\.section", module):
        return "recipe"
    fitting = [name for layer in LAYERS for name in layer if module == name or (name and module.startswith(f"{name}."))]
    return max(fitting, key=len, default=None)


def level(entry: str) -> int:
    return next(index for index, layer in enumerate(LAYERS) if entry in layer)


def module_names(root: Path) -> dict[str, Path]:
    """Dotted name below the package -> file."""
    names = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports_of(path: Path, module: str, known: set[str]) -> list[tuple[int, str]]:
    """(line, module below the package) of every import, those inside functions too; relative ones are resolved."""
    found = []
    here = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = ["vldistill", *filter(None, here.split("."))]
                base = ".".join([*above[: len(above) - node.level + 1], *filter(None, [base])])
            for alias in node.names:  # `from vldistill.data import batch` names a module, `... import Batch` does not
                whole = f"{base}.{alias.name}"
                found.append((node.lineno, whole if whole.removeprefix("vldistill.") in known else base))
    below = [(line, name.removeprefix("vldistill").lstrip(".")) for line, name in found if name.split(".")[0] == "vldistill"]
    return sorted(set(below))


def faults_of(root: Path) -> list[str]:
    """Every import that runs against the layers, and every module that has no layer."""
    modules, faults = module_names(root), []
    for module, path in modules.items():
        own = package_of(module)
        if own is None:
            faults.append(f"{module}: has no layer")
            continue
        for line, target in imports_of(path, module, set(modules)):
            other = package_of(target)
            if other is None:
                faults.append(f"{module}:{line}: {target} has no layer")
            elif level(other) > level(own) and (own, target) not in ALLOWED:
                faults.append(f"{module}:{line}: {target}")
    return faults


def test_imports_run_one_way():
    assert faults_of(PACKAGE) == []


def test_the_exceptions_are_still_needed():
    modules = module_names(PACKAGE)
    used = {
        (package_of(module), target) for module, path in modules.items() for _, target in imports_of(path, module, set(modules))
    }
    assert used >= ALLOWED


@pytest.mark.parametrize(
    "file, source, fault",
    [
        ("data/x.py", "from vldistill.teachers.fusion import T", "data.x:1: teachers.fusion"),
        ("teachers/x.py", "import vldistill.training.loop", "teachers.x:1: training.loop"),
        ("models/x.py", "def f():\n    from vldistill.teachers import fusion", "models.x:2: teachers"),
        ("objectives/x.py", "from vldistill.models.base import heads, outputs", "objectives.x:1: models.base.heads"),
        ("objectives/x.py", "from vldistill.data.text import y", "objectives.x:1: data.text"),
        ("metrics/scores.py", "from vldistill.data.batch import Batch", "metrics.scores:1: data.batch"),
        ("metrics/vqa.py", "from vldistill.evaluation.evaluate import y", "metrics.vqa:1: evaluation.evaluate"),
        ("training/x.py", "from vldistill.evaluation.evaluate import y", "training.x:1: evaluation.evaluate"),
        ("models/x.py", "from ..training.loop import y", "models.x:1: training.loop"),
        ("models/base/x.py", "import vldistill.models.vilt.model", "models.base.x:1: models.vilt.model"),
        ("errors.py", "from . import cli", "errors:1: cli"),
        ("models/vilt/section.py", "import vldistill.models.vilt.family", "models.vilt.section:1: models.vilt.family"),
        ("models/vilt/section.py", "import vldistill.models.base.heads", "models.vilt.section:1: models.base.heads"),
        ("recipe/load.py", "from vldistill.data.batch import Batch", "recipe.load:1: data.batch"),
        ("extra/x.py", "", "extra.x: has no layer"),
        ("cli.py", "from vldistill.training.loop import y\nfrom vldistill.evaluation.evaluate import z", None),
        ("objectives/x.py", "from vldistill.data.batch import Batch\nfrom vldistill.models.base.outputs import View", None),
        ("training/x.py", "from vldistill.metrics.scores import y\nimport torch.training", None),
    ],
)
def test_the_check_sees_what_it_should(tmp_path, file, source, fault):
    for known in ("models/base/heads.py", "models/base/outputs.py", "cli.py", file):
        (tmp_path / known).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / known).write_text(source if known == file else "")
    assert faults_of(tmp_path) == ([fault] if fault else [])


@pytest.mark.parametrize("module, path", module_names(PACKAGE).items(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_file_is_small_described_and_free_of_unsafe_calls(module, path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_LINES
    if text.strip():
        assert ast.get_docstring(ast.parse(text)), "has no docstring"
    assert [banned for banned in BANNED if banned in text] == []


def test_no_two_classes_have_one_name():
    places: dict[str, list[str]] = {}
    for module, path in module_names(PACKAGE).items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(module)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
