"""Guards over the source: nothing in it runs what it reads. Calls are looked at as Python parses them, so that no spelling hides
one; in the scripts, words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import vldistill

PACKAGE = Path(vldistill.__file__).resolve().parent
BIN = PACKAGE.parent / "bin"
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "code", "runpy"}
"""That run what they read, or read what is run."""
BUILT_IN = {"eval", "exec", "compile", "__import__"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
YAML = {
    f"yaml.{name}"
    for name in (
        "load_all",
        "full_load",
        "full_load_all",
        "unsafe_load",
        "unsafe_load_all",
        "Loader",
        "FullLoader",
        "UnsafeLoader",
        "load",
    )
}
ALLOWED = {"weights_only": True, "allow_pickle": False, "trust_remote_code": False, "shell": False}
"""What an argument of this name has to be, wherever one is given."""
NEEDED = {"torch.load": "weights_only", "np.load": "allow_pickle", "numpy.load": "allow_pickle"}
"""Calls in which it has to be given; as in those of transformers' Auto classes, which else ask on the terminal."""
AUTO = re.compile(r"(\w+\.)*Auto\w+\.from_\w+")


def name_of(node: ast.AST) -> str:
    """A name, or a name of a name; empty for anything else."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def faults_of(text: str) -> Iterator[str]:
    """Every call, name and import of a module's text that could run what it is given, with its line."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (f"{node.lineno}: import {name}" for name in names if name.split(".")[0] in MODULES)
        if (name := name_of(node)) in BUILT_IN | SHELLS | YAML:
            yield f"{node.lineno}: {name}"
        if isinstance(node, ast.Call):
            called, given = name_of(node.func), {keyword.arg: keyword.value for keyword in node.keywords}
            needed = "trust_remote_code" if AUTO.fullmatch(called) else NEEDED.get(called)
            if needed and needed not in given:
                yield f"{node.lineno}: {called} without {needed}={ALLOWED[needed]}"
            for name, value in ALLOWED.items():
                if name in given and not (isinstance(given[name], ast.Constant) and given[name].value is value):
                    yield f"{node.lineno}: {called} with {name}={ast.unparse(given[name])}"


@pytest.mark.parametrize(
    "text, fault",
    [
        ("import pickle", "1: import pickle"),
        ("from pickle import loads", "1: import pickle"),
        ("import joblib.x", "1: import joblib.x"),
        ("x = eval(y)", "1: eval"),
        ("run = exec", "1: exec"),
        ("x.eval()", None),
        ("re.compile('a')", None),
        ("torch.load(f)", "1: torch.load without weights_only=True"),
        ("torch.load(f, weights_only=True)", None),
        ("torch.load(f, weights_only = flag)", "1: torch.load with weights_only=flag"),
        ("np.load(f)", "1: np.load without allow_pickle=False"),
        ("np.load(f, allow_pickle=False)", None),
        ("np.save(f, x, allow_pickle=1 == 1)", "1: np.save with allow_pickle=1 == 1"),
        ("m.from_pretrained(n, trust_remote_code=True)", "1: m.from_pretrained with trust_remote_code=True"),
        ("AutoModel.from_pretrained(n)", "1: AutoModel.from_pretrained without trust_remote_code=False"),
        ("t.AutoModel.from_config(c)", "1: t.AutoModel.from_config without trust_remote_code=False"),
        ("AutoTokenizer.from_pretrained(n, trust_remote_code=False)", None),
        ("BertModel.from_pretrained(n)", None),
        ("yaml.safe_load(f)", None),
        ("yaml.load(f, Loader=yaml.SafeLoader)", "1: yaml.load"),
        ("Base = yaml.FullLoader", "1: yaml.FullLoader"),
        ("subprocess.run(w, shell=True)", "1: subprocess.run with shell=True"),
        ("os.system(w)", "1: os.system"),
    ],
)
def test_the_check_sees_what_it_should(text, fault):
    assert list(faults_of(text)) == ([fault] if fault else [])


def test_nothing_runs_what_it_reads():
    sources = [*PACKAGE.rglob("*.py")]
    assert len(sources) > 100 and not [*BIN.rglob("*.py")], "bin/ holds shell alone"
    assert [f"{path}:{fault}" for path in sources for fault in faults_of(path.read_text(encoding="utf-8"))] == []


def test_no_script_evaluates_text():
    scripts = [path for path in BIN.iterdir() if path.is_file() and path.suffix in (".sh", ".sbatch", "")]
    assert len(scripts) > 5
    for path in scripts:
        words = [line for line in path.read_text().splitlines() if re.search(r"(^|[;&|({]\s*|\s)eval\s+[\"$]", line)]
        assert words == [], path


def test_no_template_lets_text_through_unescaped():
    templates = list(PACKAGE.rglob("*.html"))
    assert len(templates) >= 6
    for path in templates:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\b(safe|autoescape|xmlattr|Markup)\b", text), path
        assert "default-src 'none'" in text if path.name == "base.html" else text.startswith('{% extends "base.html" %}'), path
