"""What tests that start several processes leave behind: nothing. No process, no file in the folder of temporary files, and the
working tree as it was."""

from __future__ import annotations

import os
import signal
import tempfile
import time
import uuid
from contextlib import suppress

import pytest
from leftovers import MARK, started, tree


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left(tmp_path_factory):
    """Kills and names what a module leaves."""
    mark, temporary, before = uuid.uuid4().hex, tmp_path_factory.mktemp("temporary"), tree()
    others = started(mark)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MARK, mark)
        patch.setenv("TMPDIR", str(temporary))
        patch.setattr(tempfile, "tempdir", None)
        # torch's own, which it makes when parts of it are imported, in this process too.
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "torchinductor"))
        yield
    end = time.monotonic() + 10
    while (left := started(mark).keys() - others.keys()) and time.monotonic() < end:
        time.sleep(0.1)
    told = started(mark)
    for number in left:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)
    assert not left, f"left running: {[told.get(number) for number in left]}"
    assert [path.name for path in temporary.iterdir()] == []
    assert tree() - before == set()
