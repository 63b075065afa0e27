"""Programs that a test starts: others that import the package that is under test, and a browser."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

import vldistill

ENVIRONMENT = {"PYTHONPATH": str(Path(vldistill.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
"""Of a process that shall import what this one has imported, with as many threads."""
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
with_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no browser")
"""Of a test that draws a page."""


@contextmanager
def programs() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """A function: starts Python with these words and environment; what still runs in the end is killed."""
    running = []

    def begin(*words: object, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **ENVIRONMENT, **environment},
        )
        running.append(process)
        return process

    try:
        yield begin
    finally:
        for process in running:
            process.kill()
            process.communicate()


def draw(page: Path, folder: Path, width: int) -> Image.Image:
    """A page as the browser shows it, RGB; folder: of the browser's profile. Fails where the page complains: of errors, or of
    requests that its own rules refuse."""
    picture = folder / "page.png"
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--hide-scrollbars",
        "--enable-logging=stderr",
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width},3000",
    ]
    told = subprocess.run(
        [CHROMIUM, *options, f"--screenshot={picture}", page.as_uri()], check=True, capture_output=True, timeout=60
    ).stderr.decode()
    assert "CONSOLE" not in told, told
    return Image.open(picture).convert("RGB")
