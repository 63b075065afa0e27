"""Artifacts: folders on disk through which the stages talk, each with a `manifest.json`.

A data artifact is written to a temporary name beside its place and renamed when complete; a run grows in place and is
whole when its manifest says `complete`. Fingerprints tie an artifact to its inputs: a mismatch is an error, never a
silent reuse.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from vldistill.errors import InputError, VldistillError, writing
from vldistill.locking import exclusive
from vldistill.places import check_writable, open_regular, read_regular
from vldistill.versions import package_versions

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
CHECKSUM = "checksum"
"""The key of a sealed table (see `sealed`)."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


def fingerprint(value: Any) -> str:
    """sha256 (64 hex digits) of a JSON-like value, independent of key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Hex digest of a file's content, read a MiB at a time."""
    state = hashlib.new(algorithm)
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def known_digest(path: Path) -> str:
    """sha256 of a file; one of gigabytes is read once a process, as long as it looks the same from outside."""
    status = path.stat()
    return _digest_of(path, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest_of(path: Path, inode: int, size: int, changed: int) -> str:
    return file_digest(path)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole: to a temporary name, flushed to disk, then renamed into place. Raises VldistillError where the disk is
    full."""
    _write_together({path: content})


def write_files(files: Mapping[Path, bytes | memoryview | str | list[memoryview]]) -> None:
    """Writes files that belong together: all are on disk under temporary names before the first is renamed into place, so that a
    full disk leaves what was there before. Folders above them are made, and taken away again where it fails. Text becomes UTF-8;
    of a list, the parts follow each other. Raises VldistillError where the disk is full."""
    with ExitStack() as stack:
        for path in files:
            stack.enter_context(within_parents(path))
        _write_together({path: content.encode() if isinstance(content, str) else content for path, content in files.items()})


def _write_together(files: Mapping[Path, bytes | memoryview | list[memoryview]]) -> None:
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in files}
    parts = {path: content if isinstance(content, list) else [content] for path, content in files.items()}
    try:
        for path, content in parts.items():
            with writing(path, sum(map(len, content)), every=True), temporary[path].open("wb") as file:
                file.writelines(content)
                file.flush()
                os.fsync(file.fileno())
        for path, written in temporary.items():
            with writing(path, sum(map(len, parts[path])), every=True):
                written.replace(path)
    finally:
        for written in temporary.values():
            written.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes the folder's list of files durable: a file that was renamed into it stays after a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """The same for text, as UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes JSON whole (see `write_text`)."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """JSON as files have it."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


@contextmanager
def building(target: Path, *, overwrite: bool = False, stage: str | None = None, begun: str | None = None) -> Iterator[Path]:
    """Yields a temporary folder beside `target`, renamed to it on success and removed on any failure (Ctrl-C too). begun: a
    digest of what is made, where half of it is of use: the folder then stays where it fails or is killed, unless that is a
    refusal or nothing was written but its manifest, and is yielded once more to who makes the same.

    Raises InputError at once where `refuse_existing` does, or another process is writing `target`, and VldistillError where the
    disk is full; an old artifact stays until the new one is whole. What a killed process left half-written there is removed.
    """
    refuse_existing(target, overwrite, stage)
    check_writable(target)
    state = f"{os.getpid()}.building" if begun is None else f"{begun[:12]}.growing"
    temporary, retired = (target.with_name(f".{target.name}.{name}") for name in (state, f"{os.getpid()}.old"))
    with within_parents(target), exclusive(target), writing(target):
        remove_leftovers(target, but=temporary if begun else None)
        # It may have been finished by another since.
        refuse_existing(target, overwrite, stage)
        temporary.mkdir(exist_ok=True)
        keep = False
        try:
            try:
                yield temporary
            except InputError:
                raise
            except BaseException:
                keep = begun is not None and any(path.name != MANIFEST for path in temporary.iterdir())
                raise
            if target.exists():
                target.rename(retired)
            temporary.rename(target)
            shutil.rmtree(retired, ignore_errors=True)
        except VldistillError as error:
            # Nobody asked for a file of this name.
            error.where = error.where and error.where.replace(str(temporary), str(target))
            raise
        finally:
            if not keep:
                shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def within_parents(target: Path) -> Iterator[None]:
    """Makes the folders above `target`, and takes those away again that it has made and that are empty in the end: a failure
    leaves none behind."""
    made = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for parent in made:
            with suppress(OSError):
                parent.rmdir()


def remove_leftovers(target: Path, but: Path | None = None) -> None:
    """Removes what killed processes left beside `target`, half-written or retired, `but` one; only under its lock (see
    `exclusive`). One that was killed between its two last steps left no `target`, and the old one is then put back."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]+\.(building|growing|new|old|tmp)")
    for path in sorted(target.parent.iterdir()):
        if path == but or not (match := pattern.fullmatch(path.name)):
            continue
        if match[1] == "old" and not target.exists():
            path.rename(target)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def settle(target: Path) -> None:
    """Puts the old artifact back where a process that replaced it was killed between its two last steps."""
    if not target.exists() and target.parent.is_dir() and any(target.parent.glob(".*.old")):
        with exclusive(target):
            remove_leftovers(target)


def refuse_existing(
    target: Path, overwrite: bool, stage: str | None = None, hint: str = "pass --overwrite, or another name"
) -> None:
    """Raises InputError where `target` is taken, unless `overwrite` is on and it is empty or an artifact of ours, of `stage` (one
    of a "|"-separated list) where that is given."""
    if not target.exists():
        return
    if not overwrite:
        raise InputError("already exists", where=str(target), hint=hint)
    if target.is_dir() and not any(target.iterdir()):
        return
    other = stage_of(target) if stage is not None else None
    if not target.is_dir() or not (target / MANIFEST).exists() or (stage is not None and other is None):
        raise InputError(
            "is not an artifact of vldistill, so it is not overwritten", where=str(target), hint="choose another place"
        )
    if stage is not None and other not in stage.split("|"):
        raise InputError(
            f"is an artifact of `{other}`, so one of `{stage}` does not overwrite it",
            where=str(target),
            hint="choose another place, or remove it yourself",
        )


def stage_of(folder: Path) -> str | None:
    """What the folder's manifest says that it is; None where there is none that can be read."""
    try:
        return str(json.loads(read_regular(folder / MANIFEST))["stage"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def refuse_inputs_in(target: Path, *inputs: Path | None) -> None:
    """Raises InputError where `target` is one of a command's inputs or holds one, since to overwrite it would remove that."""
    for path in inputs:
        if path is not None and path.resolve().is_relative_to(target.resolve()):
            what = "is" if path.resolve() == target.resolve() else "holds"
            raise InputError(f"{what} what the command reads", where=str(target), hint="give another place with --out")


CONVERTED = "convert"
"""The stage of a model folder that was made of an official checkpoint."""


def write_converted(folder: Path, source: Path, **fields: Any) -> None:
    """The manifest of such a folder, once its files are all there. fields: further ones."""
    files = {path.name: file_digest(path) for path in sorted(folder.iterdir())}
    write_manifest(folder, new_manifest(CONVERTED, source=str(source.resolve()), files=files, **fields, complete=True))


def new_manifest(stage: str, **fields: Any) -> dict[str, Any]:
    """A manifest's common fields. `fields` adds to them: parents, counts, recipe_hash, ..."""
    return {
        "schema": SCHEMA_VERSION,
        "stage": stage,
        "complete": False,
        "command": ["vldistill", *sys.argv[1:]],
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": package_versions(),
        **fields,
    }


def sealed(table: dict[str, Any]) -> dict[str, Any]:
    """The table with a checksum of all that is in it, so that an edit is seen."""
    body = {key: value for key, value in table.items() if key != CHECKSUM}
    return {**body, CHECKSUM: fingerprint(body)}


def is_intact(table: dict[str, Any]) -> bool:
    """Whether a sealed table is what it was; one without a checksum, which earlier versions wrote, is believed. One whose
    checksum has another name is not: the name was damaged."""
    if CHECKSUM in table:
        return sealed(table)[CHECKSUM] == table[CHECKSUM]
    digests = [key for key, value in table.items() if isinstance(value, str) and _DIGEST.fullmatch(value)]
    return all(fingerprint({other: value for other, value in table.items() if other != key}) != table[key] for key in digests)


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes the folder's manifest whole, sealed."""
    write_json(folder / MANIFEST, sealed(manifest))


def read_manifest(folder: Path, stage: str, *, make_it: str, partial: bool = False, unsealed: bool = True) -> dict[str, Any]:
    """Reads an artifact's manifest. unsealed: whether one without a checksum, which earlier versions wrote, is believed.

    Raises InputError where the folder is missing, is no artifact of `stage` (one of a "|"-separated list), was edited, or is
    not complete (unless `partial`: of use as far as it goes); `make_it` is the command that would make it.
    """
    path = folder / MANIFEST
    if not folder.exists():
        raise InputError("no such artifact", where=str(folder), hint=f"make it with: {make_it}")
    if not path.exists():
        raise InputError("is not an artifact: it has no manifest.json", where=str(folder), hint=f"make one with: {make_it}")
    try:
        manifest = json.loads(read_regular(path))
        actual = str(manifest["stage"])
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path), hint=f"make one with: {make_it}") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError("is not a manifest", where=str(path), hint=f"make the artifact again with: {make_it}") from None
    if not is_intact(manifest) or (CHECKSUM not in manifest and not unsealed):
        raise InputError("was edited: it is not what its checksum says", where=str(path), hint=f"make it again with: {make_it}")
    manifest.pop(CHECKSUM, None)
    if actual not in stage.split("|"):
        raise InputError(
            f"is an artifact of `{actual}`, one of `{stage}` was expected", where=str(folder), hint=f"make one with: {make_it}"
        )
    if manifest.get("schema") != SCHEMA_VERSION:
        raise InputError(
            f"has schema {manifest.get('schema')}, this version reads {SCHEMA_VERSION}",
            where=str(path),
            hint=f"make the artifact again with: {make_it}",
        )
    tables = manifest.keys() & {"options", "parents", "references", "files", "sizes", "variants"}
    check_fields(manifest, folder, **dict.fromkeys(tables, (dict, type(None))))
    if not partial and not manifest.get("complete"):
        raise InputError(
            "is not complete: the command that made it was interrupted or failed",
            where=str(folder),
            hint=f"make it again with: {make_it}",
        )
    return manifest


_WITH_OVERWRITE = ("prepare", "pretrain", "finetune", "distill", "convert", "index")


def made_by(manifest: dict[str, Any]) -> str:
    """The command that makes an artifact again, as far as its manifest tells."""
    words = manifest.get("command")
    known = isinstance(words, list) and all(isinstance(word, str) for word in words) and words[:1] == ["vldistill"]
    if not known or len(words) < 2:
        return "make it again with the command that made it"
    if words[1] in _WITH_OVERWRITE:
        words = [word for word in words if word != "--dry-run"] + ["--overwrite"] * ("--overwrite" not in words)
    return f"make it again with: {shlex.join(words)}"


def check_fields(manifest: dict[str, Any], where: Path, /, **kinds: type | tuple[type, ...]) -> None:
    """Raises InputError where a field of a manifest is missing or of another type: one that no command of ours has written."""
    for name, kind in kinds.items():
        value = manifest.get(name)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise InputError(
                f"`{name}` is {str(value)[:40]!r}" if name in manifest else f"`{name}` is missing",
                where=str(where / MANIFEST),
                hint=made_by(manifest),
            )


def check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Raises InputError where a file that the manifest names is gone, or has another size than it records (contents are not
    read)."""
    sizes = manifest.get("sizes", {})
    check_fields(sizes, folder, **dict.fromkeys(sizes, int))
    for name in (*manifest.get("files", {}), *(f"{variant}.jsonl" for variant in manifest.get("variants", {}))):
        path = folder / name
        if not path.is_file():
            raise InputError("is named in the manifest but missing", where=str(path), hint=made_by(manifest))
        if path.stat().st_size != sizes.get(name, path.stat().st_size):
            raise InputError(
                f"has {path.stat().st_size:,} bytes, its manifest says {sizes[name]:,}", where=str(path), hint=made_by(manifest)
            )


def check_digests(folder: Path, manifest: dict[str, Any], *, within: str = "") -> None:
    """Raises InputError where a file that the manifest names, of those whose names begin with `within`, is gone or was edited."""
    files = manifest.get("files", {})
    check_fields({"files": files}, folder, files=dict)
    for name, digest in files.items():
        path = folder / name
        if not name.startswith(within):
            continue
        if not path.is_file():
            raise InputError("is named in the manifest but missing", where=str(path), hint=made_by(manifest))
        if known_digest(path) != digest:
            raise InputError("differs from what its manifest records", where=str(path), hint=made_by(manifest))


RUN_STAGES = "finetune|distill|pretrain"


def find_run(path: Path) -> Path:
    """The run folder that `path` names: itself, or the only complete run below it (`runs/<recipe>` with one variant).

    Raises InputError where there is none, or more than one to choose from.
    """
    if (path / MANIFEST).exists() or not path.exists():
        return path
    folders = {manifest.parent for depth in range(1, 4) for manifest in path.glob("*/" * depth + MANIFEST)}
    hidden = {run for run in folders if any(part.startswith(".") for part in run.relative_to(path).parts)}
    runs = sorted(run for run in folders - hidden if _complete(run))
    if len(runs) == 1:
        return runs[0]
    if not runs:
        raise InputError("holds no complete run", where=str(path), hint="make one with `vldistill finetune` or `distill`")
    listing = ", ".join(str(run) for run in runs[:5])
    raise InputError(f"holds {len(runs)} runs", where=str(path), hint=f"name one of them: {listing}")


def _complete(folder: Path) -> bool:
    try:
        return bool(json.loads(read_regular(folder / MANIFEST))["complete"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
