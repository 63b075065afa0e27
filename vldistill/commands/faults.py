"""`--faults FILE`: all faults that a command found in its input, as JSONL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vldistill.artifacts import write_text
from vldistill.errors import MAX_PROBLEMS_SHOWN, InputError, Problems
from vldistill.places import open_regular


@contextmanager
def all_faults(path: Path | None) -> Iterator[Problems]:
    """Hands out what takes the faults of a command, and writes them to `path`, if there is one, however the command ends: an
    empty file says that there is none. Raises InputError where `path` is a file that this has not written."""
    if path is not None:
        _refuse_others(path)
    problems = Problems(every=path is not None)
    try:
        yield problems
    except InputError as error:
        faults = error.faults or [error]
        if path is not None:
            _write(path, faults)
            raise InputError(f"{error}\nall {len(faults):,} faults are in {path}") from None
        if len(faults) > MAX_PROBLEMS_SHOWN:
            raise InputError(f"{error}\n--faults FILE writes all of them") from None
        raise
    if path is not None:
        _write(path, problems.items)


def _row(fault: InputError) -> str:
    return json.dumps({"where": fault.where, "fault": fault.message, "mend": fault.hint}, ensure_ascii=False)


def _write(path: Path, faults: list[InputError]) -> None:
    write_text(path, "".join(f"{_row(fault)}\n" for fault in faults))


def _refuse_others(path: Path) -> None:
    """Before anything is read: the file may be somebody's data."""
    if not path.parent.is_dir():
        raise InputError("no such folder", where=str(path.parent), hint="make it, or name another file for --faults")
    if not path.exists():
        return
    if not path.is_file():
        raise InputError("is no plain file", where=str(path), hint="name a file for --faults")
    with open_regular(path) as file:
        first = file.readline()
    try:
        known = not first or json.loads(first).keys() == {"where", "fault", "mend"}
    except (ValueError, AttributeError):
        known = False
    if not known:
        raise InputError("exists and holds no faults", where=str(path), hint="name another file for --faults")
