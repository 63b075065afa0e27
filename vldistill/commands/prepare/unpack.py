"""The first part of `vldistill prepare`, where what is given are archives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vldistill.artifacts import refuse_existing, refuse_inputs_in
from vldistill.commands.output import show_plan
from vldistill.data.unpack import find_sources, is_archive, unpack, unpacked_before
from vldistill.errors import InputError
from vldistill.terminal import console, say


def unpack_raw(name: str, raw: Path, into: Path | None, out: Path, *, overwrite: bool, dry_run: bool) -> Path | None:
    """Unpacks `raw` to `into` (artifacts/raw/<name>), and returns that folder; None where a dry run ends here.

    out: the artifact that would follow, so that it is refused before the work, not after it.
    """
    target = into or Path("artifacts/raw") / name
    sources = find_sources(raw, target)
    refuse_inputs_in(out, raw, target)
    if out.resolve().is_relative_to(target.resolve()):
        raise InputError("is where the archives are unpacked", where=str(out), hint="give another place with --out")
    if unpacked_before(sources, target, overwrite=overwrite) is not None:
        say(f"already unpacked: {target}")
        return target
    refuse_existing(out, overwrite, "prepare")
    if dry_run:
        archives = [source.name for source in sources if is_archive(source)]
        copied = [source.name for source in sources if not is_archive(source)]
        rows = {"would unpack": ", ".join(archives), "would copy": ", ".join(copied), "into": target, "and read that as": name}
        show_plan(f"prepare {name}", {what: which for what, which in rows.items() if which})
        return None
    counts = _unpack_with_progress(sources, target, overwrite)["counts"]
    many = ", ".join(f"{counts[what]:,} {what if counts[what] != 1 else what[:-1]}" for what in ("archives", "files"))
    say(f"unpacked {many}, {size_text(counts['bytes'])} into {target}")
    return target


def size_text(size: int) -> str:
    """A number of bytes for the eye: `1.2 GiB`."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if size >= 1024**power:
            return f"{size / 1024**power:,.1f} {unit}"
    return f"{size} bytes"


def _unpack_with_progress(sources: list[Path], target: Path, overwrite: bool) -> dict[str, Any]:
    """`unpack` with a bar that counts packed bytes, on a terminal."""
    if not console.is_terminal:
        return unpack(sources, target, overwrite=overwrite)
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    with Progress(
        *Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn(), console=console, transient=True
    ) as progress:
        bar = progress.add_task("unpacking", total=None)

        def advance(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)

        return unpack(sources, target, overwrite=overwrite, progress=advance)
