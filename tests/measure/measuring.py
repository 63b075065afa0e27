"""What the scripts of this folder share."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path


def start(main: Callable[[Path], None]) -> None:
    """Calls `main` with the folder that the command line names, which is left as it ends, or with one that is removed."""
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as place:
            main(Path(place))


def drop(paths: list[Path]) -> None:
    """Takes files out of the page cache."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
