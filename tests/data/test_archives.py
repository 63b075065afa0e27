"""Unpacking archives: the right bytes in one folder, no work twice, and nothing left of what could not be done."""

import gzip
import lzma
import os
import stat
import tarfile
import zipfile
from collections import namedtuple

import pytest
from archive_worlds import MODES, NOISE, contents, entry, header, refused, write_tar, write_zip, zip_entry

from vldistill.data import unpack as archives
from vldistill.data.unpack import find_sources, is_archive, unpack, unpacked_before
from vldistill.errors import InputError, VldistillError


@pytest.mark.parametrize("suffix", MODES)
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_ends_in_the_right_bytes(tmp_path, suffix, form):
    long = f"{'d' * 90}/{'f' * 90}" if form == tarfile.USTAR_FORMAT else f"{'d' * 200}/{'ü' * 100}"
    files = {"a/b.txt": b"hi", "noise": NOISE, "empty": b"", "block": bytes(512), long: b"x" * 513}
    folder = entry("./a/", tarfile.DIRTYPE, mode=0o2700)
    top = entry("./", tarfile.DIRTYPE)
    path = write_tar(tmp_path / f"x.{suffix}", top, folder, *files.items(), mode=MODES[suffix], format=form)
    manifest = unpack([path], tmp_path / "out")
    assert contents(tmp_path / "out") == files
    assert manifest["counts"] == {"archives": 1, "files": 5, "bytes": 2 + 300_000 + 512 + 513} and manifest["complete"]
    status = path.stat()
    assert manifest["sources"] == [{"name": path.name, "size": status.st_size, "mtime_ns": status.st_mtime_ns}]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_ends_in_the_right_bytes(tmp_path, method):
    files = {"a/b.txt": b"hi", "./a/noise": NOISE * 5, "empty": b"", "ü/ñ": b"x" * 1000, "a/none/": b""}
    path = write_zip(tmp_path / "x.zip", *files.items(), method=method)
    path.write_bytes(b"PK, and more before it" + path.read_bytes())
    unpack([path], tmp_path / "out")
    assert contents(tmp_path / "out") == {"a/b.txt": b"hi", "a/noise": NOISE * 5, "empty": b"", "ü/ñ": b"x" * 1000}
    assert (tmp_path / "out/a/none").is_dir()


def test_archives_and_annotations_go_to_one_folder(tmp_path):
    folder = tmp_path / "down"
    folder.mkdir()
    write_zip(folder / "annotations.ZIP", ("train.json", b"1"), ("images/readme", b"2"))
    write_tar(folder / "images.tar", ("images/a.jpg", b"3"))
    (folder / "val.json").write_bytes(b"4")
    (folder / ".hidden").write_bytes(b"5")
    calls = []
    manifest = unpack(find_sources(folder, folder / "raw"), folder / "raw", progress=lambda *done: calls.append(done))
    assert contents(folder / "raw") == {"train.json": b"1", "images/readme": b"2", "images/a.jpg": b"3", "val.json": b"4"}
    assert manifest["counts"] == {"archives": 2, "files": 4, "bytes": 4}
    total = sum((folder / name).stat().st_size for name in ("annotations.ZIP", "images.tar", "val.json"))
    assert calls[-1] == (total, total)
    assert unpack(find_sources(folder, folder / "raw"), folder / "raw")["unchanged"]


def test_what_macos_adds_is_passed_over_and_modes_are_ignored(tmp_path):
    junk = [("__MACOSX/._a", b"1"), ("a/.DS_Store", b"1"), (".DS_Store", b"1")]
    unpack([write_zip(tmp_path / "x.zip", *junk, (zip_entry("a/b", stat.S_IFREG | 0o777), b"2"))], tmp_path / "zip")
    unpack([write_tar(tmp_path / "x.tar", *junk, (entry("a/b", mode=0), b"2"))], tmp_path / "tar")
    (tmp_path / "plain").touch()
    for name in ("zip", "tar"):
        assert contents(tmp_path / name) == {"a/b": b"2"}
        assert (tmp_path / name / "a/b").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_several_streams_in_one_file_are_one(tmp_path):
    data = write_tar(tmp_path / "x.tar", ("a", NOISE)).read_bytes()
    for suffix, compress in (("tar.gz", gzip.compress), ("tar.xz", lzma.compress)):
        (tmp_path / f"x.{suffix}").write_bytes(compress(data[:1000]) + compress(data[1000:]))
        unpack([tmp_path / f"x.{suffix}"], tmp_path / suffix)
        assert contents(tmp_path / suffix) == {"a": NOISE}
    # Packed by what it holds, not by its name.
    (tmp_path / "y.tar").write_bytes(gzip.compress(data))
    unpack([tmp_path / "y.tar"], tmp_path / "y")
    assert contents(tmp_path / "y") == {"a": NOISE}


def test_a_folder_of_an_old_tar_and_a_binary_size(tmp_path):
    size = b"\x80" + (3).to_bytes(11, "big")
    (tmp_path / "x.tar").write_bytes(header(b"a/", kind=b"\0") + header(b"a/b", size) + b"one".ljust(512, b"\0") + bytes(1024))
    unpack([tmp_path / "x.tar"], tmp_path / "out")
    assert contents(tmp_path / "out") == {"a/b": b"one"}


def test_nothing_is_done_twice_and_changes_are_seen(tmp_path):
    path, out = write_zip(tmp_path / "x.zip", ("a", b"1"), ("b/c", b"2")), tmp_path / "out"
    assert unpacked_before([path], out) is None
    unpack([path], out)
    made = (out / "a").stat().st_mtime_ns
    for overwrite in (False, True):
        assert unpack([path], out, overwrite=overwrite)["unchanged"] and (out / "a").stat().st_mtime_ns == made
    (out / "a").unlink()
    with pytest.raises(InputError, match="no longer holds"):
        unpack([path], out)
    assert "unchanged" not in unpack([path], out, overwrite=True) and contents(out) == {"a": b"1", "b/c": b"2"}
    write_zip(path, ("a", b"3"))
    with pytest.raises(InputError, match=r"other archives, or they have changed \(pass --overwrite"):
        unpack([path], out)
    assert contents(out) == {"a": b"1", "b/c": b"2"}
    unpack([path], out, overwrite=True)
    assert contents(out) == {"a": b"3"}


def test_a_folder_of_another_kind_is_never_replaced(tmp_path):
    path = write_zip(tmp_path / "x.zip", ("a", b"1"))
    run = tmp_path / "run"
    run.mkdir()
    (run / "manifest.json").write_text('{"schema": 1, "stage": "distill", "complete": true}')
    for place, overwrite in ((run, False), (run, True), (tmp_path, True)):
        with pytest.raises(InputError, match="already exists, and was not made by unpacking"):
            unpack([path], place, overwrite=overwrite)
    unpack([path], tmp_path / "out")
    inner = write_zip(tmp_path / "out/x.zip", ("a", b"2"))
    with pytest.raises(InputError, match="is where the archives are"):
        unpack([inner], tmp_path / "out", overwrite=True)


@pytest.mark.parametrize(
    "suffix, free, told",
    [
        ("zip", 599_999, r"needs 600,000 bytes more, 599,999 are free"),
        ("tar.gz", 2**28 - 1, r"needs 268,435,456 bytes more, 268,435,455 are free"),
        ("json", 2**28, r"needs 536,870,912 bytes more, 268,435,456 are free"),
    ],
)
def test_a_disk_without_room_is_told_before_it_is_full(tmp_path, monkeypatch, suffix, free, told):
    path = tmp_path / f"x.{suffix}"
    if suffix == "zip":
        write_zip(path, ("a", NOISE), ("b", NOISE))
    elif suffix == "tar.gz":
        path.write_bytes(gzip.compress(header(size=b"%011o\0" % 2**28) + NOISE * 10))
    else:
        path.touch()
        os.truncate(path, 2**29)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("shutil.disk_usage", lambda place: usage(free))
    with pytest.raises(VldistillError, match=rf"{told} \(free some, or give a place on another disk with --unpack DIR\)") as left:
        unpack([path], tmp_path / "new")
    assert left.value.exit_code == 1 and not (tmp_path / "new").exists()
    if suffix == "zip":
        monkeypatch.setattr("shutil.disk_usage", lambda place: usage(free + 1))
        assert unpack([path], tmp_path / "out")["counts"]["bytes"] == 600_000


@pytest.mark.parametrize("suffix", archives.SUFFIXES)
def test_an_archive_in_name_alone_is_one_clear_error(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    assert not is_archive(path)
    path.write_text("<html>404 not found</html>" * 40)
    assert is_archive(path)
    refused([path], rf"x{suffix}: is not a (zip|tar) archive \(fetch it again\)")
    path.write_bytes(b"")
    refused([path], r": is empty")


def test_a_folder_of_anything_but_archives_and_annotations_is_refused(tmp_path):
    raw, target = tmp_path / "raw", tmp_path / "target"
    with pytest.raises(InputError, match="no such file or folder"):
        find_sources(raw, target)
    (raw / "images").mkdir(parents=True)
    (raw / "train.json").touch()
    with pytest.raises(InputError, match=r"images: is a folder beside the archives \(give a folder of archives and annotation"):
        find_sources(raw, target)
    os.mkfifo(raw / "pipe")
    with pytest.raises(InputError, match="is not a file beside"):
        find_sources(raw, target)
    (raw / "images").rmdir()
    (raw / "pipe").unlink()
    with pytest.raises(InputError, match="holds no archive"):
        find_sources(raw, target)
    with pytest.raises(InputError, match=r"train\.json: is no archive"):
        find_sources(raw / "train.json", target)


@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
def test_an_interruption_leaves_nothing(tmp_path, suffix):
    files = [("a", NOISE * 10), ("b", NOISE * 10)]
    path = tmp_path / f"x.{suffix}"
    write_zip(path, *files) if suffix == "zip" else write_tar(path, *files, mode="w:gz")
    seen = []

    def interrupt(done, total):
        seen.append((done, [place.stat().st_size for place in tmp_path.rglob("[ab]")]))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack([path], tmp_path / "new" / "out", progress=interrupt)
    # It was under way, and in the midst of a file.
    assert 2**20 <= seen[0][0] < path.stat().st_size and len(seen[0][1]) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fails_is_no_fault_of_the_archive(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "x.tar", ("a", NOISE))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives._Unpacking, "_write", full)
    with pytest.raises(VldistillError, match="out: cannot be written: No space left") as caught:
        unpack([path], tmp_path / "out")
    assert caught.value.exit_code == 1
    assert list(tmp_path.iterdir()) == [path]
