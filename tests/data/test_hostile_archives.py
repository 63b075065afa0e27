"""Archives that are not what they seem: each refused in one line a fault, and nothing of them written outside or left behind."""

import random
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from archive_worlds import (
    MODES,
    NOISE,
    contents,
    entry,
    header,
    patched,
    refused,
    set_zip_field,
    tar_bomb,
    write_tar,
    write_zip,
    zip_bomb,
    zip_entry,
)

from vldistill.data import unpack as archives
from vldistill.data.unpack import MAX_RATIO, unpack
from vldistill.errors import InputError

EVIL = "/vldistill-evil"
LINK = {"linkname": "../../outside"}
HOSTILE_TARS = {
    "absolute": ([EVIL], "absolute name"),
    "drive": (["C:/evil"], "absolute name"),
    "parent": (["../evil"], r"leaves the folder by `\.\.`"),
    "inner parent": (["a/b/../../../evil"], r"leaves the folder by `\.\.`"),
    "backslash": (["..\\evil"], "backslash"),
    "NUL": ([entry("a", pax_headers={"path": "a\0b"})], "NUL"),
    "no name": ([""], "empty name"),
    "dot": (["./."], "empty name"),
    "symbolic link": ([entry("a", tarfile.SYMTYPE, **LINK)], "symbolic link"),
    "through a link": ([entry("a", tarfile.SYMTYPE, linkname=".."), "a/evil"], "x.*:a: is a symbolic link"),
    "hard link": ([entry("a", tarfile.LNKTYPE, **LINK)], "hard link"),
    "character device": ([entry("a", tarfile.CHRTYPE)], "device"),
    "block device": ([entry("a", tarfile.BLKTYPE)], "device"),
    "pipe": ([entry("a", tarfile.FIFOTYPE)], "named pipe"),
    "sparse": ([entry("a", pax_headers={"GNU.sparse.major": "1"})], "sparse"),
    "unknown kind": ([entry("a", b"Z")], "unknown kind"),
    "setuid": ([entry("a", mode=0o4755)], "setuid"),
    "setgid": ([entry("a", mode=0o2755)], "setgid"),
    "twice": (["good", "a", "./a"], r"\./a: occurs twice"),
    "file as folder": (["a", "a/b"], "a/b: is a file and a folder"),
    "folder as file": (["a/b", "a"], "a: is a file and a folder"),
    "case": (["a/b", "a/B"], "a/B: differs from a/b in case alone"),
    "case of a folder": (["Train/a", "train/b"], "train/b: differs from Train in case alone"),
    "accents": (["caf\u00e9", "cafe\u0301"], "in case alone"),
    "long component": (["a" * 256], "255 bytes in one component"),
    "long letters": (["é" * 128], "255 bytes in one component"),
    "long name": (["/".join(["a" * 200] * 21)], "more than 4,096 bytes"),
    "deep": (["a/" * 70 + "b"], "more than 64 folders deep"),
    "manifest": (["manifest.json"], "takes the name of the manifest"),
}


@pytest.mark.parametrize("name", HOSTILE_TARS)
@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_a_hostile_tar_is_refused(tmp_path, name, suffix):
    members, reason = HOSTILE_TARS[name]
    members = [(member, b"") if isinstance(member, str) else member for member in members]
    path = write_tar(tmp_path / f"x.{suffix}", ("first", b"1"), *members, ("last", b"2"), mode=MODES[suffix])
    message = refused([path], reason)
    assert message.startswith(f"{path}:") and message.endswith(")") and len(message) < 600
    assert not Path(EVIL).exists()


HOSTILE_ZIPS = {
    "absolute": (EVIL, "absolute name"),
    "drive": ("c:evil", "absolute name"),
    "parent": ("a/../../evil", r"leaves the folder by `\.\.`"),
    "backslash": ("..\\evil", "backslash"),
    "escape codes": ("../\x1b[2J\nevil" + "x" * 5000, "leaves the folder"),
    "no name": ("./.", "empty name"),
    "symbolic link": (zip_entry("a", stat.S_IFLNK | 0o777), "symbolic link"),
    "link as a folder": (zip_entry("a/", stat.S_IFLNK | 0o777), "symbolic link"),
    "pipe": (zip_entry("a", stat.S_IFIFO | 0o644), "named pipe"),
    "device": (zip_entry("a", stat.S_IFCHR | 0o644), "device"),
    "folder as a file": (zip_entry("a", stat.S_IFDIR | 0o755), "folder by its mode"),
    "setuid": (zip_entry("a", stat.S_IFREG | 0o4755), "setuid"),
    "twice": ("first", "first: occurs twice"),
    "file as folder": ("first/a", "first/a: is a file and a folder"),
    "case": ("FIRST", "FIRST: differs from first in case alone"),
    "long component": ("a" * 256, "255 bytes in one component"),
    "manifest": ("Manifest.json", r"differs from manifest\.json in case alone"),
}


@pytest.mark.parametrize("name", HOSTILE_ZIPS)
def test_a_hostile_zip_is_refused(tmp_path, name):
    info, reason = HOSTILE_ZIPS[name]
    with pytest.warns(UserWarning) if name == "twice" else pytest.MonkeyPatch.context():
        path = write_zip(tmp_path / "x.zip", ("first", b"1"), (info, b"2"))
    message = refused([path], reason)
    assert message.startswith(f"{path}:") and message.endswith(")") and len(message) < 600
    assert not Path(EVIL).exists()


def test_what_only_a_patched_zip_has_is_refused(tmp_path):
    def make(*members, **options):
        return write_zip(tmp_path / "x.zip", *(members or [("abcdef", b"words " * 200)]), **options)

    assert "abc" in refused([patched(make(), (b"abcdef", b"abc\0ef"))], "NUL")
    refused([set_zip_field(make(), 6, 8, "<H", 1)], "abcdef: is encrypted")
    refused([set_zip_field(make(), 8, 10, "<H", 99)], "abcdef: is packed by a method that is not read")
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        refused([make(method=method)], "method that is not read")
    refused([set_zip_field(make(), 14, 16, "<I", 7)], "abcdef: is damaged or cut off: Bad CRC-32")
    refused([set_zip_field(make(), 22, 24, "<I", 1199)], "abcdef: claims 1,199 bytes, and has more")
    refused([set_zip_field(make(), 22, 24, "<I", 1201)], "abcdef: claims 1,201 bytes, and has 1,200")
    refused([patched(make(), (b"PK\3\4", b"PK\3\5"))], "abcdef: is damaged or cut off: Bad magic number")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a", NOISE)
        archive.filelist.append(archive.filelist[0])
    refused([tmp_path / "x.zip"], "members that overlap")


def test_headers_of_a_tar_that_make_no_sense_are_refused(tmp_path):
    path, end = tmp_path / "x.tar", bytes(1024)
    for data, reason in {
        header(size=b"\xff" * 12) + end: "not a tar archive",
        header() + header(size=b"\xff" * 12) + end: "a header makes no sense",
        header() + header(size=b"8_9\0\0\0\0\0\0\0\0\0") + end: "a header makes no sense",
        header() + header(size=b"\x80" + (2**60).to_bytes(11, "big")) + end: "x.tar:x: is cut off",
        header() + header(size=b"77777777777\0", kind=b"x") + end: "extended headers of one member have more than 32,768",
        header() + header(kind=b"x") * 50 + end: "is damaged or cut off: end of file header",
        header() + header(kind=b"x") * 500 + end: "extended headers of one member have more than 32,768",
        header(size=b"00000000005\0", kind=b"x") + b"0 a=b".ljust(512, b"\0") + header() + end: "not a tar archive",
        header(): "is cut off",
        end: "holds no file",
    }.items():
        path.write_bytes(data)
        refused([path], reason)


def test_all_faults_are_told_in_one_pass_over_all_archives(tmp_path):
    link = entry("l", tarfile.SYMTYPE, **LINK)
    one = write_tar(tmp_path / "a.tar.gz", ("../x", b""), ("same", b""), link, mode="w:gz")
    two = write_zip(tmp_path / "b.zip", ("same", b"1"), ("/y", b"2"), ("good", b"3"))
    set_zip_field(two, 14, 16, "<I", 7)
    plain = tmp_path / "SAME"
    plain.touch()
    lines = refused([one, two, plain], "nothing was written", lines=6).splitlines()
    found = [line.split(" (")[0] for line in lines]
    assert found == [
        f"{one}:../x: leaves the folder by `..`", f"{one}:l: is a symbolic link, not a file", f"{two}:same: occurs twice",
        f"{two}:/y: has an absolute name", f"{plain}: differs from same in case alone, which many file systems take for the same",
        f"5 problems in {tmp_path}, nothing was written",
    ]  # fmt: skip


def test_the_number_of_faults_that_are_held_has_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_FAULTS", 3)
    refused([write_tar(tmp_path / "x.tar", *[(f"../{i}", b"") for i in range(9)])], "3 problems in", lines=4)


@pytest.mark.parametrize(
    "make, suffix, most",
    [
        (zip_bomb, "zip", 0),
        (lambda path: zip_bomb(path, claims=50_000), "zip", 50_000),
        (lambda path: zip_bomb(path, claims=15 * 2**20), "zip", 15 * 2**20),
        (tar_bomb, "tar.gz", None),
    ],
    ids=["zip", "zip that lies", "zip that lies less", "tar.gz"],
)
def test_a_bomb_is_refused_before_it_has_grown(tmp_path, monkeypatch, make, suffix, most):
    path = make(tmp_path / f"x.{suffix}")
    size = path.stat().st_size
    assert size < 2**20
    written, write = [0], archives._Unpacking._write

    def watched(self, *arguments):
        try:
            write(self, *arguments)
        finally:
            written.append(self.bytes)

    monkeypatch.setattr(archives._Unpacking, "_write", watched)
    refused([path], "bomb|and has more")
    assert max(written) <= (MAX_RATIO * size if most is None else most)


def test_many_small_members_are_a_bomb_together(tmp_path):
    files = [(f"{i}", bytes(900_000)) for i in range(10)]
    refused([write_zip(tmp_path / "x.zip", *files)], r"x\.zip: unpacks to 9,000,000 bytes, more than 100 times its \d")
    refused([write_tar(tmp_path / "x.tar.gz", *files, mode="w:gz")], r"x\.tar\.gz:\d: unpacks to more than 100 times the")


def test_what_packs_well_and_is_small_is_no_bomb(tmp_path):
    blanks = b" " * 2**19
    for path in (write_zip(tmp_path / "x.zip", ("a", blanks)), write_tar(tmp_path / "x.tar.xz", ("a", blanks), mode="w:xz")):
        unpack([path], tmp_path / f"{path.name}.out")
        assert contents(tmp_path / f"{path.name}.out") == {"a": blanks}


def test_the_number_of_entries_has_a_limit(tmp_path, monkeypatch):
    files = [(str(i), b"") for i in range(5)]
    tar, packed = write_tar(tmp_path / "x.tar", *files), write_zip(tmp_path / "x.zip", *files)
    monkeypatch.setattr(archives, "MAX_ENTRIES", 4)
    for path in (tar, packed):
        refused([path], "more than 4 entries")
    monkeypatch.setattr(archives, "MAX_ENTRIES", 9)
    refused([tar, write_zip(tmp_path / "y.zip", *((f"y{i}", b"") for i in range(5)))], "y.zip: has more than 9 entries")


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_a_download_that_was_cut_off_is_one_clear_error(tmp_path, suffix):
    files = [(f"images/{i}.jpg", NOISE[i * 1000 : i * 1000 + 900]) for i in range(30)]
    path = tmp_path / f"x.{suffix}"
    whole = (write_zip(path, *files) if suffix == "zip" else write_tar(path, *files, mode=MODES[suffix])).read_bytes()
    end = 30 * 3 * 512 if suffix == "tar" else len(whole) - 1
    for cut in [0, 1, 600, end, *random.Random(suffix).sample(range(2, end), 20)]:
        path.write_bytes(whole[:cut])
        message = refused([path], r"cut off|is empty|is not a (zip|tar) archive")
        assert message.startswith(f"{path}:") and message.endswith("(fetch it again)")


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_a_damaged_bit_is_an_error_or_does_no_harm(tmp_path, suffix):
    files = [(f"images/{i}.jpg", NOISE[i * 1000 : i * 1000 + 900]) for i in range(3)]
    path = tmp_path / f"x.{suffix}"
    whole = (write_zip(path, *files) if suffix == "zip" else write_tar(path, *files, mode=MODES[suffix])).read_bytes()
    dice = random.Random(suffix)
    for turn in range(40):
        data = bytearray(whole)
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        path.write_bytes(data)
        try:
            unpack([path], tmp_path / f"out{turn}")
        except InputError:
            assert not (tmp_path / f"out{turn}").exists()
            continue
        # A tar has no checksum of its content.
        assert suffix == "tar" or contents(tmp_path / f"out{turn}") == dict(files)
