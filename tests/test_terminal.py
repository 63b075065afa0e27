"""What a command prints is whole on any terminal, in a log, in another encoding and where nobody reads it."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from programs import ENVIRONMENT

from vldistill.terminal import Table, escaped

LABELS = ("红\x1b[31m", "[b]no\x07")
CLI = [sys.executable, "-m", "vldistill"]
LONG = "a question of many words that no terminal has room for"
TABLE = (
    "from vldistill.terminal import Table, show\n"
    "table = Table('text', title='title'); table.figures('rows', 's/batch')\n"
    f"table.add_row('{LONG}', '1,200,000', '16.0721')\n"
    "show(table)"
)


def on_a_terminal(columns: int, *words: str) -> list[str]:
    """The lines that a program prints on a terminal of so many columns, before that breaks them."""
    ours, theirs = pty.openpty()
    size = {"COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "1"}
    with subprocess.Popen(words, stdout=theirs, stderr=theirs, env=os.environ | ENVIRONMENT | size) as process:
        os.close(theirs)
        text = b""
        try:
            while part := os.read(ours, 65536):
                text += part
        except OSError:  # the other end is closed
            pass
        assert process.wait() == 0, text
    os.close(ours)
    return re.sub(r"\x1b\[[\d;]*m", "", text.decode()).splitlines()


@pytest.mark.parametrize("columns", [10, 20, 80, 200])
def test_a_table_on_a_terminal(columns):
    lines = on_a_terminal(columns, sys.executable, "-c", TABLE)
    assert sum("1,200,000" in line and "16.0721" in line for line in lines) == 1
    assert "…" not in "".join(lines)
    assert max(map(len, lines)) <= max(columns, 45)
    words = " ".join(part for line in lines for part in line.split("│")[1:2]).split()
    assert words == LONG.split()


def test_a_table_in_a_log_has_a_line_a_row():
    told = subprocess.run(
        [sys.executable, "-c", TABLE],
        env=os.environ | ENVIRONMENT | {"COLUMNS": "20"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert any(LONG in line and "1,200,000" in line and "16.0721" in line for line in told.splitlines())


def test_what_a_terminal_would_obey_is_shown(capsys):
    from vldistill.terminal import say, show, write_json

    hostile = "red\x1b[31m \x9b2J\u202e[bold]\x07"
    table = Table("label", title=hostile)
    table.add_row(hostile)
    show(table)
    say(hostile)
    write_json({"label": hostile})
    told = capsys.readouterr().out
    assert not {"\x1b", "\x9b", "\u202e", "\x07"} & set(told)
    assert told.count("[bold]") == 4
    assert json.loads(told.splitlines()[-1]) == {"label": hostile}
    assert escaped("naïve 中 🙂\n\t") == "naïve 中 🙂\n\t"


@pytest.mark.parametrize(
    ("shell", "code", "said"),
    [
        ("recipe ls >&-", 0, ""),
        ("recipe ls | head -1", 0, ""),
        ("recipe show quickstart_dide | true", 0, ""),
        ("recipe ls <&-", 0, ""),
        ("recipe ls >&- 2>&-", 0, ""),
        ("recipe ls >/dev/full", 1, "vldistill: standard output: No space left on device; the work itself is done\n"),
        (
            "recipe check nothing >&-",
            2,
            "vldistill: nothing: no such recipe (`vldistill recipe ls` lists those that ship with the tool)\n",
        ),
    ],
)
def test_an_output_that_cannot_be_written(shell, code, said):
    line = f"set -o pipefail; {' '.join(CLI)} {shell}"
    done = subprocess.run(["bash", "-c", line], env=os.environ | ENVIRONMENT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, said)


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory, toy_world, well) -> Path:
    """A run whose labels and questions hold Chinese and what terminals obey, in a folder named like mark-up."""
    folder = tmp_path_factory.mktemp("hostile") / "[red]raw"
    folder.mkdir()
    pictures = sorted((toy_world / "artifacts/raw/toy/vqa/train2014").glob("*.jpg"))[:8]
    for split in ("train", "val"):
        rows = [{"image": f"{place}.jpg", "text": f"is it \x1b[31m红 {place}?", "label": LABELS[place % 2]} for place in range(8)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for place, picture in enumerate(pictures):
        (folder / f"{place}.jpg").write_bytes(picture.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        well("prepare", "jsonl", "--raw", folder, "--out", folder.parent / "data")
        for name, seed in (("a", 0), ("b", 1)):
            well(
                "finetune",
                "-r",
                "easy_vqa_teacher",
                "--name",
                name,
                f"data.path={folder.parent / 'data'}",
                "train.steps=2",
                "train.epochs=null",
                "train.batch.pairs=4",
                "train.validate_every=2",
                f"train.seed={seed}",
                "image.size=32",
                "student.sizes={layers: 1, width: 32, heads: 2}",
            )
    return folder.parent


RUNS = [f"runs/easy_vqa_teacher/{name}/seed{seed}" for name, seed in (("a", 0), ("b", 1))]


def test_labels_of_others_reach_no_terminal(hostile_run, well, monkeypatch):
    monkeypatch.chdir(hostile_run)
    told = [
        well("prepare", "jsonl", "--raw", "[red]raw", "--out", "again").out,
        well("evaluate", *RUNS).out,
        well("compare", *RUNS).out,
        well("predict", RUNS[0], "--image", "[red]raw/0.jpg", "--text", "is it \x1b[31m?").out,
        well("report", "runs", "--out", "report").out,
    ]
    well("analyze", RUNS[0], "--tokens", "--out", "tokens.html")
    # Pages and tables are shown by `cat` as well, and control characters are no HTML.
    written = [path for path in (*Path("report").rglob("*"), Path("tokens.html")) if path.suffix in (".html", ".md", ".csv")]
    assert len(written) >= 4
    told += [path.read_text(encoding="utf-8") for path in written]
    for text in told:
        assert not {"\x1b", "\x07", "\x9b"} & set(text), text
    assert any("红\\u001b[31m" in path.read_text(encoding="utf-8") for path in written if path.suffix == ".html")
    assert "红\\u001b[31m" in told[0] and "[b]no" in told[0]
    assert "[b]no" in told[3]


def test_another_encoding_loses_nothing(hostile_run):
    done = subprocess.run(
        [*CLI, "evaluate", RUNS[0]],
        cwd=hostile_run,
        capture_output=True,
        env=os.environ | ENVIRONMENT | {"PYTHONIOENCODING": "latin-1"},
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode("latin-1")
    assert "\\u7ea2\\u001b[31m" in text
    assert json.loads(text.splitlines()[-1])["split"] == "val"
